"""A network of a file, with its program for an accelerator."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenas.errors import DeviceError
from edgenas.fpga.compile import Compiled, Compiler
from edgenas.fpga.lower import Step, steps, values
from edgenas.fpga.network import INPUT, Network


@dataclass(frozen=True, eq=False)
class Model:
    """Images are float32 (c, h, w); what the accelerator gets and gives is int8."""

    network: Network
    found: list[Step]
    program: Compiled

    @classmethod
    def load(cls, path: Path, compiler: Compiler) -> "Model":
        """Of a ``.fpga`` file. Raises CorruptFile, or CapabilityError for what has no room."""
        network, _ = Network.load(path)
        found = steps(network, compiler.shape)
        channels, size, _ = network.input
        return cls(network, found, compiler.program(found, INPUT, channels, size))

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """An image as int8."""
        scale = self.network.scales[INPUT]
        q: np.ndarray = np.clip(np.rint(x / scale.scale) + scale.zero, -128, 127)
        return q.astype(np.int8)

    def given(self, x: np.ndarray) -> np.ndarray:
        """DRAM (words, lanes) uint8 with the program, and ``x`` int8 as its input."""
        return self.program.given(INPUT, x)

    def answered(self, x: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The answer to ``x``, out of what DRAM holds ``after`` the program.

        Raises DeviceError where that of the reference is another.
        """
        last = self.found[-1].name
        y, want = self.program.taken(last, after), values(self.found, x)[last]
        if wrong := int((y != want).sum()):
            raise DeviceError(f"{wrong} of {y.size} outputs are not those of the reference")
        return y

    def real(self, y: np.ndarray) -> np.ndarray:
        """An answer as float32, in the network's own shape."""
        op = self.network.ops[-1]
        scale = self.network.scales[op.name]
        z: np.ndarray = (y.astype(np.float32) - scale.zero) * np.float32(scale.scale)
        return z.reshape(op.shape)
