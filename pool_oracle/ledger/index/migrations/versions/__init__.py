"""One module for each version of the index's schema, complete in itself: `schema.py` may go on, these do not change."""
