"""The index's schema, version by version, for Alembic. Versions only go up: what is derived can be made anew."""
