"""Everything edgenas raises on purpose; the CLI prints the message and exits with ``exit_code``.

* EdgenasError (1)
  * UsageError (2)           bad input: config key, unit, file, name; says what would be right
    * UnknownName            no such device, space, method, runtime ... on the shelf
    * CapabilityError        a method, exporter or device lacks what is asked of it
    * CorruptFile            a table, architecture, checkpoint or journal that cannot be read
    * MissingLatency         the table has no row for an operator (never guessed, never zero)
    * ForeignTable           the table was measured on another device, runtime, precision or space
    * InvalidArchitecture    picks outside the space
    * DataError              images or labels that cannot be used
  * GateNotMet (3)           budget, accuracy or parity was not met
    * ImpossibleBudget       no network of the space fits
  * DeviceError (4)          the device could not be reached, or its runner failed
  * UnstableMeasurement (5)  timings too noisy to trust
  * TrainingDiverged (1)     the loss became NaN or infinite, or nothing was learnt
  * LedgerMismatch (1)       a resumed run would not repeat what was recorded
"""

from typing import ClassVar


class EdgenasError(Exception):
    """Base class; catch this to catch all of them."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgenasError):
    """Bad input."""

    exit_code = 2


class UnknownName(UsageError):
    """No such name on a shelf."""


class CapabilityError(UsageError):
    """Something was asked for that this part cannot do."""


class CorruptFile(UsageError):
    """A file that cannot be read as what it should be."""


class MissingLatency(UsageError):
    """A latency table has no row for an operator."""


class ForeignTable(UsageError):
    """A latency table that was not measured for what it is asked for."""


class InvalidArchitecture(UsageError):
    """Picks that the space does not contain."""


class DataError(UsageError):
    """Images or labels that cannot be used."""


class GateNotMet(EdgenasError):
    """Budget, accuracy or parity was not met."""

    exit_code = 3


class ImpossibleBudget(GateNotMet):
    """No network of the space fits the budget."""


class DeviceError(EdgenasError):
    """A device could not be reached, or its runner failed."""

    exit_code = 4


class UnstableMeasurement(EdgenasError):
    """Timings too noisy to trust."""

    exit_code = 5


class TrainingDiverged(EdgenasError):
    """The loss became NaN or infinite, or nothing was learnt."""


class LedgerMismatch(EdgenasError):
    """Replaying the ledger gave a different proposal from the recorded one."""
