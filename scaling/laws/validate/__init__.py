"""Whether a law can be trusted: backtests, other laws, other approaches."""
