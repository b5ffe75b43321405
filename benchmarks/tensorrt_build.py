"""Files of the exporter ``tensorrt`` as engines, built where no GPU is; nothing is executed.

    python benchmarks/tensorrt_build.py [--work runs/tensorrt]

TensorRT's own libraries cannot be installed without its vendor's index; its relative TensorRT-RTX
can, and builds an engine for a GPU that is not there: here one of compute capability 8.6. For
networks of ``mobile``, with gates and hard-swish too, and a ResNet-18, in fp32 and int8: whether
the file is parsed and an engine built of it. Writes benchmarks/results/tensorrt_build.json.
"""

import argparse
import json
import random
import subprocess
import venv
from pathlib import Path
from typing import Any

import brought
import torch
from results_file import write_results

from edgenas.export import exporter_for
from edgenas.graph import calibrate, trace
from edgenas.space import load_space
from edgenas.train import seeded

PACKAGE = "tensorrt-rtx==1.7.1.116"
BUILD = """
import json, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
out = {"parsed": parser.parse_from_file(sys.argv[1]), "built": False}
out["errors"] = [str(parser.get_error(i)) for i in range(parser.num_errors)]
if out["parsed"]:
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    entry = network.get_input(0)
    shape = [1 if d < 0 else d for d in entry.shape]
    profile.set_shape(entry.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    out["built"] = plan is not None
    out["engine_bytes"] = plan.nbytes if plan is not None else 0
print(json.dumps(out))
"""
SPACES = {
    "mobile proxyless": {"kind": "mobile", "preset": "proxyless"},
    "mobile mobile-v3": {"kind": "mobile", "preset": "mobile-v3"},
    "mobile tiny": {"kind": "mobile", "preset": "tiny"},
}


def networks() -> dict[str, tuple[torch.nn.Module, tuple[int, int, int]]]:
    """With what they take."""
    found: dict[str, tuple[torch.nn.Module, tuple[int, int, int]]] = {}
    with seeded(0):
        for name, settings in SPACES.items():
            space = load_space(settings)
            arch = space.sample(random.Random(0))
            found[name] = space.build(arch).eval(), space.input_of(arch)
        found["resnet18"] = brought.resnet18().eval(), (3, 224, 224)
    return found


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/tensorrt"))
    work: Path = parser.parse_args().work
    python = work / "env" / "bin" / "python"
    if not python.exists():
        venv.create(work / "env", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
    rows: list[dict[str, Any]] = []
    exporter = exporter_for("tensorrt")
    for name, (net, shape) in networks().items():
        graph = trace(net, shape)
        x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
        for made in (graph, calibrate(graph, [x])):
            path = work / f"{name.replace(' ', '-')}.{made.precision}.tensorrt"
            exporter.network(made, path, {})
            done = subprocess.run(
                [python, "-c", BUILD, path],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=True,
            )
            row = {"network": name, "precision": made.precision, **json.loads(done.stdout)}
            said = [line for line in done.stderr.splitlines() if line.strip()]
            rows.append({**row, "file_bytes": path.stat().st_size, "said": said[-3:]})
            print(name, made.precision, {k: row.get(k) for k in ("parsed", "built", "errors")})
    print(write_results("tensorrt_build", package=PACKAGE, capability="8.6", rows=rows))


if __name__ == "__main__":
    main()
