"""Registers in a row."""

from amaranth.hdl import Module, Signal, Value


def register(m: Module, value: Value, name: str) -> Signal:
    """``value``, a cycle later."""
    later = Signal(value.shape(), name=name, reset_less=True)
    m.d.sync += later.eq(value)
    return later


def delayed(m: Module, value: Signal, cycles: int, name: str) -> list[Signal]:
    """``value`` now, a cycle later, and so on."""
    steps = [value]
    for i in range(cycles):
        steps.append(register(m, steps[-1], f"{name}_{i + 1}"))
    return steps
