"""What a law says of runs not made: forecasts that are frozen, models that will be used, costs."""
