"""Trust nothing, recompute everything: with the code of floor 1 and readers of public data only."""
