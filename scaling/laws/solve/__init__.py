"""From a law and a table to the parameters that fit best."""
