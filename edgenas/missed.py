"""What to do about a gate that the best file there is does not meet."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NEXT: Mapping[str, str] = {
    "latency": "allow more time (targets: latency), or let more be cut (repairs, prune.epochs)",
    "accuracy": "train for longer (train.epochs, prune.epochs, quantize.epochs), allow more time, "
    "or ask for less (gates.accuracy, gates.drop)",
    "worst-class": "look at the images of that class, or allow it more (gates.class_drop)",
    "parity": "train in int8 or leave layers in float (quantize.epochs, quantize.mixed), take "
    "precision: fp32, or allow more (gates.agreement, gates.difference)",
    "int8": "take precision: auto, which delivers float where integers do not run",
    "size": "ask the search for less (budgets.size), take int8-static, or allow more (gates.size)",
    "memory": "bound the search (budgets.activations), take images of a lower resolution or "
    "int8-static, or allow more (gates.memory)",
    "same": "do not rely on it there: the two devices compute different things from one file",
}


def outcome(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether a file meets all its ``checks``, as in verdict.json: gates; else which not, and what
    to do next about each.
    """
    missed = [g["name"] for g in checks if not g["met"]]
    return {"met": not missed, "missed": missed, "next": list(steps(missed).values())}


def steps(missed: Iterable[str]) -> dict[str, str]:
    """Kind of gate -> what to do next about it, of gates by name; of a kind not known, nothing."""
    kinds = dict.fromkeys(map(_kind, missed))
    return {kind: _NEXT[kind] for kind in kinds if kind in _NEXT}


def _kind(name: str) -> str:
    kind, *more = name.split(":")
    return "worst-class" if "worst-class" in more else kind
