"""Figures as plain values, of a sweep and of a fitted law, and their drawing by matplotlib and by plotly."""
