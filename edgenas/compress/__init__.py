"""Smaller and faster without a new architecture: prune, quantize, repair."""
