"""ONNX files whose activations are float32, and whose weights are held in less."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from edgenas.graph import Conv, Held, Linear
from edgenas.onnx_writer import FloatWriter, Writer
from edgenas.quantization import by_channel, half

_MIDDLE = 128  # a uint8 of zero: ONNX Runtime's integer convolution takes no int8 weights


class _Half(FloatWriter):
    """float16, made float32 again once a file is loaded."""

    def weights(self, node: Conv | Linear) -> list[str]:
        name = f"{node.name}/weight"
        held = self.constant(f"{name}/half", half(node))
        weight = self.op("Cast", [held], name, to=TensorProto.FLOAT)
        return [weight, self.constant(f"{node.name}/bias", node.bias)]


class _Bytes(FloatWriter):
    """int8 of one scale an output channel, made float32 again."""

    def weights(self, node: Conv | Linear) -> list[str]:
        name, (q, scales) = f"{node.name}/weight", by_channel(node.weight)
        inputs = [
            self.constant(f"{name}/q", q),
            self.constant(f"{name}/scale", scales),
            self.constant(f"{name}/zero_point", np.zeros(len(q), np.int8)),
        ]
        weight = self.op("DequantizeLinear", inputs, name, axis=0)
        return [weight, self.constant(f"{node.name}/bias", node.bias)]


class _Dynamic(FloatWriter):
    """Products of integers: of weights, and of activations by the range that they have in a call.

    What follows a product is float32 again.
    """

    def __init__(self, batch: int | str) -> None:
        super().__init__(batch)
        self.rounded: dict[str, tuple[str, str, str]] = {}  # of a tensor: integers, scale, zero

    def product(self, n: Conv | Linear) -> str:
        q, scale, zero = self._rounded(self.read(n.inputs[0], n))
        w, scales = by_channel(n.weight)
        unsigned = (w.astype(np.int16) + _MIDDLE).astype(np.uint8)
        middle = self.constant(f"{n.name}/middle", np.uint8(_MIDDLE))
        kind, attributes = "MatMulInteger", dict[str, Any]()
        sides: tuple[int, ...] = ()
        if isinstance(n, Conv):
            kind, attributes, sides = "ConvInteger", self.window(n), (1, 1)
        else:  # ONNX multiplies by (in, out)
            unsigned = unsigned.T.copy()
        weight = self.constant(f"{n.name}/weight", unsigned)
        y = self.op(kind, [q, weight, zero, middle], f"{n.name}/product", **attributes)
        y = self.op("Cast", [y], f"{n.name}/real", to=TensorProto.FLOAT)
        by = self.constant(f"{n.name}/scales", scales.reshape(-1, *sides))
        by = self.op("Mul", [scale, by], f"{n.name}/scale")
        bias = self.constant(f"{n.name}/bias", n.bias.reshape(-1, *sides))
        return self.op("Add", [self.op("Mul", [y, by], f"{n.name}/scaled"), bias], f"{n.name}/sum")

    def _rounded(self, x: str) -> tuple[str, str, str]:
        if x not in self.rounded:
            names = f"{x}/q", f"{x}/q/scale", f"{x}/q/zero_point"
            self.op("DynamicQuantizeLinear", [x], names[0])
            self.nodes[-1].output.extend(names[1:])
            self.rounded[x] = names
        return self.rounded[x]


WRITERS: Mapping[Held, Callable[[int | str], Writer]] = {
    "fp32": FloatWriter, "fp16": _Half, "int8-weights": _Bytes, "int8-dynamic": _Dynamic,
}  # fmt: skip
