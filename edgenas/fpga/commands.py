"""What the two engines of the accelerator are told, bit for bit."""

from collections.abc import Mapping

Fields = dict[str, int]

DENSE, DEPTHWISE, ADD = range(3)
X, Y, Z, OUT = range(4)  # buffers
LOAD, STORE, HALT = range(3)
WEIGHTS, RUNS, MOVES, TABLE = 1, 2, 3, 4  # what is loaded, beside X = 0

COUNT = 16  # bits of the counters that the engines wait for
FIRST_AFTER = 2  # moves until the first jobs are there: that of the mover's own ring, and theirs

# Width of each field, in the order of their bits; a leading - is a signed one.
RUN: Mapping[str, int] = {
    "mode": 2, "source": 2, "target": 2, "first": 1, "last": 1, "table": 1,
    "tiles": 8, "inputs": 9, "kx": 4, "ky": 4,
    "rows": 10, "issues": 11, "x_step": 3, "y_step": 3, "x_start": -12, "y_start": -12,
    "height": 11, "width": 11, "row_step": 14, "pitch": 14, "plane": 14,
    "row_start": 14, "ring_end": 15, "ring": 14, "second": 14,
    "warmup": 4, "every": 3,
    "out_start": 14, "out_pitch": 14, "out_plane": 14,
    "weights": 14, "sums": 12, "sums_step": 12,
    "padding": -8, "zero": -9, "low": -8, "high": -8,
    "after_moves": COUNT, "next_after": COUNT, "final": 1,
}  # fmt: skip
MOVE: Mapping[str, int] = {
    "kind": 2, "buffer": 3, "dram": 24, "dram_step": 20, "start": 14, "step": 14,
    "words": 14, "repeats": 10, "after_runs": COUNT,
}  # fmt: skip


COUNTED = ("after_moves", "next_after", "after_runs")  # compared as differences, so they may wrap


def bits(fields: Mapping[str, int]) -> int:
    """Of a command."""
    return sum(map(abs, fields.values()))


def command_words(fields: Mapping[str, int], word_bits: int) -> int:
    """Words of a command."""
    return -(-bits(fields) // word_bits)


def encode(fields: Mapping[str, int], values: Mapping[str, int]) -> int:
    """A command as one number, first field lowest. Raises ValueError for what does not fit."""
    if unknown := values.keys() - fields.keys():
        raise ValueError(f"no such fields: {sorted(unknown)}")
    word, at = 0, 0
    for name, width in fields.items():
        value, n = int(values.get(name, 0)), abs(width)
        if name in COUNTED:
            value %= 1 << n
        least, most = (-(1 << n - 1), (1 << n - 1) - 1) if width < 0 else (0, (1 << n) - 1)
        if not least <= value <= most:
            raise ValueError(f"{name} = {value} does not fit {n} bits")
        word |= (value & ((1 << n) - 1)) << at
        at += n
    return word
