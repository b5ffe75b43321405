import gzip
import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas import rounds, sentinel
from edgenas.cli import main
from edgenas.conditions import warnings
from edgenas.device import Device, load_device
from edgenas.errors import (
    CapabilityError,
    DeviceError,
    ForeignTable,
    UnstableMeasurement,
    UsageError,
)
from edgenas.journal import open_journal
from edgenas.latency import LatencyTable, Missing, Timing
from edgenas.predict import Predictor, require_trusted
from edgenas.profile import estimate_seconds, profile, within
from edgenas.rounds import Effort
from edgenas.runtimes.onnxruntime import OnnxRuntime
from edgenas.session import probe
from edgenas.spaces.mobile import Mobile
from edgenas.spec import OpSpec
from edgenas.store import samples_path, table_path
from edgenas.transports.local import Local

SPACE = Mobile(
    resolution=8, channels=1, classes=3, stem=4, stem_stride=1, first=4, widths=(8,),
    depths=(2,), strides=(2,), head=8, kernels=(3, 5), expansions=(1, 2),
)  # fmt: skip
QUICK = Effort(passes=2, rounds=2, visit_ms=0.2, extensions=1, settling=0)
NETWORKS = 12
VISITS = QUICK.passes * QUICK.rounds * (12 + NETWORKS + 1 + 4)
EXTRA = OpSpec.of("mbconv", 4, 8, 8, h=5, k=3, s=2)
BROKEN = "mbconv 8-8 @4 e1 k5 s1"


def conv_ns(path: str, fused: bool = False) -> float:
    """What a model costs on the planted board: by its convolutions' work, and a fixed price.

    ``fused``: a quarter less, but 50 ns where the number of channels changes.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    weights = {i.name: list(i.dims) for i in graph.initializer}
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*graph.value_info, *graph.output]
    }
    total, borders = 2000.0, 0
    for node in graph.node:
        if node.op_type == "Conv":
            out, (cout, cin, k, _) = shapes[node.output[0]], weights[node.input[1]]
            total += 300 + cout * cin * k * k * out[2] * out[3]
            borders += cin not in (1, cout)
    return 0.75 * total + 50 * borders if fused else total


@dataclass(frozen=True)
class Planted:
    """A board made up: every latency is known, and so is what is wrong with it.

    ``slower`` scales all; a visit of which ``busy`` says so takes 1.3 times as long; a process
    runs each model faster or slower by about ``wobble``, and those that are ``shaky`` by more.
    """

    cpu: str = "planted"
    slower: float = 1.0
    busy: float = 0.0
    broken: tuple[str, ...] = ()
    dies_after: int = 10**9
    shaky: tuple[str, ...] = ()
    wobble: float = 0.0
    seed: int = 0
    fuses: bool = False
    counts: bool = False  # energy
    jobs: list[dict] = field(default_factory=list)
    python: str = "python"
    emulated: bool = False

    def push(self, files: Sequence[Path]) -> list[str]:
        return [str(path) for path in files]

    def pull(self, remote: str, local: Path) -> None:
        raise AssertionError("nothing to pull")

    def scratch(self) -> AbstractContextManager[str]:
        raise AssertionError("nothing to keep")

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        job = json.loads(Path(argv[-1]).read_text())
        self.jobs.append(job)
        for event in self.probe() if job["verb"] == "probe" else self.time(job):
            yield json.dumps(event) + "\n"

    def probe(self):
        yield {"event": "end", "fingerprint": {"cpu": self.cpu, "threads": 1}, "facts": {}}

    def time(self, job):
        for model in job["models"]:
            if model["id"] in self.broken:
                yield {"id": model["id"], "status": "unsupported", "reason": "no such kernel"}
        rng = random.Random(f"{self.seed} {len(self.jobs)}")
        cost = {
            m["id"]: conv_ns(m["path"], self.fuses and m["id"].startswith("network"))
            for m in job["models"]
            if m["id"] not in self.broken
        }
        for id in cost:
            cost[id] *= math.exp(rng.gauss(0, 0.05 if id in self.shaky else self.wobble))
        for made, (number, id) in enumerate(v for v in job["visits"] if v[1] in cost):
            if made == self.dies_after:
                raise DeviceError("the cable came out")
            rng = random.Random(f"{number} {id}")
            state = 1.3 if rng.random() < self.busy else 1.0
            calls = [int(cost[id] * self.slower * state * f) for f in (1.02, 1.0, 1.01)]
            spent = {"uj": round(4 * 5 * cost[id] / 1000)} if self.counts else {}  # 5 W
            yield {"id": id, "round": number, "ns": calls, **spent}
        yield {"event": "end", "timed_ns": 1}

    @property
    def timed(self) -> list[tuple[int, str]]:
        """Every visit asked for, in all jobs."""
        return [tuple(v) for job in self.jobs for v in job.get("visits", ())]


def board(**planted) -> Device:
    return Device("board", Planted(**planted), OnnxRuntime())


def quick(device: Device, folder: Path, **more) -> LatencyTable:
    return profile(device, SPACE, "fp32", folder, **{"networks": NETWORKS, "effort": QUICK} | more)


def journal_of(folder: Path) -> Path:
    (found,) = folder.glob(".*.journal.jsonl")
    return found


def visits_in(journal: Path) -> list[tuple[int, str]]:
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    return [(r["round"], r["id"]) for r in records if "ns" in r]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("EDGENAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("precision", ["fp32", "int8-static"])
@pytest.mark.parametrize("name", ["cpu-onnxruntime", "cpu-litert"])
def test_a_real_device_is_profiled_whole_and_leaves_only_the_table(
    tmp_path: Path, name: str, precision: str
) -> None:
    folder, device = tmp_path / "tables", load_device(name)
    table = profile(
        device, SPACE, precision, folder, networks=NETWORKS, effort=QUICK, allow_unstable=True
    )
    path = table_path(folder, name, SPACE.id, precision)
    assert sorted(p.name for p in folder.iterdir()) == [path.name, samples_path(path).name]
    assert LatencyTable.load(path).dumps() == table.dumps()
    assert set(table.rows) == SPACE.vocabulary()
    assert all(isinstance(row, Timing) and row.n >= 10 for row in table.rows.values())
    header = table.header
    assert (header.provenance, header.runtime) == ("measured", device.runtime.name)
    assert 0 < header.empty_ms < max(row.floor_ms for row in table.rows.values())
    assert header.held_out is not None and header.held_out.networks == NETWORKS - 8
    arch = SPACE.sample(random.Random(1))
    assert Predictor(table).p50_ms(SPACE.ops(arch)) > 0


def test_a_space_of_a_few_networks_is_refused_before_it_is_measured(tmp_path: Path) -> None:
    few = replace(SPACE, expansions=(1,), depths=(1,))
    device = board()
    with pytest.raises(CapabilityError, match="2 networks, and a table is checked on at least 12"):
        profile(device, few, "fp32", tmp_path, networks=12)
    assert not any(job["verb"] == "time" for job in device.transport.jobs)


def test_a_complete_table_is_returned_without_measuring(tmp_path: Path) -> None:
    first = quick(board(), tmp_path)
    again = board()
    assert quick(again, tmp_path).dumps() == first.dumps()
    assert [job["verb"] for job in again.transport.jobs] == ["probe"]


def test_the_planted_truth_is_found_and_networks_are_predicted(tmp_path: Path) -> None:
    table = quick(board(), tmp_path)
    held_out = table.header.held_out
    assert held_out is not None and held_out.mape < 0.02
    assert held_out.spearman > 0.9
    assert table.header.grade == "stable"


def test_the_floor_does_not_care_for_a_busy_machine(tmp_path: Path) -> None:
    effort = replace(QUICK, rounds=6)
    quiet = quick(board(), tmp_path / "quiet", effort=effort)
    busy = quick(board(busy=0.6), tmp_path / "busy", effort=effort)
    assert {op: row.floor_ms for op, row in quiet.rows.items()} == {
        op: row.floor_ms for op, row in busy.rows.items()
    }
    assert any(busy.rows[op].p50_ms > 1.2 * row.p50_ms for op, row in quiet.rows.items())
    assert (quiet.header.grade, busy.header.grade) == ("stable", "noisy")


def test_only_extra_operators_are_measured_and_join_the_table(tmp_path: Path) -> None:
    before = quick(board(), tmp_path)
    device = board()
    after = quick(device, tmp_path, extra=[EXTRA])
    ids = {id for _, id in device.transport.timed}
    assert {i for i in ids if not i.startswith("sentinel")} == {"empty", str(EXTRA)}
    assert dict(after.rows) == {**before.rows, EXTRA: after[EXTRA]}
    assert after.header.fit == before.header.fit
    idle = board()
    assert EXTRA in quick(idle, tmp_path, extra=[EXTRA]).rows
    assert idle.transport.timed == []


def test_energy_is_a_further_column_where_the_device_counts_it(tmp_path: Path) -> None:
    assert all(row.energy_mj is None for row in quick(board(), tmp_path / "a").rows.values())
    table = quick(board(counts=True), tmp_path / "b")
    for op in table.rows:
        assert table[op].energy_mj == pytest.approx(5 * table[op].floor_ms, rel=0.2)
    path = table_path(tmp_path / "b", "board", SPACE.id, "fp32")
    assert LatencyTable.load(path).dumps() == table.dumps()


def test_what_the_device_cannot_run_is_a_row_with_its_reason(tmp_path: Path) -> None:
    table = quick(board(broken=(BROKEN, "network 3")), tmp_path, networks=18)
    assert table.rows[OpSpec.parse(BROKEN)] == Missing("unsupported", "no such kernel")
    others = [row for op, row in table.rows.items() if str(op) != BROKEN]
    assert all(isinstance(row, Timing) for row in others)
    archs = {SPACE.sample(random.Random(i)) for i in range(60)}
    assert any(OpSpec.parse(BROKEN) in SPACE.ops(a) for a in archs)
    assert table.header.held_out is not None and 4 <= table.header.held_out.networks < 10


def test_a_device_that_runs_hardly_any_network_is_an_error_with_the_reason(
    tmp_path: Path,
) -> None:
    broken = tuple(f"network {i}" for i in range(3))
    with pytest.raises(CapabilityError, match=r"only 9 of 12 random networks.*no such kernel"):
        quick(board(broken=broken), tmp_path)


@pytest.mark.parametrize(
    ("id", "message"), [("sentinel 2", "run the sentinel: no such"), ("empty", "an empty model")]
)
def test_a_device_that_cannot_run_the_references_is_an_error(
    tmp_path: Path, id: str, message: str
) -> None:
    with pytest.raises(DeviceError, match=message):
        quick(board(broken=(id,)), tmp_path)


def test_another_machine_under_the_same_name_is_refused_until_measured_anew(
    tmp_path: Path,
) -> None:
    quick(board(), tmp_path)
    other = board(cpu="faster", slower=0.5)
    with pytest.raises(ForeignTable, match=r"cpu 'planted', not 'faster'.*--fresh$"):
        quick(other, tmp_path)
    assert other.transport.timed == []
    assert quick(other, tmp_path, fresh=True).header.fingerprint["cpu"] == "faster"


def test_a_table_never_checked_against_networks_is_measured_again(tmp_path: Path) -> None:
    whole = quick(board(), tmp_path)
    bare = replace(whole, header=replace(whole.header, fit=None, held_out=None))
    bare.save(table_path(tmp_path, "board", SPACE.id, "fp32"))
    assert quick(board(), tmp_path).dumps() == whole.dumps()


def test_fresh_forgets_a_journal_too(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        quick(board(dies_after=31), tmp_path)
    device = board()
    quick(device, tmp_path, fresh=True)
    assert len(device.transport.timed) == VISITS


def test_fresh_measures_everything_again(tmp_path: Path) -> None:
    quick(board(), tmp_path)
    again = board()
    quick(again, tmp_path, fresh=True)
    assert len(again.transport.timed) == VISITS


def test_networks_that_noise_hit_in_half_of_their_visits_are_visited_again(tmp_path: Path) -> None:
    effort = replace(QUICK, passes=3, rounds=7, extensions=0, settling=6)
    busy, calm = board(busy=0.4), board()
    table = quick(busy, tmp_path / "busy", effort=effort)
    further = [(number, id) for number, id in busy.transport.timed if number >= 21]
    assert {id.split()[0] for _, id in further} == {"network", "sentinel"}
    assert max(number for number, _ in further) < 7 * (3 + 6)
    assert table.header.held_out.within_10 == 1.0
    quick(calm, tmp_path / "calm", effort=effort)
    assert max(number for number, _ in calm.transport.timed) == 20


def test_a_run_slower_than_the_machine_can_is_refused_and_leaves_no_samples(
    tmp_path: Path, cache: Path
) -> None:
    good = quick(board(), tmp_path / "good")
    hot = board(slower=1.2)
    with pytest.raises(UnstableMeasurement, match=r"20% slower.*delete .*sentinel") as e:
        quick(hot, tmp_path / "hot")
    assert str(cache) in str(e.value)
    assert {number for number, _ in hot.transport.timed} == set(range(6))  # one more pass
    assert list((tmp_path / "hot").iterdir()) == []
    assert quick(board(), tmp_path / "hot").dumps() == good.dumps()


def test_an_unstable_table_can_be_asked_for_but_is_never_taken_for_a_good_one(
    tmp_path: Path,
) -> None:
    quick(board(), tmp_path / "good")
    hot = quick(board(slower=1.2), tmp_path, allow_unstable=True)
    assert hot.header.grade == "unstable"
    assert quick(board(slower=1.2), tmp_path, allow_unstable=True).dumps() == hot.dumps()
    cool = board()
    assert quick(cool, tmp_path).header.grade == "stable"
    assert cool.transport.timed


def test_a_slow_machine_does_not_become_the_reference(tmp_path: Path) -> None:
    device = board()
    fingerprint = {"cpu": "planted", "threads": 1}
    quick(device, tmp_path / "a")
    best = sentinel.known_floor_ms(fingerprint, "fp32")
    quick(board(slower=1.04), tmp_path / "b")
    assert sentinel.known_floor_ms(fingerprint, "fp32") == best
    quick(board(slower=0.9), tmp_path / "c")
    assert sentinel.known_floor_ms(fingerprint, "fp32") == pytest.approx(0.9 * best, rel=1e-3)


def test_a_lost_connection_keeps_what_was_measured(tmp_path: Path) -> None:
    whole = quick(board(), tmp_path / "whole")
    with pytest.raises(DeviceError, match="board: the cable came out"):
        quick(board(dies_after=31), tmp_path)
    kept = visits_in(journal_of(tmp_path))
    assert len(kept) == 31
    device = board()
    assert quick(device, tmp_path).dumps() == whole.dumps()
    assert not set(kept) & set(device.transport.timed)
    assert sorted(kept + device.transport.timed) == sorted({*kept, *device.transport.timed})
    assert len(kept + device.transport.timed) == VISITS


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.97])
def test_a_journal_torn_anywhere_ends_in_the_same_table(tmp_path: Path, share: float) -> None:
    with pytest.raises(DeviceError):
        quick(board(dies_after=40), tmp_path)
    journal = journal_of(tmp_path)
    data = journal.read_bytes()
    journal.write_bytes(data[: int(share * len(data))])
    assert quick(board(), tmp_path).dumps() == quick(board(), tmp_path / "whole").dumps()


records = st.lists(st.dictionaries(st.text(), st.integers() | st.text(), max_size=3), max_size=6)


@given(records, records, st.data())
def test_a_journal_keeps_every_whole_record_before_a_tear_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, before, after, data
) -> None:
    path = tmp_path_factory.mktemp("journal") / "raw.jsonl"
    header = {"what": "a test"}
    with open_journal(path, header) as journal:
        for record in before:
            journal.append(record)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut] + data.draw(st.sampled_from([b"", b"\0\0", b'{"ns": [1'])))
    kept = before[: max(whole[:cut].count(b"\n") - 1, 0)]
    with open_journal(path, header) as journal:
        assert journal.records == kept
        for record in after:
            journal.append(record)
    with open_journal(path, header) as journal:
        assert journal.records == kept + after
    with open_journal(path, {"what": "another"}) as journal:
        assert journal.records == [] and journal.discarded


def test_a_journal_of_another_pace_is_discarded_and_said_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        quick(board(dies_after=31), tmp_path)
    said: list[str] = []
    device = board()
    quick(
        device,
        tmp_path,
        effort=replace(QUICK, visit_ms=0.3),
        progress=lambda what, done, total: said.append(what),
    )
    assert any("discarding" in what for what in said)
    assert len(device.transport.timed) == VISITS


def test_two_processes_do_not_measure_into_one_table(tmp_path: Path) -> None:
    raw = tmp_path / f".{table_path(tmp_path, 'board', SPACE.id, 'fp32').name}.journal.jsonl"
    with (
        open_journal(raw, {"held": "by another"}),
        pytest.raises(UsageError, match="another process is measuring"),
    ):
        quick(board(), tmp_path)


def test_time_beyond_the_least_goes_to_the_rows_known_least(tmp_path: Path, monkeypatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(rounds.time, "monotonic", lambda: float(next(clock)))
    effort = Effort(passes=2, rounds=2, visit_ms=0.2, limit_s=10.0)
    shaky = [str(op) for op in sorted(SPACE.vocabulary(), key=str)[:5]]
    device = board(shaky=tuple(shaky))
    table = quick(device, tmp_path, effort=effort)
    visits = Counter(id for _, id in device.transport.timed)
    steady = [str(op) for op in SPACE.vocabulary() if str(op) not in shaky]
    assert min(visits[id] for id in shaky) > 4
    assert max(visits[id] for id in steady) == 4
    assert all(table[OpSpec.parse(id)].interval_ms[0] < table[OpSpec.parse(id)].floor_ms
               for id in shaky)  # fmt: skip


def test_too_little_time_is_refused_with_how_much_it_takes(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"0\.001 minutes are too few for 25 models: .* least 0\.1"
    ):
        quick(board(), tmp_path, effort=within(0.001))
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_planted_floor_lies_in_its_interval_as_often_as_it_claims(tmp_path: Path) -> None:
    """Each process of the board runs a model a little faster or slower, for as long as it lives."""
    effort = Effort(passes=3, rounds=1, visit_ms=0.2, extensions=0)
    truth = quick(board(), tmp_path, effort=effort)
    runs = [
        quick(
            board(wobble=0.01, seed=seed), tmp_path / str(seed), effort=effort, allow_unstable=True
        )
        for seed in range(12)
    ]
    true, again, agree = [], [], []
    for one, other in zip(runs, [*runs[1:], runs[0]], strict=True):
        for op, row in one.rows.items():
            (low, high), next_run = row.interval_ms, other[op]
            true.append(low <= truth[op].floor_ms <= high)
            again.append(low <= next_run.floor_ms <= high)
            agree.append(low <= next_run.interval_ms[1] and next_run.interval_ms[0] <= high)
            assert low < row.floor_ms < high < 1.15 * low
    assert len(true) == 144
    assert min(np.mean(true), np.mean(again)) >= 0.93
    assert np.mean(agree) >= 0.98


def test_fusion_and_borders_spoil_the_plain_sum_but_not_the_prediction(tmp_path: Path) -> None:
    """Blocks run a quarter faster inside a network, which pays for every change of channels."""
    table = quick(board(fuses=True, wobble=0.005), tmp_path, networks=28)
    header = table.header
    assert header.held_out is not None and header.held_out.within_10 >= 0.95
    assert header.baselines["plain sum"].within_10 < 0.9
    assert header.held_out.mape < header.baselines["plain sum"].mape / 3
    require_trusted(table)


def test_what_spoils_a_timing_is_said() -> None:
    calm = {"load_average": 0.1, "governor": "performance", "temperature_c": 40.0}
    assert warnings(2, calm, {"temperature_c": 45.0, "frequency_share": 1.0}) == []
    assert warnings(2, {}) == []
    for before, after, word in (
        ({"load_average": 1.5}, {}, "load average 1.5 on 2 cores"),
        ({"governor": "ondemand"}, {}, "'ondemand'"),
        ({"temperature_c": 40.0}, {"temperature_c": 60.0}, "warmed by 20"),
        ({"temperature_c": 75.0}, {"temperature_c": 85.0}, "throttled"),
        ({}, {"frequency_share": 0.5}, "50%"),
    ):
        (line,) = warnings(2, before, after)
        assert word in line


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    quick(board(), tmp_path, progress=lambda *step: said.append(step))
    last = {what: (done, total) for what, done, total in said}
    assert last == {
        "writing models": (29, 29),
        "timing": (VISITS, VISITS),
    }
    assert all(done <= total for _, done, total in said)


@pytest.mark.parametrize(
    ("more", "message"),
    [({"networks": 11}, "too few"), ({"effort": replace(QUICK, visit_ms=1), "networks": 2}, "few")],
)
def test_too_few_networks_are_refused_before_anything_is_measured(
    tmp_path: Path, more: dict[str, object], message: str
) -> None:
    device = board()
    with pytest.raises(UsageError, match=message):
        quick(device, tmp_path, **more)
    assert device.transport.jobs == []


def test_a_precision_the_device_is_not_set_up_for_is_refused(tmp_path: Path) -> None:
    device = replace(board(), precisions=("fp32",))
    with pytest.raises(CapabilityError, match="set up for fp32, not 'int8-static'"):
        profile(device, SPACE, "int8-static", tmp_path)


def test_a_floor_that_is_seldom_reached_is_not_trusted() -> None:
    assert sentinel.assessed([1.0] + [1.3] * 19, None).grade == "noisy"
    assert sentinel.assessed([1.0] * 3 + [1.3] * 17, None).grade == "stable"


@pytest.mark.parametrize(
    ("slower", "grade"), [(0.9, "stable"), (1.04, "stable"), (1.08, "noisy"), (1.12, "unstable")]
)
def test_a_run_is_graded_against_the_best_floor_known(slower: float, grade: str) -> None:
    assert sentinel.assessed([slower] * 9, 1.0).grade == grade


def test_the_estimate_grows_with_the_effort() -> None:
    base = estimate_seconds(SPACE)
    assert 0 < base < estimate_seconds(SPACE, effort=Effort(rounds=14))
    assert base < estimate_seconds(SPACE, networks=60)


HOST = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_profile import NETWORKS, SPACE
from edgenas.device import load_device
from edgenas.profile import profile
from edgenas.rounds import Effort
def say(what, done, total):
    if what == "timing":
        print(done, flush=True)
profile(load_device("cpu-onnxruntime"), SPACE, "fp32", Path({folder!r}), networks=NETWORKS,
        effort=Effort(passes=2, rounds=2, visit_ms=1.0, extensions=0, settling=0),
        allow_unstable=True, progress=say)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_half_way_and_started_again_it_measures_only_what_is_missing(
    tmp_path: Path, how: signal.Signals
) -> None:
    folder = tmp_path / "tables"
    code = HOST.format(tests=str(Path(__file__).parent), folder=str(folder))
    host = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert host.stdout is not None
    with host:
        for line in host.stdout:
            if int(line) >= 40:
                break
        runners = psutil.Process(host.pid).children()
        assert len(runners) == 1
        host.send_signal(how)
    _, alive = psutil.wait_procs(runners, timeout=30)
    assert not alive
    assert host.returncode != 0
    journal = journal_of(folder)
    kept = visits_in(journal)
    assert 40 <= len(kept) < 4 * 29

    watched = Recorded(Local(), [])
    device = replace(load_device("cpu-onnxruntime"), transport=watched)
    effort = Effort(passes=2, rounds=2, visit_ms=1.0, extensions=0, settling=0)
    table = quick(device, folder, effort=effort, allow_unstable=True)
    measured = [tuple(v) for job in watched.jobs for v in job.get("visits", ())]
    assert not set(kept) & set(measured)
    assert len(set(kept) | set(measured)) == len(kept) + len(measured) == 4 * 29
    assert set(table.rows) == SPACE.vocabulary()
    path = table_path(folder, "cpu-onnxruntime", SPACE.id, "fp32")
    assert sorted(folder.iterdir()) == [path, samples_path(path)]
    with gzip.open(samples_path(path), "rt") as samples:
        raw = [json.loads(line) for line in samples]
    assert sum("ns" in r for r in raw) == 4 * 29


@dataclass(frozen=True)
class Recorded:
    """A transport that keeps the jobs it carries."""

    inner: Local
    jobs: list[dict]
    emulated: bool = False

    @property
    def python(self) -> str:
        return self.inner.python

    def push(self, files: Sequence[Path]) -> list[str]:
        return self.inner.push(files)

    def pull(self, remote: str, local: Path) -> None:
        self.inner.pull(remote, local)

    def scratch(self) -> AbstractContextManager[str]:
        return self.inner.scratch()

    def lines(self, argv: Sequence[str]) -> Generator[str, None, None]:
        self.jobs.append(json.loads(Path(argv[-1]).read_text()))
        return self.inner.lines(argv)


def test_the_command_spends_the_time_it_is_given_and_says_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    here = ["cpu-onnxruntime", "--preset", "tiny", "--resolution", "12", "--channels", "1"]
    told = [*here, "--precision", "fp32", "--tables", str(tmp_path)]
    assert main(["profile", *told, "--budget-minutes", "0.001"]) == 2
    assert "0.001 minutes are too few" in capsys.readouterr().err
    seconds = []
    for more in (["--from-networks", "10"], [], ["--precise"], ["--budget-minutes", "7"]):
        assert main(["profile", *told, "--dry-run", *more]) == 0
        number, unit = re.findall(r"about ([\d.]+) (s|min)\b", capsys.readouterr().err)[0]
        seconds.append(float(number) * {"s": 1, "min": 60}[unit])
    assert seconds == sorted(set(seconds)) and seconds[-1] == 7 * 60
    code = main(["profile", *told, "--from-networks", "6", "--json"])
    out = capsys.readouterr()
    assert code in (0, 5)  # 5 where the machine is too busy to be trusted
    if code == 0:
        (made,) = json.loads(out.out)
        assert made["provenance"] == "estimated"


def test_a_dry_run_refuses_what_a_run_would_and_says_what_is_there(
    tmp_path: Path, table: LatencyTable, capsys: pytest.CaptureFixture
) -> None:
    base = [
        "profile", "cpu-onnxruntime", "--preset", "tiny", "--resolution", "12", "--channels", "1",
        "--tables", str(tmp_path), "--dry-run", "--precision",
    ]  # fmt: skip
    for wrong, says in (
        (["int4"], "not 'int4'"),
        (["fp32", "--networks", "5"], "5 networks are too few"),
        (["fp32", "--from-networks", "3"], "3 networks do not make a table"),
        (["fp32", "--from-networks", "10", "--networks", "5"], "--from-networks N leaves out"),
    ):
        assert main([*base, *wrong]) == 2
        assert says in capsys.readouterr().err
    assert main([*base, "fp32", "--from-networks", "10"]) == 0
    assert main([*base, "fp32", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["precision"] == "fp32" and 0 < plan["seconds"] < plan["at_most"]
    Path(plan["file"]).write_text("x")
    assert main([*base, "fp32"]) == 2  # as the run would
    assert "not a whole latency table" in capsys.readouterr().err
    path = Path(plan["file"])
    header = replace(
        table.header, device="cpu-onnxruntime", runtime="onnxruntime",
        space=path.name.split(".")[1],
        fingerprint=probe(load_device("cpu-onnxruntime"))[0],
    )  # fmt: skip
    replace(table, header=header).save(path)
    assert main([*base, "fp32"]) == 0
    assert "is there: only what it lacks is measured" in capsys.readouterr().err
