"""Shelf: one file a runtime: what executes an artifact and how it is timed."""
