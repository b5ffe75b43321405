"""The config that comes with edgenas, to begin with: ``edgenas init``."""

from pathlib import Path

from edgenas.errors import UsageError

_PACKAGE = Path(__file__).parent
_PLACES = (_PACKAGE / "_data" / "demo.yaml", _PACKAGE.parent / "docs" / "demo.yaml")


def write_example(path: Path) -> None:
    """Write it to ``path``. Raises UsageError where something is there."""
    text = next(p for p in _PLACES if p.is_file()).read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there and stays as it is; name another file") from None
