"""The best size at each budget, read from the runs themselves, and how it grows."""
