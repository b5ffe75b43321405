"""Shelf: one file a search method; wiring only."""
