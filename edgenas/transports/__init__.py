"""Shelf: one file a way to reach a board."""
