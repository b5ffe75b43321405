"""Registers in a row."""

from amaranth.hdl import ClockSignal, Const, Instance, Module, Signal, Value


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


def copied(m: Module, value: Value, name: str) -> Signal:
    """As ``register``, of the ECP5's own: synthesis makes one of equal ones, and a long wire."""
    later = Signal(len(value), name=name)
    for i in range(len(value)):
        m.submodules[f"{name}_{i}"] = Instance(
            "TRELLIS_FF", p_GSR="DISABLED", p_CEMUX="1", p_CLKMUX="CLK", p_LSRMUX="LSR",
            p_REGSET="RESET", p_SRMODE="LSR_OVER_CE", i_CLK=ClockSignal(), i_LSR=Const(0),
            i_DI=value[i], o_Q=later[i],
        )  # fmt: skip
    return later
