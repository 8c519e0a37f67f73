"""Fits and predictions as plain dictionaries for machines and aligned text for people."""
