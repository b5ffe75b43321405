"""The user's own images from the user's own code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgenas import called
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
        function = called.function(self.call, "call")
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
