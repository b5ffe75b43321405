"""The user's own images from the user's own code."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from edgenas.blame import located
from edgenas.errors import DataError
from edgenas.images import Raw, from_arrays

__all__ = ["Function"]


@dataclass(frozen=True)
class Function:
    """``call``: ``module:function`` or ``path/to/file.py:function``; it gets ``arguments``."""

    call: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Raw:
        """Arrays or tensors by name, as in ``images.from_arrays``. Raises DataError."""
        where, _, name = self.call.rpartition(":")
        if not where or not name:
            raise DataError(f"call {self.call!r}: write it as module:function or file.py:function")
        function = getattr(self._module(where), name, None)
        if not callable(function):
            raise DataError(f"{where} has no function {name!r}")
        try:
            result = function(**self.arguments)
        except (Exception, SystemExit) as e:  # the user's code may raise anything
            raise DataError(f"{self.call} raised {located(e)}") from e
        if not isinstance(result, Mapping):
            raise DataError(
                f"{self.call} returned {type(result).__name__}; expected a mapping with x_train, "
                "y_train and, if there are, x_val, y_val, x_test, y_test, classes"
            )
        return from_arrays(result, self.call)

    def _module(self, where: str) -> ModuleType:
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
