"""An int8 accelerator for FPGAs: its RTL, what compiles networks for it, and its simulation."""
