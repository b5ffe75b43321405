"""The runner for boards without Python: one static program around ncnn, built once on the host.

``runner.cpp`` is ours; ``edgenas.build_runner`` compiles it with ncnn's source of ``VERSION``.
"""

import hashlib
from pathlib import Path

from edgenas.files import cache_folder

VERSION = "1.0.20261020"
SOURCES = ("runner.cpp", "CMakeLists.txt")
LAYERS = (
    "binaryop", "cast", "clip", "convolution", "convolutiondepthwise", "flatten", "hardswish",
    "innerproduct", "input", "packing", "padding", "pooling", "relu", "split",
)  # fmt: skip
# What a float network on one core needs none of; each costs time to compile and bytes to push.
OFF = (
    "OPENMP", "VULKAN", "BUILD_TOOLS", "BUILD_EXAMPLES", "BUILD_BENCHMARK", "BUILD_TESTS", "PIXEL",
    "INT8", "WEIGHT_QUANT", "BF16", "C_API", "INSTALL_SDK", "ARM82", "ARM82DOT", "ARM82FP16FML",
    "ARM84BF16", "ARM84I8MM", "ARM86SVE", "AVXVNNI", "AVX512VNNI", "AVX512BF16", "AVX512FP16",
    "XOP", "AVXNECONVERT", "AVXVNNIINT8", "AVXVNNIINT16", "F16C", "AVX512", "RUNTIME_CPU",
)  # fmt: skip
CPU = {"aarch64": "generic", "x86_64": "x86_64_v3"}  # what zig compiles for


def source_folder() -> Path:
    """Where ``SOURCES`` are."""
    return Path(__file__).parent


def runner_path(arch: str) -> Path:
    """Where the runner for ``arch`` is once it is built; another name for every other source."""
    digest = hashlib.sha256(repr((VERSION, LAYERS, OFF, CPU)).encode())
    for name in SOURCES:
        digest.update((source_folder() / name).read_bytes())
    return cache_folder() / "runners" / digest.hexdigest()[:16] / f"runner-{arch}"
