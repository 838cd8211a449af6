"""Training: makes the weights that `ttmpref` uses. Run `python -m training --help`."""
