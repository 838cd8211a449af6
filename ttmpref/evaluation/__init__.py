"""How good a chain is: clips of held-out captions heard, summed up, compared, put into tables."""
