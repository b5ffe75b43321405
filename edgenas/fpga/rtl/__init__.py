"""The accelerator's hardware, in Amaranth; ``machine`` is the whole."""
