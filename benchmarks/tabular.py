"""Searches under a budget in published tables, against the best that truly fits.

    python benchmarks/tabular.py [--data ../shared/data] [--seeds 20] [--jobs 2]

NAS-Bench-Macro under FLOPs; NAS-Bench-201 under the latency of seven devices, at three quantiles of
all cells. All methods of a seed evaluate as many distinct architectures, on an accuracy that is not
the one reported (a seed of three, validation after 12 epochs), with the same settings everywhere,
which were chosen on seeds 100 to 105. Regret is in points of the reported accuracy. A latency is
predicted by an additive table fitted on 60 random connected cells, its margin told by 40 more; each
seed draws its own. Without an answer, or with one whose looked-up latency is over the limit, a run
is missed and has no regret. Writes benchmarks/results/tabular.json.
"""

import argparse
import functools
import itertools
import multiprocessing
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from results_file import write_results

from edgenas import ops
from edgenas.budgets import Latency, Total
from edgenas.errors import ImpossibleBudget
from edgenas.fewshot import fit_rows
from edgenas.latency import Header, LatencyTable, Timing
from edgenas.policies import AllPaths, Logits, Reinforce, TwoPaths
from edgenas.predict import Predictor, fitted
from edgenas.pressure import Adaptive, Additive, Multiplicative, Pressure
from edgenas.project import project
from edgenas.relax import Loads, affordable
from edgenas.samplers import Aging, Fitting, Largest
from edgenas.search import Ledger, Objective, Sampler, ask_tell
from edgenas.spaces.nasbench201 import NasBench201
from edgenas.spec import Architecture, OpSpec
from edgenas.tabular import Multilinear, Published, Tabular, learn, nasbench201, nasbench_macro

MFLOPS, QUANTILES = (30, 45, 60, 80), (10, 25, 50)
EVALUATIONS = (50, 100, 200)
TIMINGS, CHECKED = 100, 40
ARCH_LR, FILL = 0.4, 0.95  # of all policies; FILL as edgenas.sharing has it
NETWORKS = 6  # of REINFORCE
IDLE = 100  # steps without a new architecture after which a policy counts as settled
LOSSES: Mapping[str, Callable[[], Pressure]] = {
    "adaptive": lambda: Adaptive(stiffness=0.3),
    "additive": lambda: Additive(0.1),
    "multiplicative": lambda: Multiplicative(0.3),
}
REWARDS = {**LOSSES, "multiplicative": lambda: Multiplicative(0.1)}

# By kind of answer and evaluations. "looked up": the best, on the search accuracy, of all that were
# looked up and fit; "projected": what the scores of a policy project to, without a further look;
# "filled": the same, but taking at least FILL of the budget.
Answers = Mapping[tuple[str, int], Architecture | None]


@functools.cache
def published(data: Path, space: str) -> Published:
    """The table of ``space``, read once a process."""
    if space == "nasbench-macro":
        return nasbench_macro(data / "nasbench_macro.csv.gz")
    return nasbench201(data / "nasbench201.csv.gz")


@dataclass(frozen=True)
class Case:
    """One budget: ``limit`` in MFLOPs of a chain or ms of a cell on ``device``."""

    space: str
    device: str
    budget: str
    limit: float

    def amounts(self, table: Published) -> np.ndarray:
        """What every architecture truly takes."""
        if self.device == "any":
            return table.columns["flops"] / 1e6
        return table.columns[f"lat_ms_{self.device}"]

    def objective(self, table: Published, seed: int) -> Objective:
        """What a method knows of it."""
        if self.device == "any":
            budget = Total("flops", "MFLOPs", self.limit, lambda op: ops.macs(op) / 1e6)
            return Objective((budget,))
        timed = estimated(table, self.device, self.amounts(table), seed)
        return Objective((Latency(self.device, self.limit, Predictor(timed)),))


def cases(data: Path) -> list[Case]:
    """Every space, device and budget."""
    found = [Case("nasbench-macro", "any", f"{m} MFLOPs", m) for m in MFLOPS]
    columns = published(data, "nasbench201").columns
    for name in columns:
        if name.startswith("lat_ms_"):
            limits = np.percentile(columns[name], QUANTILES)
            device = name.removeprefix("lat_ms_")
            found += [
                Case("nasbench201", device, f"{q} %", float(limit))
                for q, limit in zip(QUANTILES, limits, strict=True)
            ]
    return found


def estimated(table: Published, device: str, ms: np.ndarray, seed: int) -> LatencyTable:
    """A table for ``device`` from timings of random connected cells, and its error on others."""
    space, rng = table.space, random.Random(f"{seed}/timings/{device}")
    assert isinstance(space, NasBench201)
    drawn = (space.sample(rng) for _ in itertools.count())
    archs = list(itertools.islice(filter(space.connected, drawn), TIMINGS))
    networks = []
    for arch in archs:
        t = float(ms[table.rank(arch)])
        networks.append((arch.id, space.ops(arch), Timing(t, t, None, 1)))
    fit = TIMINGS - CHECKED
    work = {op: float(space.work(op)) for op in space.vocabulary()}
    few = fit_rows([(o, t.floor_ms) for _, o, t in networks[:fit]], [work], lambda op: op.kind)
    costs = {op: max(row.ms, 0.0) for op, row in few.rows.items()}
    rows = {op: Timing(t, t, None, fit, "estimated") for op, t in costs.items()}
    header = Header(device, "published", "fp32", space.id, {}, provenance="estimated")
    return fitted(LatencyTable(header, rows), networks, fit)


class Forgetful(Ledger):
    """For runs that are over before they could be killed."""

    def append(self, phase: str, event: str, **data: Any) -> None:
        """Nothing is kept."""

    def events(self, phase: str | None = None) -> Iterator[dict[str, Any]]:
        """Nothing was kept."""
        return iter(())


Search = Callable[[Published, Objective, int], Answers]


def looked_up(known: Tabular, n: int) -> Architecture | None:
    """The best of the first ``n`` that were asked for, among those that fit."""
    space, fits = known.table.space, known.objective.fits
    fitting = [a for a in itertools.islice(known.asked, n) if fits(space.ops(a))]
    return max(fitting, key=lambda a: known.asked[a], default=None)


def sampled(
    make: Callable[[Published, Objective, random.Random], Sampler],
    evaluations: Sequence[int] = EVALUATIONS,
) -> Search:
    """What a sampler proposes."""

    def search(table: Published, objective: Objective, seed: int) -> Answers:
        known = Tabular(table, objective)
        sampler = make(table, objective, random.Random(f"{seed}/sampler"))
        ask_tell(sampler, known, Forgetful(Path()), phase="search", trials=max(evaluations))
        return {("looked up", n): looked_up(known, n) for n in evaluations}

    return search


def learnt(
    make: Callable[[Published, random.Random], Logits], pressure: Callable[[], Pressure]
) -> Search:
    """What a policy learns, up to the step that would ask for too many."""

    def search(table: Published, objective: Objective, seed: int) -> Answers:
        policy, known = make(table, random.Random(f"{seed}/alpha")), Tabular(table, objective)
        loads, rng = Loads.of(table.space, objective), random.Random(f"{seed}/steps")
        policy.start(affordable(loads))
        answers: dict[tuple[str, int], Architecture | None] = {}
        left, scores, idle, before = list(EVALUATIONS), policy.scores(), 0, 0
        for _ in learn(policy, Multilinear(known), loads, pressure(), rng):
            idle = idle + 1 if len(known.asked) == before else 0
            while left and (len(known.asked) > left[0] or idle == IDLE):
                n = left.pop(0)
                answers["looked up", n] = looked_up(known, n)
                for kind, fill in (("projected", 0.0), ("filled", FILL)):
                    answers[kind, n] = project(table.space, scores, objective.budgets, fill)
            if not left:
                break
            scores, before = policy.scores(), len(known.asked)
        return answers

    return search


def everything(table: Published, objective: Objective, seed: int) -> Answers:
    """The best on the search accuracy of all that are predicted to fit: no search can do better."""
    (budget,) = objective.budgets
    space = table.space
    parts = [np.array([budget.part(o) for o in space.option_ops(c.name)]) for c in space.choices]
    loads = budget.load(space.fixed_ops()) + functools.reduce(np.add.outer, parts).ravel()
    fits = np.flatnonzero(loads <= 1)
    best = fits[table.search[fits].argmax()] if len(fits) else None
    return {("looked up", len(table.search)): None if best is None else table.at(int(best))}


def macs(table: Published) -> Callable[[OpSpec], float]:
    """Of an operator of its space."""
    return table.space.work if isinstance(table.space, NasBench201) else ops.macs


def parameters(table: Published) -> Callable[[OpSpec], float]:
    """Of an operator of its space."""
    return table.space.parameters if isinstance(table.space, NasBench201) else ops.parameters


METHODS: dict[str, Search] = {
    "all that fit": everything,
    "random": sampled(lambda t, o, rng: Fitting(t.space, o, rng)),
    "largest, MACs": sampled(lambda t, o, r: Largest(t.space, o, macs(t), r), (1, *EVALUATIONS)),
    "largest, parameters": sampled(
        lambda t, o, r: Largest(t.space, o, parameters(t), r), (1, *EVALUATIONS)
    ),
    "aging evolution": sampled(lambda t, o, rng: Aging(t.space, o, rng)),
    **{
        f"two paths, {name}": learnt(lambda t, rng: TwoPaths(t.space, ARCH_LR, rng), pressure)
        for name, pressure in LOSSES.items()
    },
    "all paths, adaptive": learnt(
        lambda t, rng: AllPaths(t.space, ARCH_LR, rng), LOSSES["adaptive"]
    ),
    **{
        f"REINFORCE, {name}": learnt(
            lambda t, rng: Reinforce(t.space, ARCH_LR, rng, NETWORKS), pressure
        )
        for name, pressure in REWARDS.items()
    },
}


def outcome(data: Path, case: Case, seed: int) -> dict[tuple[str, str, int], float | None]:
    """Regret in points by method, answer and evaluations; None where the limit is missed."""
    torch.set_num_threads(1)
    table = published(data, case.space)
    objective, fits = case.objective(table, seed), case.amounts(table) <= case.limit
    found: dict[tuple[str, str, int], float | None] = {}
    for name, search in METHODS.items():
        try:
            answers = search(table, objective, seed)
        except ImpossibleBudget:  # says the predicted table
            continue
        for (kind, n), arch in answers.items():
            rank = None if arch is None else table.rank(arch)
            kept = rank is not None and bool(fits[rank])
            regret = 100 * (table.oracle(fits) - float(table.report[rank])) if kept else None
            found[name, kind, n] = regret
    return found


def rows(data: Path, seeds: int, jobs: int) -> list[dict[str, Any]]:
    """One a case, method, answer and number of evaluations."""
    every = cases(data)
    tasks = [(data, case, seed) for case in every for seed in range(seeds)]
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        outcomes = list(pool.map(outcome, *zip(*tasks, strict=True), chunksize=5))
    asked = dict.fromkeys(itertools.chain(*outcomes))
    found = []
    for number, case in enumerate(every):
        mine = outcomes[number * seeds : (number + 1) * seeds]
        table = published(data, case.space)
        oracle = table.oracle(case.amounts(table) <= case.limit)
        for method, kind, n in asked:
            if n > max(EVALUATIONS) and n != len(table.search):
                continue
            kept = [r for o in mine if (r := o.get((method, kind, n))) is not None]
            found.append(
                {
                    **asdict(case),
                    "oracle": oracle,
                    "method": method,
                    "answer": kind,
                    "evaluations": n,
                    "seeds": seeds,
                    "missed": 1 - len(kept) / seeds,
                    "regret": fmean(kept) if kept else None,
                    "error": stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else None,
                }
            )
    return found


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """Methods down, budgets of chains and devices of cells (the mean of their budgets) across."""
    places = {place(r): None for r in found}
    lines = [f"{'':<37}{'evaluated':>9}" + "".join(f"{p:>14}" for p in places) + f"{'missed':>8}"]
    for method, kind, n in {line(r): None for r in found}:
        mine = [r for r in found if line(r) == (method, kind, n)]
        text = f"{f'{method}: {kind}':<37}{n:>9}"
        for where in places:
            known = [r for r in mine if place(r) == where and r["regret"] is not None]
            if not known:
                text += " " * 14
                continue
            error = sum((r["error"] or 0) ** 2 for r in known) ** 0.5 / len(known)
            text += f"{fmean(r['regret'] for r in known):>8.2f} ±{error:.2f}"
        lines.append(text + f"{fmean(r['missed'] for r in mine):>8.1%}")
    return "\n".join(lines)


def place(row: Mapping[str, Any]) -> str:
    """The column of the printed table that ``row`` is part of."""
    return str(row["budget"] if row["space"] == "nasbench-macro" else row["device"])


def line(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Its line: the whole of a space is one number of evaluations."""
    n = row["evaluations"]
    return row["method"], row["answer"], str(n) if n <= max(EVALUATIONS) else "all"


def main() -> int:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if not options.data.exists():
        print(f"skipped: there is no {options.data}")
        return 0
    found = rows(options.data, options.seeds, options.jobs)
    print(summary(found))
    settings = {
        "arch_lr": ARCH_LR, "fill": FILL, "networks": NETWORKS,
        "losses": {name: asdict(make()) for name, make in LOSSES.items()},
        "rewards": {name: asdict(make()) for name, make in REWARDS.items()},
        "timings": TIMINGS, "checked": CHECKED,
    }  # fmt: skip
    print(write_results("tabular", settings=settings, rows=found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
