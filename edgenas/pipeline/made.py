"""Which files on top of a run are as edgenas put them there: only these are replaced or removed."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgenas.artifact import sha256
from edgenas.errors import UsageError
from edgenas.export import EXPORTERS
from edgenas.files import read_json
from edgenas.report import is_report

_KEYS = {"verdict.json": {"met", "gates"}, "manifest.json": {"edgenas", "outputs"}}


def require_made(root: Path, formats: Collection[str]) -> None:
    """Raise UsageError for what somebody else put, or changed, where this run writes or removes.

    ``formats``: those that it may deliver.
    """
    told = _outputs(root / "manifest.json")
    models = {f"model.{fmt}" for fmt in formats} | (models_on_top() & told.keys())
    for path in (root / name for name in (*sorted(models), *_KEYS, "report.html")):
        if path.exists() and not is_made(path):
            raise UsageError(
                f"{path} was not made by edgenas, or was changed since, and is where this run "
                "keeps a file of its own: move it elsewhere"
            )


def models_on_top() -> set[str]:
    """What a delivered file may be called."""
    return {f"model.{fmt}" for fmt in EXPORTERS}


def is_made(path: Path) -> bool:
    """Whether a file on top of a run is as edgenas wrote it; of other than models, of its form."""
    if not path.is_file():
        return False
    if path.name == "report.html":
        return is_report(path)
    if path.name in _KEYS:
        return _KEYS[path.name] <= _object(path).keys()
    # The one that was delivered, and the one that is, where a kill kept the manifest from saying so
    records = ("manifest.json", "verify/stage.json")
    return sha256(path) in {_outputs(path.parent / name).get(path.name) for name in records}


def _outputs(record: Path) -> Mapping[str, Any]:
    outputs = _object(record).get("outputs")
    return outputs if isinstance(outputs, dict) else {}


def _object(path: Path) -> dict[Any, Any]:
    """A JSON object; empty where there is none."""
    try:
        value = read_json(path)
    except UsageError:
        return {}
    return value if isinstance(value, dict) else {}
