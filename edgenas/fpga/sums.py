"""Additions as the accelerator makes them: two words at a time, each in half of the taps."""

from dataclasses import dataclass

import numpy as np

from edgenas.fpga.commands import ADD, OUT, RUN, Fields, X
from edgenas.fpga.layers import Rows
from edgenas.fpga.reference import LEAST, MOST, Requantizer, requantized
from edgenas.fpga.shape import Shape


@dataclass(frozen=True)
class Sum:
    """Of two equal shapes on integers; scales and zero points of both, and of the result.

    Both are multiplied by small integers in the ratio of their scales, which half of ``taps`` hold
    together.
    """

    scale_a: float
    scale_b: float
    scale: float
    zero_a: int
    zero_b: int
    zero: int
    taps: int

    @property
    def geometry(self) -> tuple[object, ...]:
        """All that decides how long it takes, beside its tensors."""
        return (self.taps,)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """int8 (c, h, w) each -> int8."""
        by_a, by_b, requantizer, bias = self._factors()
        sums = a.astype(np.int64) * by_a + b.astype(np.int64) * by_b + bias
        return requantized(sums, [requantizer] * len(a), self.zero)

    def words(self, shape: Shape, tiles: int) -> np.ndarray:
        """(n, lanes) uint8, the same for each of ``tiles``."""
        by_a, by_b, requantizer, bias = self._factors()
        half = self.taps // 2
        column = [(factor + i) // half for factor in (by_a, by_b) for i in range(half)]
        weights = np.repeat(np.array(column, np.int8)[:, None], shape.lanes, 1).view(np.uint8)
        parameters = np.full(shape.lanes, requantizer.word(bias), np.uint64)
        bytes_ = parameters.view(np.uint8).reshape(-1, shape.lanes)
        return np.tile(np.concatenate([weights, bytes_]), (tiles, 1))

    def job(
        self, rows: range, held: Rows, second: int, out: int, tiles: int, weights: int
    ) -> Fields:
        """``rows`` of ``held`` in X and those from ``second`` on in Y, to ``out`` in O."""
        n = held.size
        fields = held.fields(rows.start, 1)
        return {
            "mode": ADD, "source": X, "target": OUT, "first": 1, "last": 1, "tiles": tiles,
            "inputs": 1, "kx": 1, "ky": 1, "rows": len(rows), "issues": n,
            "x_step": 1, "y_step": 1, "y_start": rows.start, "height": n, "width": n, **fields,
            "second": (second - fields["row_start"]) % (1 << RUN["second"]), "warmup": 1,
            "every": 1,
            "out_start": out, "out_plane": n, "out_pitch": tiles * n, "weights": weights,
            "zero": self.zero, "low": LEAST, "high": MOST,
        }  # fmt: skip

    def _factors(self) -> tuple[int, int, Requantizer, int]:
        unit = max(self.scale_a, self.scale_b) / (127 * (self.taps // 2))
        by_a, by_b = round(self.scale_a / unit), round(self.scale_b / unit)
        bias = -(self.zero_a * by_a + self.zero_b * by_b)
        return by_a, by_b, Requantizer.of(unit / self.scale), bias
