"""What lies on top of a run: the files that it delivers now, their verdict, and a manifest."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgenas.artifact import sha256
from edgenas.files import aside, inside, read_json, write_json
from edgenas.pipeline.context import Context
from edgenas.pipeline.made import is_made, models_on_top
from edgenas.rundir import NETWORKS, RunDir

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "torch-pruning", "scipy")


def deliver(
    ctx: Context, verdict: Mapping[str, Any], whole: Iterable[str], networks: Sequence[str]
) -> None:
    """Put the files of ``verdict`` on top of the run; nothing of another verdict stays there.

    ``{}``: there is none, and nothing is delivered. ``whole``: the stages that the manifest names.
    ``networks``: of a front, those that it asks for now.
    """
    root = ctx.root
    for former in sorted((root / NETWORKS).glob("*")):
        if former.name not in networks and RunDir(former).is_ours:
            withdraw(former)
    files = [d["file"] for d in verdict.get("delivered", {}).values()]
    for file in files:
        made = inside(root / "verify", file, root / "verify" / "verdict.json")
        with aside(root / made.name) as temporary:
            shutil.copyfile(made, temporary)
    _remove(root, models_on_top() - set(files))
    outputs = {str(n): sha256(root / n) for n in _outputs(root, whole, files)}
    if verdict:
        write_json(root / "verdict.json", verdict)
        outputs["verdict.json"] = sha256(root / "verdict.json")
    else:
        _remove_pages(root)
    for network in verdict.get("networks", ()):
        made = read_json(root / NETWORKS / network / "manifest.json")["outputs"]
        outputs |= {f"{NETWORKS}/{network}/{name}": digest for name, digest in made.items()}
    write_json(
        root / "manifest.json",
        {
            "edgenas": version("edgenas"),
            "versions": {name: version(name) for name in PACKAGES},
            "seed": ctx.config.seed,
            "inputs": {"task": ctx.task.describe()},
            "outputs": dict(sorted(outputs.items())),
        },
    )


def withdraw(root: Path) -> None:
    """Take from the top of a run what it delivered: it is of stages that are made anew."""
    _remove(root, models_on_top())
    _remove_pages(root)
    _remove(root, ["manifest.json"])  # last: it tells which models are ours


def _remove_pages(root: Path) -> None:
    if (root / "verdict.json").exists():  # without one, the report is of what there is
        _remove(root, ["verdict.json", "report.html"])


def _remove(root: Path, names: Iterable[str]) -> None:
    for path in (root / name for name in names):
        if is_made(path):
            path.unlink()


def _outputs(root: Path, whole: Iterable[str], files: Iterable[str]) -> Iterator[str]:
    yield "config.yaml"
    yield from files
    for stage in whole:
        yield f"{stage}/stage.json"
        yield from (f"{stage}/{name}" for name in RunDir(root).outputs(stage))
