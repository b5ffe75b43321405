"""Searches under a budget in published tables, against the best that truly fits.

    python benchmarks/tabular.py [--data ../shared/data] [--jobs 2] [--only few|policies]
                                 [--space nasbench-macro|nasbench201]

NAS-Bench-Macro under FLOPs; NAS-Bench-201 under the latency of seven devices, at three quantiles of
all cells. All methods of a seed evaluate as many distinct architectures, on an accuracy that is not
the one reported (a seed of three, validation after 12 epochs), with the same settings everywhere,
which were chosen on seeds 100 to 105. Regret is in points of the reported accuracy. A latency is
predicted by an additive table fitted on 60 random connected cells, its margin told by 40 more; each
seed draws its own. Without an answer, or with one whose looked-up latency is over the limit, a run
is missed and has no regret.

``few``: 8 to 64 trainings, 30 repeats. A training of a chain has the accuracy of one seed of three,
drawn anew; of a cell that of 200 epochs on validation, the mean of its published seeds. The latency
of what is proposed is looked up before it is trained, as a run measures it first. What races
in cells spends half of the epochs on 200 for n / 2 finalists, the other half on 12 for all before
them. Settings of the surrogate were chosen on chains at other budgets (33 to 75 MFLOPs, none of the
four) and other seeds; on cells nothing was. ``policies``: 50 to 200 evaluations, 20 seeds; cells
are searched after 12 epochs.

Writes benchmarks/results/tabular.json; what ``--only`` and ``--space`` leave out stays there. A
run that was killed goes on where it was, in --work, unless the code changed.
"""

import argparse
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from results_file import rows_before, write_results

import edgenas
from edgenas import ops
from edgenas.best_first import ordered
from edgenas.budgets import Latency, Total
from edgenas.errors import ImpossibleBudget
from edgenas.fewshot import fit_rows
from edgenas.latency import Header, LatencyTable, Timing
from edgenas.model_based import ModelBased
from edgenas.policies import AllPaths, Logits, Reinforce, TwoPaths
from edgenas.predict import Predictor, fitted
from edgenas.pressure import Adaptive, Additive, Multiplicative, Pressure
from edgenas.project import project
from edgenas.race import NEAR, race
from edgenas.relax import Loads, affordable
from edgenas.samplers import Aging, Fitting, Largest
from edgenas.search import Ledger, Objective, Proposal, Sampler, Trial, ask_tell
from edgenas.space import Context
from edgenas.spaces.nasbench201 import NasBench201
from edgenas.spaces.nasbench_macro import NasBenchMacro
from edgenas.spec import Architecture, OpSpec
from edgenas.tabular import Multilinear, Published, Tabular, learn, nasbench201, nasbench_macro

MFLOPS, QUANTILES = (30, 45, 60, 80), (10, 25, 50)
EVALUATIONS = (50, 100, 200)
FEW, REPEATS = (8, 16, 32, 64), 30
SHORT, WHOLE = 12, 200  # epochs of a cell
TIMINGS, CHECKED = 100, 40
ARCH_LR, FILL = 0.4, 0.95  # of all policies; FILL as edgenas.sharing has it
NETWORKS = 6  # of REINFORCE
MACS, PARAMETERS = functools.cache(ops.macs), functools.cache(ops.parameters)
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
        table = nasbench_macro(data / "nasbench_macro.csv.gz")
    else:
        table = nasbench201(data / "nasbench201.csv.gz")
    object.__setattr__(table.space, "ops", functools.cache(table.space.ops))  # asked for millions
    return table


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
            budget = Total("flops", "MFLOPs", self.limit, lambda op: MACS(op) / 1e6)
            return Objective((budget,))
        timed = estimated(table, self.device, self.amounts(table), seed)
        return Objective((Latency(self.device, self.limit, Predictor(timed)),))

    def measured(self, table: Published, seed: int) -> Objective:
        """As ``objective``, but what is proposed is measured before it is trained.

        What the table says is within its margin of the limit is proposed too.
        """
        (budget,) = self.objective(table, seed).budgets
        if not isinstance(budget, Latency):
            return Objective((budget,))
        loose = replace(budget, limit_ms=self.limit * (1 + budget.margin) ** 2)
        return Measured((loose,), self.amounts(table) / self.limit, digit(table))


@dataclass(frozen=True, eq=False)
class Measured(Objective):
    """``loads``: of every cell, by rank; ``digits``: what an operator adds to the rank."""

    loads: np.ndarray
    digits: Callable[[OpSpec], int]

    def load(self, ops: Sequence[OpSpec]) -> float:
        """What was measured."""
        return float(self.loads[sum(map(self.digits, ops))])


@functools.cache
def digit(table: Published) -> Callable[[OpSpec], int]:
    """What an operator of a cell adds to its rank."""
    space = table.space
    assert isinstance(space, NasBench201)
    places = {
        op: k * len(c.options) ** (len(space.choices) - 1 - i)
        for i, c in enumerate(space.choices)
        for k, ops in enumerate(space.option_ops(c.name))
        for op in ops
    }
    return places.__getitem__


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

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))

    def read(self, phase: str, event: str, **data: Any) -> None:
        """Nothing is kept."""

    def append(self, phase: str, event: str, **data: Any) -> None:
        """Nothing is kept."""

    def events(self, phase: str | None = None) -> Iterator[dict[str, Any]]:
        """Nothing was kept."""
        return iter(())

    def trials(self, phase: str) -> list[Trial]:
        """None were kept."""
        return []


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
        ask_tell(sampler, known, Forgetful(), phase="search", trials=max(evaluations))
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


@functools.cache
def macs(table: Published) -> Callable[[OpSpec], float]:
    """Of an operator of its space."""
    return functools.cache(table.space.work) if isinstance(table.space, NasBench201) else MACS


@functools.cache
def parameters(table: Published) -> Callable[[OpSpec], float]:
    """Of an operator of its space."""
    space = table.space
    return functools.cache(space.parameters) if isinstance(space, NasBench201) else PARAMETERS


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


@dataclass(frozen=True)
class OneTraining:
    """Evaluate: a chain has the accuracy of one of its seeds, a cell that after its epochs."""

    table: Published
    seed: int

    def __call__(self, proposal: Proposal, id: int) -> Trial:
        """The trial of ``proposal``."""
        rank = self.table.rank(proposal.arch)
        if isinstance(self.table.space, NasBenchMacro):
            column = f"test_acc_s{random.Random(f'{self.seed}/{rank}').randrange(3)}"
        else:
            column = "c10_val12" if proposal.epochs == SHORT else "c10_val200_mean"
        return Trial(id, proposal, {"accuracy": float(self.table.columns[column][rank]) / 100}, 0.0)


class Substitutions:
    """One operator is replaced at a time; then what their sum thinks best under the budget.

    The base has the second option of every choice (the small block of chains, skip in cells), the
    smallest that lets every signal through. At most half of ``trials`` are substitutions, in random
    order; one that was not tried counts as the mean of those to the same option.
    """

    def __init__(
        self,
        table: Published,
        objective: Objective,
        rng: random.Random,
        trials: int,
        epochs: int,
    ) -> None:
        self.space, self.objective, self.rng, self.epochs = table.space, objective, rng, epochs
        base = Architecture.of(self.space.id, {c.name: 1 for c in self.space.choices})
        others = [
            base.but(**{c.name: k})
            for c in self.space.choices
            for k in range(len(c.options))
            if k != 1
        ]
        rng.shuffle(others)
        self.base, self.first = base, [base, *others][: max(trials // 2, 2)]
        self.told: dict[Architecture, float] = {}
        self.rest: Iterator[Architecture] | None = None

    def ask(self) -> Proposal | None:
        """The next substitution, then the best by their sum."""
        if self.first:
            return Proposal(self.first.pop(0), self.epochs)
        if self.rest is None:
            self.rest = self._ranked()
        arch = next(self.rest, None)
        return None if arch is None else Proposal(arch, self.epochs)

    def tell(self, trial: Trial) -> None:
        """A difference of the logarithm of the error."""
        self.told[trial.arch] = -math.log(max(1 - trial.metrics["accuracy"], 1e-3))

    def _ranked(self) -> Iterator[Architecture]:
        gains: dict[str, list[float | None]] = {}
        for c in self.space.choices:
            near = [self.told.get(self.base.but(**{c.name: k})) for k in range(len(c.options))]
            gains[c.name] = [None if g is None else g - self.told[self.base] for g in near]
        means = [
            fmean(known) if (known := [g for g in column if g is not None]) else 0.0
            for column in zip(*gains.values(), strict=True)
        ]
        every = {
            c: [m if g is None else g for g, m in zip(options, means, strict=True)]
            for c, options in gains.items()
        }

        def worth(context: Context) -> tuple[float, Mapping[str, Sequence[float]]]:
            return 0.0, every

        for _, arch in ordered(self.space, self.objective.budgets, worth, self.rng):
            if arch not in self.told and self.objective.fits(self.space.ops(arch)):
                yield arch


Make = Callable[[Published, Objective, random.Random, int, int], Sampler]  # trainings, epochs
Trained = Callable[[Published, Objective, int, int], Architecture | None]


def told(
    make: Make, table: Published, objective: Objective, seed: int, n: int, epochs: int
) -> list[Architecture]:
    """What fits of the ``n`` that are trained for ``epochs``, the best first."""
    sampler = make(table, objective, random.Random(f"{seed}/few"), n, epochs)
    evaluate = OneTraining(table, seed)
    trials = ask_tell(sampler, evaluate, Forgetful(), phase="search", trials=n)
    fits = [t for t in trials if objective.fits(table.space.ops(t.arch))]
    return [t.arch for t in sorted(fits, key=lambda t: -t.metrics["accuracy"])]


def whole(make: Make) -> Trained:
    """The best of ``n`` whole trainings."""

    def found(table: Published, objective: Objective, seed: int, n: int) -> Architecture | None:
        return next(iter(told(make, table, objective, seed, n, WHOLE)), None)

    return found


def raced(make: Make) -> Trained:
    """As many epochs, half of them short: the best n / 2 of those are trained to the end."""

    def found(table: Published, objective: Objective, seed: int, n: int) -> Architecture | None:
        if isinstance(table.space, NasBenchMacro):  # published at one length
            return whole(make)(table, objective, seed, n)
        finalists = n // 2
        short = (n * WHOLE - finalists * (WHOLE - SHORT)) // SHORT
        archs = told(make, table, objective, seed, short, SHORT)[:finalists]
        standing = race(archs, [WHOLE], OneTraining(table, seed), Forgetful()) if archs else []
        return standing[0].arch if standing else None

    return found


def near(
    table: Published, objective: Objective, rng: random.Random, n: int, epochs: int
) -> Sampler:
    """Draws at 90 to 100 % of the budget."""
    return Fitting(table.space, objective, rng, epochs, least=NEAR)


OURS = "surrogate and race"
TRAINED: dict[str, Trained] = {
    "random": whole(lambda t, o, rng, n, e: Fitting(t.space, o, rng, e)),
    "random, 90 to 100 %": whole(near),
    "random, 90 to 100 %, and race": raced(near),
    "n largest, MACs": whole(lambda t, o, rng, n, e: Largest(t.space, o, macs(t), rng, e)),
    "n largest, parameters": whole(
        lambda t, o, rng, n, e: Largest(t.space, o, parameters(t), rng, e)
    ),
    "aging evolution": whole(
        lambda t, o, rng, n, e: Aging(t.space, o, rng, population=min(20, n // 2), epochs=e)
    ),
    "one-op substitutions and race": whole(Substitutions),
    OURS: raced(lambda t, o, rng, n, e: ModelBased(t.space, o, rng, n, macs(t), e)),
}


def trained(table: Published, objective: Objective, seed: int) -> Iterator[tuple[str, Answers]]:
    """By method, what ``n`` trainings find."""
    for name, search in TRAINED.items():
        try:
            yield name, {("trained", n): search(table, objective, seed, n) for n in FEW}
        except ImpossibleBudget:  # says the predicted table
            continue


def searched(table: Published, objective: Objective, seed: int) -> Iterator[tuple[str, Answers]]:
    """By method, with many evaluations."""
    for name, search in METHODS.items():
        try:
            yield name, search(table, objective, seed)
        except ImpossibleBudget:  # says the predicted table
            continue


PARTS = {
    "few": (trained, Case.measured, FEW, REPEATS),
    "policies": (searched, Case.objective, EVALUATIONS, 20),
}
SPACES = ("nasbench-macro", "nasbench201")
Outcome = dict[tuple[str, str, int], float | None]


def outcome(data: Path, part: str, case: Case, seed: int) -> Outcome:
    """Regret in points by method, answer and evaluations; None where the limit is missed."""
    torch.set_num_threads(1)
    table = published(data, case.space)
    fits, (searches, known, _, _) = case.amounts(table) <= case.limit, PARTS[part]
    found: Outcome = {}
    for name, answers in searches(table, known(case, table, seed), seed):
        for (kind, n), arch in answers.items():
            rank = None if arch is None else table.rank(arch)
            kept = rank is not None and bool(fits[rank])
            regret = 100 * (table.oracle(fits) - float(table.report[rank])) if kept else None
            found[name, kind, n] = regret
    return found


def code() -> str:
    """Changes with what could change an outcome."""
    package = Path(edgenas.__file__).parent
    names = ("best_first", "model_based", "policies", "project", "race", "samplers", "surrogate")
    files = [Path(__file__), *(package / f"{name}.py" for name in names)]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:10]


def outcomes(
    data: Path, part: str, every: Sequence[Case], seeds: int, jobs: int, work: Path
) -> list[Outcome]:
    """By case and seed; what is in ``work`` already is not run again."""
    path = work / f"{part}-{'-'.join({c.space: 0 for c in every})}-{code()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done: dict[tuple[int, int], Outcome] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for case, seed, found in map(json.loads, lines):
        done[case, seed] = {(m, k, n): regret for m, k, n, regret in found}
    wanted = list(itertools.product(range(len(every)), range(seeds)))
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool, path.open("a") as file:
        running = {
            pool.submit(outcome, data, part, every[case], seed): (case, seed)
            for case, seed in wanted
            if (case, seed) not in done
        }
        for future in as_completed(running):
            key = running[future]
            done[key] = future.result()
            kept = [[*at, regret] for at, regret in done[key].items()]
            print(json.dumps([*key, kept]), file=file, flush=True)
            print(f"{part}: {len(done)} of {len(wanted)}", file=sys.stderr)
    return [done[key] for key in wanted]


def rows(
    data: Path, part: str, spaces: Sequence[str], jobs: int, work: Path
) -> list[dict[str, Any]]:
    """One a case, method, answer and number of evaluations."""
    every, (*_, evaluations, seeds) = cases(data), PARTS[part]
    every = [case for case in every if case.space in spaces]
    of_all = outcomes(data, part, every, seeds, jobs, work)
    asked = dict.fromkeys(itertools.chain(*of_all))
    found = []
    for number, case in enumerate(every):
        mine = of_all[number * seeds : (number + 1) * seeds]
        table = published(data, case.space)
        oracle = table.oracle(case.amounts(table) <= case.limit)
        for method, kind, n in asked:
            if n > max(evaluations) and n != len(table.search):
                continue
            kept = [r for o in mine if (r := o.get((method, kind, n))) is not None]
            found.append(
                {
                    **asdict(case),
                    "part": part,
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


def macro_regret(found: Sequence[Mapping[str, Any]], n: int) -> float:
    """Of surrogate and race after ``n`` trainings, mean of the budgets of chains."""
    return fmean(
        r["regret"]
        for r in found
        if (r["space"], r["method"], r["evaluations"]) == ("nasbench-macro", OURS, n)
    )


def cells(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean regret over devices and budgets, by trainings and method."""
    return {
        str(n): {
            name: fmean(
                r["regret"]
                for r in found
                if (r["space"], r["method"], r["evaluations"]) == ("nasbench201", name, n)
                and r["regret"] is not None
            )
            for name in TRAINED
        }
        for n in FEW
    }


def main() -> int:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--space", choices=SPACES)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(".cache/tabular"))
    options = parser.parse_args()
    if not options.data.exists():
        print(f"skipped: there is no {options.data}")
        return 0
    fresh = [options.only] if options.only else list(PARTS)
    spaces = [options.space] if options.space else SPACES
    before = rows_before("tabular") if options.only or options.space else []
    found = [
        r for r in before if r.get("part", "policies") not in fresh or r["space"] not in spaces
    ]
    for part in fresh:
        mine = rows(options.data, part, spaces, options.jobs, options.work)
        print(summary(mine))
        found += mine
    settings = {
        "arch_lr": ARCH_LR, "fill": FILL, "networks": NETWORKS,
        "losses": {name: asdict(make()) for name, make in LOSSES.items()},
        "rewards": {name: asdict(make()) for name, make in REWARDS.items()},
        "timings": TIMINGS, "checked": CHECKED,
    }  # fmt: skip
    few = [r for r in found if r.get("part") == "few"]
    there = {r["space"] for r in few}
    chains, of_cells = (space in there for space in SPACES)
    goals = {f"macro_regret_{n}": macro_regret(few, n) for n in FEW} if chains else {}
    more = {"cells_regret": cells(few)} if of_cells else {}
    print(write_results("tabular", **goals, **more, settings=settings, rows=found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
