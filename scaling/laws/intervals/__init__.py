"""How far a fit could have come out otherwise."""
