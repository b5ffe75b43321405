"""The forms of ProxylessNAS agree where they must (arXiv:1812.00332, sec. 3.2 and 3.3)."""

import dataclasses
import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from edgenas.gates import Gate, Mixed
from edgenas.methods.proxyless import Proxyless
from edgenas.policies import AllPaths, Logits, Mixture, Reinforce, TwoPaths, binary
from edgenas.pressure import Additive, Multiplicative
from edgenas.relax import Loads, Schedule, Step
from edgenas.search import Ledger
from edgenas.spec import Choice
from edgenas.supernet import train_supernet

pytestmark = pytest.mark.trains


class One:
    """One choice of four, enough for a policy."""

    choices = (Choice("c", ("a", "b", "c", "d")),)


POLICIES = {
    "two paths": lambda space, lr: TwoPaths(space, lr, random.Random(0)),
    "all paths": lambda space, lr: AllPaths(space, lr, random.Random(0)),
    "reinforce": lambda space, lr: Reinforce(space, lr / 4, random.Random(0), 16),
    "mixture": lambda space, lr: Mixture(space, lr, random.Random(0)),
}


@pytest.fixture
def toy():
    """Four options of float64, an input, and what the output is multiplied by in a loss."""
    torch.manual_seed(0)
    options: list[nn.Module] = [
        nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(4)
    ]
    mix = Mixed("c", options).double()
    alpha = torch.randn(4, dtype=torch.float64, requires_grad=True)
    return (
        mix,
        alpha,
        torch.randn(6, 3, dtype=torch.float64),
        torch.randn(6, 3, dtype=torch.float64),
    )


def loss_of(y: Tensor, up: Tensor) -> Tensor:
    """Not linear in y, so that gate gradients depend on the option that is on."""
    return (torch.nn.functional.softplus(y * up)).sum()


def gradient(mix, alpha, x, up, live, on, loss=loss_of) -> Tensor:
    """Of alpha, with ``live`` options and one of them on."""
    p = alpha[list(live)].softmax(0)
    hard = torch.tensor([float(k == on) for k in live], dtype=torch.float64)
    y = mix(x, {"c": Gate(tuple(live), hard + (p - p.detach()))})
    return torch.autograd.grad(loss(y, up), alpha)[0]


@pytest.mark.parametrize("on", range(4))
def test_all_paths_equal_those_that_are_kept_in_memory(toy, on):
    """``full`` of the reference code: every output made forward, those that are off detached."""
    mix, alpha, x, up = toy
    p = alpha.softmax(0)
    hard = torch.eye(4, dtype=torch.float64)[on]
    value = hard + (p - p.detach())
    outputs = [o(x) if k == on else o(x).detach() for k, o in enumerate(mix.options)]
    kept = sum(v * y for v, y in zip(value, outputs, strict=True))
    want = torch.autograd.grad(loss_of(kept, up), alpha)[0]
    torch.testing.assert_close(
        gradient(mix, alpha, x, up, range(4), on), want, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("live", [(0, 1, 2, 3), (2, 0), (1, 3)])
def test_gate_gradients_are_those_of_finite_differences(toy, live):
    """Of the loss in the weights of the options, at the one that is on."""
    mix, alpha, x, up = toy
    h, on = 1e-5, live[0]

    def at(weights):
        y = sum(w * mix.options[k](x) for k, w in zip(live, weights, strict=True))
        return float(loss_of(y, up).detach())

    start = [float(k == on) for k in live]
    g = []
    for j in range(len(live)):
        ahead, behind = ([*start] for _ in range(2))
        ahead[j] += h
        behind[j] -= h
        g.append((at(ahead) - at(behind)) / (2 * h))
    p = alpha.detach()[list(live)].softmax(0)
    want = torch.zeros(4, dtype=torch.float64)
    for i, k in enumerate(live):
        want[k] = sum(g[j] * p[j] * (float(i == j) - p[i]) for j in range(len(live)))
    torch.testing.assert_close(gradient(mix, alpha, x, up, live, on), want, rtol=1e-6, atol=1e-8)


def test_two_paths_are_all_paths_in_expectation(toy):
    """Each pair by the square of its mass; exactly, where the loss is linear in the output."""
    mix, alpha, x, up = toy

    def linear(y, up):
        return (y * up).sum()

    p = alpha.detach().softmax(0)
    pairs = sum(
        (p[i] + p[j]) ** 2 * gradient(mix, alpha, x, up, (i, j), i, linear)
        for i, j in itertools.combinations(range(4), 2)
    )
    every = gradient(mix, alpha, x, up, range(4), 2, linear)
    torch.testing.assert_close(pairs, every, rtol=1e-12, atol=1e-14)


def test_pairs_are_drawn_as_often_as_two_draws_without_return():
    policy = TwoPaths(One, 0.1, random.Random(0))  # type: ignore[arg-type]
    with torch.no_grad():
        policy.alpha["c"].copy_(torch.tensor([1.0, 0.0, -1.0, 0.5]))
    p = policy.alpha["c"].detach().softmax(0).tolist()
    rng, count = random.Random(1), dict.fromkeys(itertools.combinations(range(4), 2), 0)
    on = [0] * 4
    for _ in range(6000):
        gate = policy.gates(rng)[0]["c"]
        count[tuple(sorted(gate.live))] += 1
        on[gate.live[int(gate.value.argmax())]] += 1
    for (i, j), seen in count.items():
        want = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        assert seen / 6000 == pytest.approx(want, abs=0.025)


def test_reinforce_climbs_the_expected_reward():
    """The mean of its gradients is that of the expectation, however hard the batch."""
    policy = Reinforce(One, 0.1, random.Random(0), 4)  # type: ignore[arg-type]
    policy.space = Picks()  # type: ignore[assignment]
    with torch.no_grad():
        policy.alpha["c"].copy_(torch.tensor([0.3, -0.2, 0.8, 0.0]))
    worth = torch.tensor([0.2, 0.9, 0.4, 0.6])
    alpha = policy.alpha["c"]
    want = torch.autograd.grad(-(alpha.softmax(0) @ worth), alpha)[0]
    rng = random.Random(2)
    seen: list[Tensor] = []
    policy.descend = lambda loss, of_load: seen.append(torch.autograd.grad(loss, alpha)[0])  # type: ignore[method-assign]
    step = Reward(worth, rng)
    for _ in range(3000):
        policy.arch_step(step)  # type: ignore[arg-type]
    total = torch.stack(seen).mean(0)
    torch.testing.assert_close(total, want, rtol=0, atol=0.006)


@dataclasses.dataclass
class Pick:
    k: int

    def index(self, choice: str) -> int:
        return self.k


class Picks:
    def decode(self, scores):
        return Pick(int(scores["c"].argmax()))

    def gates(self, pick):
        return {"c": Gate.one(pick.k)}


@dataclasses.dataclass
class Reward:
    worth: Tensor
    rng: random.Random

    def reward(self, gates):
        value = float(self.worth[gates["c"].live[0]])
        return value, value


def saved_bytes(policy: Logits, options: int) -> int:
    """What a forward pass of an architecture step keeps for the way back."""
    mix = Mixed(
        "c",
        [nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)) for _ in range(options)],
    )
    gates, _ = policy.gates(random.Random(0)) if hasattr(policy, "gates") else (None, None)
    if gates is None:
        p = policy.alpha["c"].softmax(0)
        gates = {"c": Gate(tuple(range(options)), p)}
    kept: dict[int, int] = {}
    weights = {w.data_ptr() for w in mix.parameters()}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() not in weights:
            kept[t.data_ptr()] = t.untyped_storage().nbytes()
        return t

    x = torch.randn(512, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = mix(x, gates)
    assert y.requires_grad
    return sum(kept.values())


def of_options(n: int):
    return type("Wide", (), {"choices": (Choice("c", tuple(f"o{k}" for k in range(n))),)})


@pytest.mark.parametrize("name", ["two paths", "all paths"])
def test_memory_is_flat_in_the_number_of_options(name):
    few, many = (saved_bytes(POLICIES[name](of_options(n), 0.1), n) for n in (2, 24))
    assert many <= few + 24 * 64  # gates and indices


def test_memory_of_a_mixture_grows_with_the_number_of_options():
    """So that the test above can fail."""
    few, many = (saved_bytes(POLICIES["mixture"](of_options(n), 0.1), n) for n in (2, 24))
    assert many > 8 * few


def ends_where_load_says(policy, problem, weight):
    loads = Loads.of(problem.space, problem.objectives[0])
    found = problem.space.decode(policy.scores())
    for c in problem.space.choices:
        cost = loads.options[c.name][0, 0] * weight
        assert found.index(c.name) == int(cost.argmin())


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("weight", [40.0, -40.0])
def test_strong_pressure_ends_at_the_fastest_and_reversed_at_the_slowest(name, weight, problem):
    """Beside a loss that prefers nothing."""
    policy = POLICIES[name](problem.space, 0.1)
    loads, rng = Loads.of(problem.space, problem.objectives[0]), random.Random(1)
    for _ in range(200):
        step = Step(
            lambda gates: torch.ones(()), lambda gates: 0.5, loads, 0, Additive(weight), rng
        )
        policy.arch_step(step)
    ends_where_load_says(policy, problem, weight)


@pytest.mark.parametrize("weight", [40.0, -40.0])
def test_so_it_does_in_a_supernet(weight, problem, space, tmp_path):
    policy = TwoPaths(space, 0.3, random.Random(0))
    schedule = Schedule(
        epochs=6, warmup=0, batch=32, arch_every=1, pressure={"kind": "additive", "weight": weight}
    )
    train_supernet(problem, space, [policy], schedule, Ledger(tmp_path / "l"))
    ends_where_load_says(policy, problem, weight)


def test_the_unit_of_time_changes_nothing(problem, space, tmp_path):
    """Bit for bit, in units of 1/1024 ms, which is exact in binary."""
    (budget,) = problem.objectives[0].budgets
    table = budget.predictor.table
    rows = {
        op: dataclasses.replace(t, floor_ms=t.floor_ms * 1024, p50_ms=t.p50_ms * 1024,
                                p90_ms=t.p90_ms * 1024)
        for op, t in table.rows.items()
    }  # fmt: skip
    fit = dataclasses.replace(table.header.fit, intercept_ms=table.header.fit.intercept_ms * 1024)
    other = dataclasses.replace(table, rows=rows, header=dataclasses.replace(table.header, fit=fit))
    scaled = dataclasses.replace(
        budget, limit_ms=budget.limit_ms * 1024,
        predictor=dataclasses.replace(budget.predictor, table=other),
    )  # fmt: skip
    objective = dataclasses.replace(problem.objectives[0], budgets=(scaled,))
    again = dataclasses.replace(problem, objectives=(objective,))
    for kind in ("adaptive", "additive", "multiplicative"):
        method = Proxyless(epochs=2, warmup=1, batch=64, samples=0, pressure={"kind": kind})
        seen = []
        for name, p in (("ms", problem), ("scaled", again)):
            ledger = Ledger(tmp_path / f"{kind}-{name}.jsonl")
            found = method.run(p, ledger)
            last = ledger.epochs("search")[-1]["levels"][0]
            seen.append((found.archs, last["probabilities"], last["load"], last["weight"]))
        assert seen[0] == seen[1]


def test_a_gate_is_one_hot_and_its_gradient_is_that_of_the_probabilities():
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    gate = binary((4, 1, 7), p, torch.Generator().manual_seed(0))
    assert gate.live == (4, 1, 7)
    assert sorted(gate.value.tolist()) == [0.0, 0.0, 1.0]
    torch.testing.assert_close(torch.autograd.functional.jacobian(
        lambda q: binary((4, 1, 7), q, torch.Generator().manual_seed(0)).value, p
    ), torch.eye(3, dtype=torch.float64))  # fmt: skip


def test_a_multiplicative_reward_is_that_of_the_paper():
    """accuracy (budget / latency)^w; at the budget it is the accuracy."""
    pressure = Multiplicative(exponent=0.1)
    assert pressure.reward(0.7, 1.0) == pytest.approx(0.7)
    assert pressure.reward(0.7, 2.0) == pytest.approx(0.7 * 0.5**0.1)
    assert float(pressure.loss(torch.tensor(2.0), torch.tensor(2.0))) == pytest.approx(2 * 2**0.1)


def test_a_network_that_takes_nothing_has_a_finite_multiplicative_reward_and_gradient():
    """A cell of none alone is estimated at 0 ms: one search in hundreds drew it and ended."""
    pressure = Multiplicative(exponent=0.1)
    assert pressure.reward(0.1, 0.0) == pressure.reward(0.1, 0.001) < pressure.reward(0.9, 0.02)
    load = torch.zeros((), requires_grad=True)
    pressure.loss(torch.tensor(2.0), load).backward()
    assert torch.isfinite(load.grad)


def test_a_step_sees_the_load_of_whole_networks(problem, space):
    loads = Loads.of(space, problem.objectives[0])
    step = Step(
        lambda g: torch.zeros(()), lambda g: 0.75, loads, 0, Additive(2.0), random.Random(0)
    )
    arch = space.sample(random.Random(3))
    load = problem.objectives[0].load(space.ops(arch))
    reward, accuracy = step.reward(space.gates(arch))
    assert accuracy == 0.75
    assert reward == pytest.approx(0.75 - 2 * (load - 1), rel=1e-5)
