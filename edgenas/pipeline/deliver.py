"""What lies on top of a run: the files that it delivers now, their verdict, and a manifest."""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgenas.artifact import sha256
from edgenas.errors import UsageError
from edgenas.export import EXPORTERS
from edgenas.files import aside, inside, read_json, write_json
from edgenas.pipeline.context import Context
from edgenas.rundir import NETWORKS, RunDir

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert", "torch-pruning", "scipy")
_MODEL = re.compile(r"model\.([\w-]+)")


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
    for name in set(_delivered(root)) - set(files):
        (root / name).unlink(missing_ok=True)
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
    for name in _delivered(root):
        (root / name).unlink(missing_ok=True)
    _remove_pages(root)
    (root / "manifest.json").unlink(missing_ok=True)


def _remove_pages(root: Path) -> None:
    if (root / "verdict.json").exists():
        for name in ("verdict.json", "report.html"):
            (root / name).unlink(missing_ok=True)


def _delivered(root: Path) -> Iterator[str]:
    """Models on top that its verdict or manifest names: no file that somebody else put there."""
    for name, key in (("verdict.json", "delivered"), ("manifest.json", "outputs")):
        try:
            named = read_json(root / name)[key]
        except (UsageError, LookupError, TypeError):
            continue
        files = (d["file"] for d in named.values()) if key == "delivered" else iter(named)
        for file in map(str, files):
            model = _MODEL.fullmatch(file)
            if model and model[1] in list(EXPORTERS):
                yield file


def _outputs(root: Path, whole: Iterable[str], files: Iterable[str]) -> Iterator[str]:
    yield "config.yaml"
    yield from files
    for stage in whole:
        yield f"{stage}/stage.json"
        yield from (f"{stage}/{name}" for name in RunDir(root).outputs(stage))
