"""A verdict and a plan as text for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import disk_usage
from typing import Any

from edgenas.files import read_json
from edgenas.pipeline.cost import Cost, Work

ODD = 0.15  # off by more, a table is of another speed than the device has now


def announced(plan: Sequence[Cost], root: Path) -> Iterator[str]:
    """What is about to happen and how long it takes."""
    todo = [c for c in plan if not c.unchanged]
    total = sum(c.seconds for c in todo)
    if not todo:
        yield f"{root}: every stage is whole and unchanged"
        return
    yield f"{root}: about {_minutes(total)}, measured on a few training steps just now"
    for c in plan:
        cost = f"{_minutes(c.seconds):<10}{_size(c.disk_bytes)} on the disk"
        yield f"  {c.stage:<9}{'unchanged' if c.unchanged else cost}{_work(c.work)}"
    near = next(p for p in (root, *root.absolute().parents) if p.is_dir())
    need = sum(c.disk_bytes for c in todo)
    yield f"  about {_size(need)} in all on the disk, where {_size(disk_usage(near).free)} are free"
    memory = max((c.memory_bytes or 0 for c in todo), default=0)
    if memory:
        yield f"  about {_size(memory)} of memory in training; what later stages take is not known"


def _work(work: Work | None) -> str:
    if work is None:
        return ""
    return (
        f", {work.steps:,} steps of {work.batch} of {work.images:,} images, {work.classes} classes "
        f"at {work.resolution} px"
    )


def summary(verdict: Mapping[str, Any], root: Path) -> str:
    """Candidates, gates and files, one line each; of a front, those of every network."""
    if "networks" in verdict:
        parts = [
            f"{name}\n{summary(read_json(root / n['verdict']), (root / n['verdict']).parent)}"
            for name, n in verdict["networks"].items()
        ]
        return "\n\n".join([*parts, str(root / "report.html")])
    lines = [
        f"{'file':<34}{'p50 ms':>10}{'p90 ms':>10}{'accuracy':>10}{'same top-1':>12}{'kB':>8}  "
    ]
    for c in verdict["candidates"]:
        t, size = c["latency"], c["size_bytes"] / 1000
        lines.append(
            f"{Path(c['file']).name:<34}{t['p50_ms']:>10.4f}{t['p90_ms']:>10.4f}"
            f"{c['accuracy']:>10.2%}{c['agreement']:>12.2%}{size:>8.0f}  {c['why']}"
        )
    if "test" in verdict:
        images = verdict["task"]["parts"]["test"]["images"]
        lines.append(f"accuracy is of {images} test images, {verdict['test']}")
    lines.append("")
    width = 2 + max(len(g["name"]) for g in verdict["gates"])
    for g in verdict["gates"]:
        mark = "met   " if g["met"] else "NOT MET"
        remark = g.get("grade") or g.get("worst")
        said = f"  ({remark})" if remark else ""
        lines.append(f"{mark:<8}{g['name']:<{width}}{_value(g)}{said}")
    lines += [
        f"note    {device}: {found['said']}; all are in verdict.json: layer_errors"
        for device, found in verdict.get("layer_errors", {}).items()
    ]
    lines += [f"note    {line}" for line in verdict.get("notes", ())]
    lines += _test_part(verdict)
    lines += _not_measured(verdict["candidates"])
    lines += _dear_repairs(verdict["candidates"])
    lines += _odd_tables(verdict["candidates"])
    lines.append("")
    for d in verdict["delivered"].values():
        lines += _handed_over(d, root)
    lines.append(f"{root / 'report.html'}")
    return "\n".join(lines)


def _test_part(verdict: Mapping[str, Any]) -> Iterator[str]:
    if verdict.get("test") == "seen by the weights":
        yield (
            "note    the test images were seen by the weights (train.data_seen): on others the "
            "network gets fewer right"
        )


def _handed_over(file: Mapping[str, Any], root: Path) -> Iterator[str]:
    """The best file there is; where it misses a gate, which, and what to do next."""
    said = f"{root / file['file']}  {file['variant']}, {file['precision']}, for {file['device']}"
    if file.get("met", True):
        yield said
        return
    yield f"{said}: NOT MET {', '.join(file['missed'])}"
    yield from (f"next    {step}" for step in file["next"])


def _not_measured(candidates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for device, how in sorted({(c["device"], c["latency"]["provenance"]) for c in candidates}):
        if how != "measured":
            yield f"note    {device}: its times are {how}, not measured"


def _dear_repairs(candidates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was cut to keep a budget may lose more than pruning otherwise may."""
    found = {c["format"]: c["accuracy"] for c in candidates if c["variant"] == "found"}
    for c in candidates:
        lost = found.get(c["format"], 0.0) - c["accuracy"]
        if c["delivered"] and c["variant"].startswith("repaired") and lost > 0:
            yield (
                f"note    {c['variant']} on {c['device']} is {100 * lost:.3g} points below found: "
                "that is what the budget costs. Allow more time, fine-tune for longer "
                "(prune.epochs), or set gates.accuracy to refuse it"
            )


def _odd_tables(candidates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for c in candidates:
        ms, predicted_ms = c["latency"]["p50_ms"], c["predicted_p50_ms"]
        if c["delivered"] and predicted_ms and abs(ms / predicted_ms - 1) > ODD:
            device, then = c["device"], "slower" if ms < predicted_ms else "faster"
            yield (
                f"note    {device} took {ms / predicted_ms:.2f} of what its table says: it was "
                f"{then} when that was measured. Before another search: edgenas profile {device} "
                "--fresh"
            )


def _value(gate: Mapping[str, Any]) -> str:
    value, limit = gate["value"], gate["limit"]
    match gate["unit"]:
        case "ms":
            return f"{value:.4f} {gate['comparison']} {limit:.4f} ms"
        case "fraction":
            return f"{value:.2%} {gate['comparison']} {limit:.2%}"
    return f"{value} {gate['comparison']} {limit} {gate['unit']}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _size(count: float) -> str:
    """Bytes as a person reads them."""
    power = 1 + sum(count >= limit for limit in (1e6, 1e9))
    return f"{count / 1000**power:.3g} {('kB', 'MB', 'GB')[power - 1]}"
