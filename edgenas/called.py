"""The user's own function, named in a config as ``module:function`` or ``file.py:function``."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from edgenas.blame import located
from edgenas.errors import DataError


def function(call: str, key: str) -> Callable[..., Any]:
    """What ``call`` names; ``key``: of the config, for messages. Raises DataError."""
    where, _, name = call.rpartition(":")
    if not where or not name:
        raise DataError(f"{key} {call!r}: write it as module:function or file.py:function")
    found = getattr(_module(where), name, None)
    if not callable(found):
        raise DataError(f"{where} has no function {name!r}")
    made: Callable[..., Any] = found
    return made


def _module(where: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where).expanduser()
        spec = importlib.util.spec_from_file_location(str(path.resolve()), path)
        if spec is None or spec.loader is None or not path.is_file():
            raise DataError(f"there is no {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses of the file look themselves up there
        spec.loader.exec_module(module)
    except DataError:
        raise
    except (Exception, SystemExit) as e:  # importing runs the user's code
        raise DataError(
            f"{where} cannot be imported: {located(e)}. "
            "A file outside the Python path is named as path/to/file.py:function"
        ) from e
    return module
