"""The index: tables in SQLite or PostgreSQL that answer what the share log would have to be read for.

The log is the truth; the index is made of it, and may be dropped at any time. The same log makes the same rows
everywhere (`Index.digest`).
"""
