"""Arm Ethos-U NPUs, estimated by Arm's compiler Vela (docs/npu.md)."""
