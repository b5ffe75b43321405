"""Odd files for every reader of what users bring: a refusal in one line, or what is in them.

python benchmarks/fuzz_readers.py READER SEED CASES FOLDER

prints a JSON object: cases, how many were read, how many refused by which error, the slowest, the
most memory, and ``faults``: other errors, what took longer than LIMIT_S, a process that was ended.
A case that is a fault is kept in FOLDER. Cases are files that are right, changed at random: bytes,
numbers, names, lengths, halves, other files' parts; what is still read is changed further, or,
where atheris is installed (the extra ``fuzz``), what reaches new lines of edgenas.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

LIMIT_S = 10
LIMIT_BYTES = 1 << 30  # beside what Python and its libraries take
Read = Callable[[Path], object]
Seeds = Callable[[Path], Iterator[bytes]]  # given a folder to work in

TOKENS = [
    b"0", b"-1", b"1e999", b"NaN", b"99999999999999999999", b"2147483648", b"18446744073709551615",
    b"null", b"true", b"[]", b"{}", b'""', b'"\\ud800"', b"\x00", b"\xff\xfe", b"\xef\xbb\xbf",
    b"\xc3\x28", b"\r\n", b"\n\n", b": ", b"- ", b"&a ", b"*a", b"<<: *a", b"!!python/none ", b"? ",
    b"|", b">", b"#", b",", b'"', b"'", b"%", b"010", b"1:30", b"1_000", b"0x10", b"\xe2\x89\xa4",
    b"../../etc/passwd", b"/dev/zero", b"[bold]", b"\x1b[31m", b"[" * 70, b"[" * 5000, b"{" * 3000,
    b"a" * 5000, b"9" * 5000, b"- " * 200,
]  # fmt: skip


class Hang(BaseException):
    """A case that took longer than LIMIT_S."""


@dataclass(frozen=True)
class Reader:
    """``cost``: of a case, as a multiple of the cheapest; chunks of dear ones are shorter."""

    suffix: str
    seeds: Seeds
    read: Read
    cost: int = 1


# --- what readers are given, and are --------------------------------------------------------------


def _config(folder: Path) -> Iterator[bytes]:
    for path in [*Path("docs").glob("*.yaml"), *Path("edgenas").glob("*.yaml")]:
        yield path.read_bytes()
    yield (
        b'task: {dataset: folder, path: photos}\ntargets:\n  - {device: pi4, latency: ["<= 5 ms", '
        b'"10 %"], energy: "<= 3 mJ"}\nspace: {kind: mobile, preset: tiny, kernels: [3, 5], '
        b'multipliers: [0.5, 1.0]}\nbudgets: {parameters: "<= 1 M", size: "<= 500 kB"}\n'
        b'gates: {drop: "<= 1 point", same_on: [qemu-arm64]}\nquantize: {mixed: yes}\nseed: 3\n'
    )


def _read_config(path: Path) -> object:
    from edgenas.config import load_config
    from edgenas.space import load_space

    config = load_config(path)
    whole = {"resolution": 32, "channels": 3, "classes": 10, **config.space}
    return load_space(whole).id if config.space["kind"] == "mobile" else config.dumps


def _read_override(path: Path) -> object:
    from edgenas.config import overridden

    text = path.read_bytes().decode(errors="surrogateescape").replace("\0", "")
    return overridden({"train": {"epochs": 1}}, [text])


def _overrides(folder: Path) -> Iterator[bytes]:
    for text in ("train.epochs=3", "gates.accuracy=>= 88 %", "space={kind: mobile, kernels: [3]}"):
        yield text.encode()


def _devices(folder: Path) -> Iterator[bytes]:
    for path in sorted(Path("devices").glob("*.yaml")):
        yield path.read_bytes()


def _read_device(path: Path) -> object:
    from edgenas.device import load_device

    return load_device(str(path))


def _read_json(path: Path) -> object:
    from edgenas.files import read_json

    return read_json(path)


def _jsons(folder: Path) -> Iterator[bytes]:
    for value in ({"a": [1, 2.5, None, True, "x"]}, {"picks": {"s1b1": 0}}, [[[]]], "\U0001f600"):
        yield json.dumps(value).encode()


def _tables(folder: Path) -> Iterator[bytes]:
    from edgenas.latency import Fit, Header, LatencyTable, Missing, Timing
    from edgenas.spec import OpSpec

    ops = [OpSpec.of("conv", 3, 16, 32, k=3, s=2), OpSpec.of("mbconv", 16, 16, 16, k=3, s=1, e=3)]
    rows: dict[OpSpec, Any] = {op: Timing(0.1, 0.2, 0.3, 20, interval_ms=(0.1, 0.2)) for op in ops}
    rows[OpSpec.of("classifier", 16, 10, 4)] = Missing("failed", "no")
    fit = Fit(intercept_ms=0.02, slope=1.1, p50_per_floor=1.05, margin=0.05, networks=8)
    yield (
        LatencyTable(Header("x", "none", "fp32", "mobile", {"cpu": "x"}, fit=fit), rows)
        .dumps()
        .encode()
    )


def _read_table(path: Path) -> object:
    from edgenas.instructions import load_table

    head, end, body = path.read_bytes().partition(b"\n")
    right = hashlib.sha256(body).hexdigest().encode()  # what is behind the hash is to be reached
    path.write_bytes(re.sub(rb'(?<="rows_sha256": ")[0-9a-f]{64}', right, head) + end + body)
    return load_table(path)


def _instructions(folder: Path) -> Iterator[bytes]:
    yield from _tables(folder)
    text = {"unit": "instructions", "schema": 1, "device": "q", "rows_sha256": "0" * 64}
    yield json.dumps(text).encode() + b'\n{"op": "conv 3-16 @32 k3 s2", "each": [1, 2, 3, 4, 5]}\n'


def _ledgers(folder: Path) -> Iterator[bytes]:
    proposal = {"arch": {"space": "m", "picks": {"a": 0}}, "source": "x"}
    trial = {"id": 0, "proposal": proposal, "metrics": {"accuracy": 0.5}, "seconds": 1.0}
    lines = [
        {"phase": "search", "event": "tell", "trial": trial},
        {"phase": "train", "event": "epoch", "epoch": 1, "loss": 0.5, "lr": 0.1, "seconds": 1},
        {"phase": "repair", "event": "repair", "round": 1},
    ]
    yield b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _read_ledger(path: Path) -> object:
    from edgenas.search import Ledger

    ledger = Ledger(path)
    return ledger.trials("search"), ledger.epochs("train"), list(ledger.events())


def _records(folder: Path) -> Iterator[bytes]:
    yield from _ledgers(folder)
    yield json.dumps({"tables": [], "networks": 12, "task": "x"}).encode()


def _read_record(path: Path) -> object:
    """As the ledger, the profile and the verdict of a run at once."""
    from edgenas.report import write_report

    run = path.parent / "run"
    content = path.read_bytes()
    for name in ("config.yaml", "profile/profile.json", "ledger.jsonl", "verdict.json"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b'{"tables": []}' if "profile" in name else content)
    return write_report(run)


def _read_stage(path: Path) -> object:
    from edgenas.rundir import RunDir

    stage = path.parent / "run" / "train"
    stage.mkdir(parents=True, exist_ok=True)
    (stage / "stage.json").write_bytes(path.read_bytes())
    run = RunDir(path.parent / "run")
    return run.is_whole("train", "k"), run.outputs("train")


def _stages(folder: Path) -> Iterator[bytes]:
    yield json.dumps({"key": "k", "outputs": {"found.safetensors": "0" * 64}}).encode()


def _read_journal(path: Path) -> object:
    from edgenas.journal import open_journal

    with open_journal(path, {"what": "x"}) as journal:
        return journal.records


def _architectures(folder: Path) -> Iterator[bytes]:
    from edgenas.spaces.mobile import Mobile

    space = Mobile.configured({"preset": "tiny"})
    yield json.dumps(space.sample(random.Random(0)).to_json()).encode()


def _read_architecture(path: Path) -> object:
    from edgenas.files import read_json
    from edgenas.spaces.mobile import Mobile
    from edgenas.spec import Architecture

    arch = Architecture.from_json(read_json(path))
    space = Mobile.configured({"preset": "tiny"})
    space.check(arch)
    return space.ops(arch)


def _published(folder: Path) -> Iterator[bytes]:
    yield (
        b"Conv-input:224x224x3-output:112x112x32: {count: 10, mean: 1.5, var: 0.1}\n"
        b"expanded_conv-input:56x56x24-output:28x28x40-expand:6-kernel:5-stride:2-idskip:0: "
        b"{mean: 0.5, var: 0.2, count: 5}\n"
    )


def _columns(folder: Path) -> Iterator[bytes]:
    yield b"op,latency_ms,n\nconv 3-16 @32 k3 s2,0.5,10\nmbconv 16-16 @16 e3 k3 s1,0.25,10\n"
    yield b"KERNEL,HW,CIN,COUT,KERNEL_SIZE,STRIDES,latency_us\nconv-bn-relu,56,16,32,3,1,20\n"


def _read_import(path: Path) -> object:
    from edgenas.lut import import_table

    return import_table(path, "x", "fp32", 0.1)


def _tabular(folder: Path) -> Iterator[bytes]:
    yield gzip.compress(
        b"arch,test_acc_s0,test_acc_s1,test_acc_s2\n00000000,90.1,90.2,90.3\n", mtime=0
    )


def _read_tabular(path: Path) -> object:
    from edgenas.tabular import nasbench_macro

    return nasbench_macro(path)


def _exported(format: str, *precisions: str) -> Seeds:
    def seeds(folder: Path) -> Iterator[bytes]:
        from edgenas import sentinel, specimen
        from edgenas.export import exporter_for

        for precision in precisions:
            path = folder / f"seed.{format}"
            specimen.operator(exporter_for(format), sentinel.SENTINEL, precision, path)
            yield path.read_bytes()

    return seeds


def _inspected(format: str) -> Read:
    def read(path: Path) -> object:
        from edgenas.export import exporter_for

        return exporter_for(format).inspect(path)

    return read


def _checkpoints(folder: Path) -> Iterator[bytes]:
    import torch

    from edgenas.checkpoint import Checkpoint

    Checkpoint(folder / "seed.safetensors", "k").save({"a.w": torch.ones(3)}, {"epoch": 1})
    yield (folder / "seed.safetensors").read_bytes()


def _read_checkpoint(path: Path) -> object:
    from edgenas.checkpoint import Checkpoint

    return Checkpoint(path, "k").load()


def _weights(folder: Path) -> Iterator[bytes]:
    import torch

    path = folder / "seed.pt"
    for value in (_net().state_dict(), {"state_dict": _net().state_dict(), "epoch": 3}):
        torch.save(value, path)
        yield path.read_bytes()


def _net() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def _read_weights(path: Path) -> object:
    from edgenas.state_dicts import filled, taken

    net = _net()
    return filled(net, taken(net, path).tensors, path)


def _arrays(folder: Path) -> Iterator[bytes]:
    import numpy as np

    y = np.arange(12) % 3
    x = np.zeros((12, 8, 8, 3), np.uint8) + y[:, None, None, None].astype(np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(folder / "seed.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        yield (folder / "seed.npz").read_bytes()


def _read_npz(path: Path) -> object:
    from edgenas.datasets.npz import Npz

    return Npz(path).load()


READERS: Mapping[str, Reader] = {
    "config": Reader(".yaml", _config, _read_config),
    "override": Reader(".txt", _overrides, _read_override),
    "device": Reader(".yaml", _devices, _read_device),
    "json": Reader(".json", _jsons, _read_json),
    "table": Reader(".jsonl", _instructions, _read_table),
    "ledger": Reader(".jsonl", _ledgers, _read_ledger),
    "report": Reader(".json", _records, _read_record),
    "stage": Reader(".json", _stages, _read_stage),
    "journal": Reader(".jsonl", _ledgers, _read_journal),
    "architecture": Reader(".json", _architectures, _read_architecture),
    "published": Reader(".yaml", _published, _read_import),
    "columns": Reader(".csv", _columns, _read_import),
    "tabular": Reader(".csv.gz", _tabular, _read_tabular),
    "tflite": Reader(".tflite", _exported("tflite", "fp32", "int8-static"), _inspected("tflite")),
    "ncnn": Reader(".ncnn", _exported("ncnn", "fp32"), _inspected("ncnn")),
    "torch": Reader(".torch", _exported("torch", "fp32"), _inspected("torch")),
    "fpga": Reader(".fpga", _exported("fpga", "int8-static"), _inspected("fpga")),
    "onnx": Reader(".onnx", _exported("onnx", "fp32", "int8-static"), _inspected("onnx"), 100),
    "tensorrt": Reader(
        ".tensorrt", _exported("tensorrt", "fp32", "int8-static"), _inspected("tensorrt")
    ),
    "checkpoint": Reader(".safetensors", _checkpoints, _read_checkpoint),
    "weights": Reader(".pt", _weights, _read_weights, 2),
    "npz": Reader(".npz", _arrays, _read_npz, 2),
}


# --- cases ----------------------------------------------------------------------------------------


def changed(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """``content``, changed a few times."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 32, 200)), len(data) - at)
        match rng.randrange(9):
            case 0:
                data[at : at + length] = rng.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at : at + length] = rng.choice(TOKENS)
            case 4:
                data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
            case 5:
                del data[at:]
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                data[at : at + length] = other[start : start + 4 * length]
            case 7:
                data = bytearray(_number(bytes(data), rng))
            case 8 if length:
                data[at] ^= 1 << rng.randrange(8)
    return bytes(data[: 1 << 20])


def _number(data: bytes, rng: random.Random) -> bytes:
    """Another one in the place of a number, where there is one."""
    if not (found := list(re.finditer(rb"-?\d+(\.\d+)?", data))):
        return data
    one = rng.choice(found)
    said = rng.choice([*TOKENS[:8], str(rng.randrange(-(10**6), 10**6)).encode()])
    return data[: one.start()] + said + data[one.end() :]


@contextmanager
def watched() -> Iterator[None]:
    """Raise Hang in what takes too long."""

    def rung(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, rung)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass
class Tally:
    """What came of the cases of a reader; ``case``: the file that each is written to."""

    reader: Reader
    case: Path
    number: int = 0
    read: int = 0
    slowest_s: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)

    def take(self, content: bytes) -> bool:
        """Whether one more case could be read."""
        from edgenas.errors import EdgenasError

        self.case.write_bytes(content)
        start = time.monotonic()
        before = self.read
        try:
            with watched():
                self.reader.read(self.case)
            self.read += 1
        except EdgenasError as e:
            self.refused[type(e).__name__] += 1
            if "\n" in str(e):
                self._fault(e, content)
        except OSError as e:  # which the command says by its file's name
            self.refused[type(e).__name__] += 1
            if e.filename is None:
                self._fault(e, content)
        except (Exception, Hang) as e:
            self._fault(e, content)
        self.slowest_s = max(self.slowest_s, time.monotonic() - start)
        self.number += 1
        return self.read > before

    def _fault(self, e: BaseException, content: bytes) -> None:
        name = f"{self.case.stem}-{self.number}{''.join(self.case.suffixes)}"
        kept = self.case.with_name(name)
        kept.write_bytes(content)
        place = e.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
        said = str(e).replace(f"{self.case.parent}/", "")
        self.faults.append(
            {"kind": type(e).__name__, "said": said[:200], "where": where, "case": kept.name}
        )

    def row(self, by: str) -> dict[str, Any]:
        """JSON. ``by``: what made the cases."""
        from edgenas.resident import peak_bytes

        self.case.unlink(missing_ok=True)
        return {
            "by": by, "cases": self.number, "read": self.read, "refused": dict(self.refused),
            "faults": self.faults[:20], "slowest_s": round(self.slowest_s, 2),
            "most_mb": round(peak_bytes() / 2**20),
        }  # fmt: skip


def run(name: str, seed: int, cases: int, folder: Path) -> None:
    """``cases`` of a reader, in this process, which ends; prints what came of them."""
    reader, rng = READERS[name], random.Random(f"{name} {seed}")
    tally = Tally(reader, folder / f"{name}-{seed}{reader.suffix}")  # kept where a case ends it
    with tempfile.TemporaryDirectory(prefix="edgenas-fuzz-", dir="/dev/shm") as scratch:
        guide = _atheris()
        with guide.instrument_imports(include=["edgenas"]) if guide else nullcontext():
            seeds = list(reader.seeds(Path(scratch)))
            for content in seeds:  # what every case needs is there before memory and time count
                tally.case.write_bytes(content)
                with suppress(Exception):
                    reader.read(tally.case)
        _bound()
        if guide is None:
            _mutated(tally, seeds, cases, rng)
            print(json.dumps(tally.row("mutation")))
            return
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(seeds):
            (corpus / str(number)).write_bytes(content)
        _guided(guide, tally, seeds, cases, corpus, seed)


def _mutated(tally: Tally, seeds: list[bytes], cases: int, rng: random.Random) -> None:
    while tally.number < cases:
        content = changed(rng.choice(seeds), seeds, rng)
        if tally.take(content) and len(seeds) < 50 and rng.random() < 0.05:
            seeds.append(content)


def _atheris() -> Any:
    """The package, or None where it is not installed."""
    try:
        return import_module("atheris")
    except ImportError:
        return None


def _guided(
    guide: Any, tally: Tally, seeds: list[bytes], cases: int, corpus: Path, seed: int
) -> None:
    """What reaches new lines of edgenas is changed further. Ends the process."""

    def one(content: bytes) -> None:
        tally.take(content)
        if tally.number >= cases:  # libFuzzer ends without returning
            print(json.dumps(tally.row("atheris")), flush=True)
            shutil.rmtree(corpus.parent)
            os._exit(0)

    def mutate(content: bytes, most: int, number: int) -> bytes:
        return changed(content, seeds, random.Random(number))[:most]

    flags = [
        "-detect_leaks=0",
        "-handle_alrm=0",
        "-timeout=0",
        "-rss_limit_mb=0",
        "-max_len=1048576",
    ]
    argv = [sys.argv[0], *flags, f"-seed={seed + 1}", str(corpus)]
    guide.Setup(argv, one, custom_mutator=mutate)
    guide.Fuzz()


def _bound() -> None:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    held = 1024 * int(re.findall(r"VmData:\s+(\d+)", status)[0])
    resource.setrlimit(resource.RLIMIT_DATA, (held + LIMIT_BYTES, resource.RLIM_INFINITY))


def chunk(name: str, seed: int, cases: int, folder: Path) -> dict[str, Any]:
    """As ``run``, in a process of its own: one that is ended is a fault too."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = max(cases // READERS[name].cost, 1)
    argv = [sys.executable, __file__, name, str(seed), str(cases), str(folder)]
    start = time.monotonic()
    done = subprocess.run(argv, capture_output=True, check=False)
    seconds = round(time.monotonic() - start, 1)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found | {"seconds": seconds}
    said = done.stderr.decode(errors="replace").strip()[-300:]
    fault = {"kind": f"ended with {done.returncode}", "said": said, "case": f"{name}-{seed}"}
    return {
        "by": "nothing", "cases": cases, "read": 0, "refused": {}, "faults": [fault],
        "slowest_s": 0.0, "most_mb": 0, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=list(READERS))
    parser.add_argument("seed", type=int)
    parser.add_argument("cases", type=int)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    run(asked.reader, asked.seed, asked.cases, asked.folder)


if __name__ == "__main__":
    main()
