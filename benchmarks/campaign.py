"""Kills, full disks and odd files: what edgenas does when its surroundings fail, many times over.

python benchmarks/campaign.py [--folder .cache/campaign] [--kills 100] [--disks 10]
    [--fuzz 1000000] [--seed 0]

Kills: the smallest ``run``, ``profile``, ``compress`` and ``deploy``, on boards whose clock counts
work (tests/steady.py), ended by SIGKILL, SIGTERM or SIGINT at a random moment and started again;
what is left must be, byte for byte, what two undisturbed ones both left. Full disks: the same on a
small file system, which is given more space then. Fuzz: benchmarks/fuzz_readers.py. It goes on
where it stopped: ``state.json`` in its folder holds every row.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from fuzz_readers import READERS, chunk
from results_file import write_results

from edgenas.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
import steady  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
IN_A_ROW = 3  # kills of one work, each after what the one before left
WAIT_S = 10.0  # until what a killed command started must be gone
PAGE, LARGE = 4096, 1 << 30  # bytes
CHUNK = 5000  # cases of fuzz in a row of the state
MARK = "EDGENAS_CAMPAIGN"  # in the environment of all that is started here

CONFIG = """\
task: {dataset: npz, path: data.npz}
space: {kind: mobile, preset: tiny, stem: 8, first: 8, widths: [8], depths: [2], strides: [2],
  head: 16, kernels: [3, 5], expansions: [2, 3]}
targets: [{device: cpu-onnxruntime, latency: "<= 100 ms"}]
search: {method: proxyless, epochs: 2, warmup: 1, samples: 2, batch: 32}
race: {seats: 3}
train: {epochs: 2, batch: 32}
gates: {drop: "100 points", agreement: ">= 1 %", difference: "100 %", class_drop: "100 points"}
measure: {networks: 12, blocks: 2, block_seconds: 0.05}
threads: 1
"""
MODEL = """\
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3),
    )
"""
SMALL = [
    "--set", "train.epochs=1", "--set", "measure.networks=12", "--set", "measure.blocks=2",
    "--set", "measure.block_seconds=0.05", "--set", "gates.drop=100 points",
    "--set", "gates.agreement=>= 1 %", "--set", "gates.class_drop=100 points",
    "--set", "gates.difference=100 %", "--set", "threads=1", "--set", "prune.epochs=1",
]  # fmt: skip
WORKS: Mapping[str, list[str]] = {
    "run": ["run", "mine.yaml"],
    "profile": ["profile", "cpu-onnxruntime", "--config", "mine.yaml", "--networks", "12"],
    "compress": [
        "compress", "model.py:build", "--weights", "w.pt", "--data", "data.npz",
        "--device", "cpu-onnxruntime", "--latency", "100 ms", *SMALL,
    ],
    "deploy": ["deploy", "runs/mine", "--device", "plain", "--to", "there", "--samples", "6"],
}  # fmt: skip
LEFT = {"run": "runs", "profile": "latency_tables", "compress": "runs", "deploy": "there"}


class NoMount(Exception):
    """A small file system cannot be had here."""


@dataclass
class State:
    """``rows`` of each part, in a file that is whole after each of them."""

    path: Path
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> "State":
        """As it was left."""
        return cls(path, read_json(path) if path.exists() else {})

    def add(self, part: str, **row: Any) -> None:
        """One more."""
        self.rows.setdefault(part, []).append(row)
        write_json(self.path, self.rows)
        print(part, len(self.rows[part]), json.dumps(row), flush=True)


# --- works ----------------------------------------------------------------------------------------


def prepared(folder: Path) -> None:
    """What a work takes: images, a config, a network with weights, boards."""
    import torch

    steady.boards(folder)
    (folder / "devices" / "plain.yaml").write_text(
        f"transport: {{kind: local, python: {sys.executable}}}\nruntime: {{kind: onnxruntime}}\n",
        encoding="utf-8",
    )
    rng, y = np.random.default_rng(0), np.arange(240) % 3
    x = rng.integers(0, 80, (240, 12, 12, 1)) + 80 * y[:, None, None, None]
    np.savez(
        folder / "data.npz",
        x_train=x[:180].astype(np.uint8), y_train=y[:180],
        x_test=x[180:].astype(np.uint8), y_test=y[180:],
    )  # fmt: skip
    (folder / "mine.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(MODEL, names)
    net = names["build"]()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    pixels, labels = torch.tensor(x / 255, dtype=torch.float32).permute(0, 3, 1, 2), torch.tensor(y)
    for _ in range(100):  # better than chance, which is all that compress asks for
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net((pixels - 0.5) / 0.25), labels).backward()
        optimizer.step()
    torch.save(net.state_dict(), folder / "w.pt")


@dataclass(frozen=True)
class Bench:
    """Where works are done. ``mark``: known to all that is started for this folder."""

    folder: Path
    mark: str

    def given(self, work: str) -> Path:
        """A folder with all that ``work`` takes; ``deploy`` takes a finished run."""
        with contextlib.ExitStack() as stack:
            folder = self.folder / "given" / work
            if not (folder / "whole").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                prepared(folder)
                if work == "deploy":
                    shutil.copytree(self.reference("run")[0] / "runs", folder / "runs")
                stack.callback((folder / "whole").touch)
        return folder

    def reference(self, work: str) -> tuple[Path, float]:
        """What an undisturbed ``work`` left, and the seconds that it took."""
        path = self.folder / "reference" / work
        if not (path / "seconds.json").exists():
            shutil.rmtree(path, ignore_errors=True)
            seconds = []
            for which in ("a", "b"):
                shutil.copytree(self.given(work), path / which)
                start = time.monotonic()
                self.whole(work, path / which)
                seconds.append(time.monotonic() - start)
            write_json(path / "seconds.json", min(seconds))
        return path / "a", read_json(path / "seconds.json")

    def equal(self, work: str) -> dict[str, str]:
        """Files that two undisturbed works both left, and their digests."""
        first, _ = self.reference(work)
        a, b = (digests(folder / LEFT[work]) for folder in (first, first.with_name("b")))
        same = {name: digest for name, digest in a.items() if b.get(name) == digest}
        assert len(same) > 0.4 * len(a), (work, sorted(a.keys() - same.keys()))
        return same

    def start(self, work: str, folder: Path) -> subprocess.Popen[bytes]:
        """``work`` in ``folder``, in a session of its own."""
        temporary = folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {
            **os.environ, "EDGENAS_CACHE": str(folder / "cache"), "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1", "EDGENAS_TRUST_DEVICES": "1", MARK: self.mark,
        }  # fmt: skip
        with (folder / "said").open("wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "edgenas", *WORKS[work]],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip

    def whole(self, work: str, folder: Path) -> None:
        """``work`` to its end. Raises RuntimeError with what it said."""
        if self.start(work, folder).wait():
            raise RuntimeError(f"{work} in {folder}: {said(folder)}")

    def survivors(self) -> int:
        """Processes that were started here and outlive ``WAIT_S``."""
        end = time.monotonic() + WAIT_S
        while (left := sum(1 for _ in marked(self.mark))) and time.monotonic() < end:
            time.sleep(0.1)
        for process in marked(self.mark):  # they must not disturb what comes
            with contextlib.suppress(psutil.Error):
                process.kill()
        return left


def marked(mark: str) -> Iterator[psutil.Process]:
    """Processes that bear it, and are no corpses."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def said(folder: Path) -> str:
    """The end of what a work printed, paths as from its folder."""
    text = (folder / "said").read_text(encoding="utf-8", errors="replace").strip()
    return text.replace(f"{folder}/", "")[-400:]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file in it that is not hidden."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    names = {p: str(p.relative_to(folder)) for p in files}
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p, name in names.items()
        if not any(part.startswith(".") for part in Path(name).parts)
    }


def differing(want: Mapping[str, str], folder: Path) -> list[str]:
    """Names of files that are not as they were in an undisturbed work."""
    have = digests(folder)
    return sorted(name for name, digest in want.items() if have.get(name) != digest)


# --- kills ----------------------------------------------------------------------------------------


def kills(bench: Bench, state: State, number: int, seed: int, works: tuple[str, ...]) -> None:
    """``number`` of them, some in a row of one work; a row each."""
    took: dict[str, float] = {}  # where the machine is faster than it was
    while (done := len(state.rows.get("kills", ()))) < number:
        work, rng = works[done // IN_A_ROW % len(works)], random.Random(f"{seed} {done}")
        want, seconds = bench.equal(work), took.get(work, bench.reference(work)[1])
        folder = bench.folder / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bench.given(work), folder)
        hit = []
        while len(hit) < min(IN_A_ROW, number - done):
            moment, how = rng.uniform(0, seconds), rng.choice(SIGNALS)
            process, start = bench.start(work, folder), time.monotonic()
            try:
                process.wait(moment)
                if not hit:
                    took[work] = time.monotonic() - start
                break  # it was faster than the dice: nothing is left to be killed
            except subprocess.TimeoutExpired:
                process.send_signal(how)
            code = process.wait()
            text = said(folder)
            hit.append({
                "work": work, "signal": how.name, "after_s": round(moment, 2), "code": code,
                "survivors": bench.survivors(),
                "told": how == signal.SIGKILL or "interrupted; " in text or code == -how,
            })  # fmt: skip
        code = bench.start(work, folder).wait()
        after = {
            "resumed": code == 0,
            "differing": differing(want, folder / LEFT[work]),
            "compared": len(want),
            "temporary": len(list((folder / "tmp").glob("edgenas-*"))),
            **({} if code == 0 else {"said": said(folder)}),
        }
        for row in hit:
            state.add("kills", **row, **after)


# --- full disks -----------------------------------------------------------------------------------


def disks(bench: Bench, state: State, number: int, seed: int, works: tuple[str, ...]) -> None:
    """``number`` of them; a row each. Needs root, for a small file system."""
    while (done := len(state.rows.get("disks", ()))) < number:
        work, rng = works[done % len(works)], random.Random(f"disk {seed} {done}")
        want, (reference, _) = bench.equal(work), bench.reference(work)
        taken = blocks(reference) - blocks(bench.given(work))
        folder = bench.folder / "full"
        with small_disk(folder) as resized:
            shutil.copytree(bench.given(work), folder, dirs_exist_ok=True)
            size = blocks(folder) + int(rng.uniform(0.05, 0.9) * taken)
            resized(size)
            code = bench.start(work, folder).wait()
            first = said(folder)
            resized(LARGE)
            again = bench.start(work, folder).wait()
            state.add(
                "disks", work=work, bytes=size, code=code,
                told="internal error" not in first and (code == 0 or "space" in first),
                resumed=again == 0, differing=differing(want, folder / LEFT[work]),
                compared=len(want), **({} if again == 0 else {"said": said(folder)}),
                **({} if code else {"note": "it fitted"}), first=first[-160:],
            )  # fmt: skip


def blocks(folder: Path) -> int:
    """Bytes that its files take on a file system of whole pages."""
    pages = [-(-p.lstat().st_size // PAGE) for p in folder.rglob("*") if p.is_file()]
    return PAGE * sum(pages)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """A file system of its own at ``folder``; what is given makes it of so many bytes."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, check=False)
        if done.returncode:
            raise NoMount(done.stderr.decode(errors="replace").strip())

    mount("-t", "tmpfs", "-o", f"size={LARGE}", "edgenas-campaign")
    try:
        yield lambda size: mount("-o", f"remount,size={size}")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# --- fuzz -----------------------------------------------------------------------------------------


def fuzz(bench: Bench, state: State, number: int, seed: int) -> None:
    """``number`` cases, shared among the readers; a row a chunk of one reader."""
    rows = state.rows.get("fuzz", ())
    cases = sum(row["cases"] for row in rows)
    turn = len(rows)
    while cases < number:
        reader = list(READERS)[turn % len(READERS)]
        row = chunk(reader, seed + turn, min(CHUNK, number - cases), bench.folder / "fuzz")
        state.add("fuzz", reader=reader, seed=seed + turn, **row)
        cases, turn = cases + row["cases"], turn + 1


# --- all of it ------------------------------------------------------------------------------------


def summary(rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the rows come to."""
    disturbed = {part: rows.get(part, []) for part in ("kills", "disks")}
    fuzzed = rows.get("fuzz", [])
    return {
        **{
            part: {
                "number": len(of),
                "resumed": sum(r["resumed"] for r in of),
                "identical": sum(r["resumed"] and not r["differing"] for r in of),
                "told": sum(r["told"] for r in of),
            }
            for part, of in disturbed.items()
        },
        "survivors": sum(r["survivors"] for r in rows.get("kills", [])),
        "fuzz": {
            "cases": sum(r["cases"] for r in fuzzed),
            "of_atheris": sum(r["cases"] for r in fuzzed if r.get("by") == "atheris"),
            "read": sum(r["read"] for r in fuzzed),
            "faults": sum(len(r["faults"]) for r in fuzzed),
            "slowest_s": max((r["slowest_s"] for r in fuzzed), default=0),
            "most_mb": max((r["most_mb"] for r in fuzzed), default=0),
        },
    }


def main() -> None:
    """Go on with the campaign, print its table, write benchmarks/results/campaign.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "campaign")
    for part, number in (("kills", 100), ("disks", 10), ("fuzz", 1_000_000)):
        parser.add_argument(f"--{part}", type=int, default=number)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--no-results", action="store_true", help="print the table alone")
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    bench, state = Bench(folder, str(folder)), State.of(folder / "state.json")
    works = tuple(asked.works)
    kills(bench, state, asked.kills, asked.seed, works)
    if os.geteuid() == 0:
        disks(bench, state, asked.disks, asked.seed, works)
    else:
        print("full disks need root, to mount a small one: left out")
    fuzz(bench, state, asked.fuzz, asked.seed)
    table = summary(state.rows)
    print(json.dumps(table, indent=1))
    if not asked.no_results:
        print(write_results("campaign", summary=table, seed=asked.seed, rows=state.rows))


if __name__ == "__main__":
    main()
