"""Closing epochs, publishing their bundles, committing their roots, registering the rewards."""
