"""Shelf: one file a file format that devices run."""
