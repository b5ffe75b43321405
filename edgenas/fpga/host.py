"""The host of a board (rtl/board.py): keeps its DRAM, and gives and takes its words."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from edgenas.errors import CapabilityError, DeviceError
from edgenas.fpga.link import ENDED, READ, START, WRITE
from edgenas.fpga.simulator import Counted

Receive = Callable[[], bytes]
Send = Callable[[bytes], object]
_HEAD, _COUNTERS = 4, 4  # bytes of what is asked for, and numbers that come at the end
_PATIENCE_S = 5


@contextmanager
def opened(port: str, baud: int) -> Iterator[tuple[Receive, Send]]:
    """A serial port. Raises DeviceError, or CapabilityError without pyserial."""
    if importlib.util.find_spec("serial") is None:
        raise CapabilityError(
            f"pyserial is not installed: {sys.executable} -m pip install 'edgenas[fpga]'"
        )
    from serial import Serial, SerialException

    try:
        with Serial(port, baud, timeout=_PATIENCE_S, write_timeout=_PATIENCE_S) as wire:
            yield lambda: wire.read(max(1, wire.in_waiting)), wire.write
    except SerialException as e:
        why = os.strerror(e.errno) if e.errno else str(e)
        raise DeviceError(f"{port}: {why}; is the board connected, and may you open it?") from e


def serve(receive: Receive, send: Send, image: np.ndarray) -> tuple[np.ndarray, Counted]:
    """Runs the program in ``image`` (words, lanes) uint8; what DRAM holds after it.

    ``receive`` gives what has come, nothing where nothing comes in good time: a DeviceError, as is
    what no board says. Cycles are those of a machine that waits for this wire.
    """
    dram, lanes = image.copy(), image.shape[1]
    heard, read, written = bytearray(), 0, 0
    send(bytes([START]))
    while True:
        at, answer = 0, bytearray()
        while len(heard) - at >= _HEAD:
            kind, address = heard[at], int.from_bytes(heard[at + 1 : at + _HEAD], "little")
            if kind == ENDED:
                break
            more = lanes if kind == WRITE else 0
            if kind not in (READ, WRITE) or address >= len(dram):
                raise DeviceError(
                    f"the board said {bytes(heard[at : at + _HEAD]).hex(' ')}, which is nothing "
                    f"of its {len(dram)} words: is it the bitstream of this shape, and the baud "
                    "rate the same?"
                )
            if len(heard) - at < _HEAD + more:
                break
            if more:
                dram[address] = np.frombuffer(heard, np.uint8, lanes, at + _HEAD)
                written += 1
            else:
                answer += dram[address].tobytes()
                read += 1
            at += _HEAD + more
        del heard[:at]
        if answer:
            send(bytes(answer))
        if heard[:1] == bytes([ENDED]) and len(heard) > 4 * _COUNTERS:
            cycles, running, issued, stalled = np.frombuffer(heard, "<u4", _COUNTERS, 1).tolist()
            return dram, Counted(cycles, running, issued, stalled, read, written)
        if not (come := receive()):
            raise DeviceError(
                f"the board says nothing more after {read} words read and {written} written; load "
                "its bitstream again"
            )
        heard += come
