"""Numbered migrations (Alembic). Each is run once, in a transaction."""
