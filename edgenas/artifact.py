"""A file that a device can run."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def sha256(path: Path) -> str:
    """Hex digest of the bytes at ``path``."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Artifact:
    """Path, format (``onnx``, ``tflite``), precision, input shape (c, h, w), hash of the bytes."""

    path: Path
    format: str
    precision: str
    input: tuple[int, ...]
    sha256: str

    @classmethod
    def of(cls, path: Path, format: str, precision: str, input: tuple[int, ...]) -> "Artifact":
        """Describe the file at ``path``."""
        return cls(path, format, precision, input, sha256(path))

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file really holds, whatever it claims.

    Compute operators are counted as the runtime executes them. ``transposes`` move data only to
    change the layout.
    """

    operators: int
    quantized: int  # of these, with integers in and out
    float_operators: tuple[str, ...]  # names of the others, sorted
    transposes: int
    input_dtype: str
    output_dtype: str
    metadata: Mapping[str, str]

    @property
    def precision(self) -> str:
        """``int8-static``, ``fp32``, or ``mixed``."""
        whole = {self.operators: "int8-static", 0: "fp32"}
        return whole.get(self.quantized, "mixed")
