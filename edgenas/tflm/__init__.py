"""Microcontrollers: int8 files run by TFLM's interpreter, times estimated (docs/mcu.md)."""
