"""Where templates come from and where blocks go. Knows nothing of payees."""
