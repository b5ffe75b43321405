"""Shelf: one file a search space."""
