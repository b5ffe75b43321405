"""Shelf: one file a source of images."""
