"""Gates reproduce the update rules of the reference implementation (proxylessnas, A.2)."""

import random
from typing import Any

import pytest
import torch
from torch import nn

from edgenas.gates import Gate, Mixed
from edgenas.policies import TwoPaths
from edgenas.pressure import Additive
from edgenas.relax import Loads, Step
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Choice


class One:
    """One choice of four, enough for a policy."""

    choices = (Choice("c", ("a", "b", "c", "d")),)


def mixed() -> tuple[list[nn.Module], Mixed]:
    torch.manual_seed(0)
    options: list[nn.Module] = [nn.Linear(3, 3) for _ in range(4)]
    return options, Mixed("c", options)


def policy_of(space: Any, lr: float = 0.1) -> TwoPaths:
    policy = TwoPaths(space, lr, random.Random(0))
    for a in policy.alpha.values():
        nn.init.normal_(a)
    return policy


@pytest.mark.parametrize("seed", range(6))
def test_alpha_gradient_is_the_formula_of_the_reference_code(seed):
    """d alpha_i = sum_j g_j p_j (delta_ij - p_i), g_j = <dL/dy, o_j(x)>, over the sampled two."""
    options, mix = mixed()
    policy = policy_of(One)
    alpha = policy.alpha["c"]
    x, up = torch.randn(5, 3), torch.randn(5, 3)
    gates, _ = policy.gates(random.Random(seed))
    live = gates["c"].live
    on = int(gates["c"].value.detach().argmax())
    y = mix(x, gates)
    torch.testing.assert_close(y, options[live[on]](x), rtol=0, atol=0)
    (y * up).sum().backward()
    g = [float((up * options[k](x)).sum().detach()) for k in live]
    p = alpha.detach()[list(live)].softmax(0).tolist()
    want = torch.zeros(4)
    for i, k in enumerate(live):
        want[k] = sum(g[j] * p[j] * ((i == j) - p[i]) for j in range(2))
    torch.testing.assert_close(alpha.grad, want)
    for k in set(range(4)) - {live[on]}:
        assert options[k].weight.grad is None


def test_options_that_are_not_live_are_never_called():
    class Bomb(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    mix = Mixed("c", [nn.Identity(), Bomb()])
    x = torch.randn(2, 3)
    assert mix(x, {"c": Gate.one(0)}) is x


def test_an_option_that_is_off_is_made_in_the_precision_of_the_one_that_is_on():
    """Backward runs after autocast has ended, and images are fp32 within it."""

    class Probe(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    mix, alpha = Mixed("c", [Probe(3, 3), Probe(3, 3)]), torch.zeros(2, requires_grad=True)
    p = alpha.softmax(0)
    gates = {"c": Gate((0, 1), torch.tensor([1.0, 0.0]) + (p - p.detach()))}
    for low, want in ((True, torch.bfloat16), (False, torch.float32)):
        seen: list[torch.dtype] = []
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = mix(torch.randn(4, 3), gates)
        torch.autograd.grad(y.float().square().sum(), alpha, retain_graph=True)
        assert seen == [want, want]


def test_softmax_gates_are_the_mixture():
    options, mix = mixed()
    p, x = torch.randn(4).softmax(0), torch.randn(5, 3)
    want = torch.stack([p[k] * options[k](x) for k in range(4)]).sum(0)
    torch.testing.assert_close(mix(x, {"c": Gate((0, 1, 2, 3), p)}), want)


def step_of(problem, net, price=0.3, seed=5):
    x, y = next(problem.task.batches("search", 32, 0, augmented=False))
    loads = Loads.of(problem.space, problem.objectives[0])
    return Step(
        lambda gates: problem.task.loss(net(x, gates), y),
        lambda gates: problem.task.correct(net(x, gates), y) / len(y),
        loads, 0, Additive(price), random.Random(seed),
    )  # fmt: skip


def test_a_step_keeps_what_was_not_sampled(problem, space: Mobile):
    """Rescaling of A.2: the two keep their mass together, the others theirs exactly."""
    policy = policy_of(space)
    net = space.supernet(Mixed)
    before = {c: s.exp() for c, s in policy.scores().items()}
    live = {c: g.live for c, g in policy.gates(random.Random(5))[0].items()}
    policy.arch_step(step_of(problem, net))
    after = {c: s.exp() for c, s in policy.scores().items()}
    moved = []
    for c, pair in live.items():
        rest = [k for k in range(len(before[c])) if k not in pair]
        torch.testing.assert_close(after[c][rest], before[c][rest])
        moved.append(float((after[c][list(pair)] - before[c][list(pair)]).abs().max()))
    assert max(moved) > 1e-2 and min(moved) > 1e-6


def test_without_momentum_an_alpha_without_gradient_stays(problem, space: Mobile):
    policy = policy_of(space)
    net = space.supernet(Mixed)
    policy.arch_step(step_of(problem, net, seed=5))
    before = {c: a.detach().clone() for c, a in policy.alpha.items()}
    live = {c: g.live for c, g in policy.gates(random.Random(6))[0].items()}
    policy.arch_step(step_of(problem, net, seed=6))
    for c, a in policy.alpha.items():
        rest = [k for k in range(len(a)) if k not in live[c]]
        assert torch.equal(a.detach()[rest], before[c][rest])


def test_weight_step_reaches_every_weight_of_the_active_options_and_no_other(problem, space):
    """NNI's ProxylessTrainer never trained its candidates (A.7, 10)."""
    net = space.supernet(Mixed)
    gates = policy_of(space).weight_gates(random.Random(1))
    assert all(not g.value.requires_grad and g.value.tolist() == [1.0] for g in gates.values())
    x, y = next(problem.task.batches("train", 32, 0, augmented=True))
    problem.task.loss(net(x, gates), y).backward()
    for layer in net.mixed:
        for k, option in enumerate(layer.mixed.options):
            active = k == gates[layer.mixed.choice].live[0]
            assert all((p.grad is not None) == active for p in option.parameters())
            assert not active or all(bool(p.grad.abs().sum() > 0) for p in option.parameters())


def test_arch_step_leaves_weights_and_their_gradients_alone(problem, space):
    net = space.supernet(Mixed)
    before = [p.detach().clone() for p in net.parameters()]
    policy_of(space).arch_step(step_of(problem, net))
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert all(p.grad is None for p in net.parameters())


def test_expected_load_reaches_alpha(problem, space):
    """NNI rebuilt it by torch.tensor, so the latency term never trained anything (A.7, 10)."""
    policy = policy_of(space)
    loads = Loads.of(space, problem.objectives[0])
    probs = {c: a.softmax(0) for c, a in policy.alpha.items()}
    expected = loads.expected(probs)[0]
    grads = torch.autograd.grad(expected, list(policy.alpha.values()))
    for (c, p), grad in zip(probs.items(), grads, strict=True):
        cost = loads.options[c][0, 0]
        torch.testing.assert_close(grad, (p * (cost - p @ cost)).detach())  # A.4: p_i (F_i - E)


@pytest.mark.parametrize("active", [True, False])
def test_skip_in_the_pair_still_learns(problem, space, active):
    """Where skip is active the reference code leaves the edge without any update (A.7, 6)."""
    skip = len(next(c for c in space.choices if c.name == "s1b2").options) - 1
    policy, net = policy_of(space), space.supernet(Mixed)

    def drawn(seed: int) -> bool:
        gate = policy.gates(random.Random(seed))[0]["s1b2"]
        on = gate.live[int(gate.value.detach().argmax())]
        return skip in gate.live and (on == skip) == active

    seed = next(s for s in range(500) if drawn(s))
    step = step_of(problem, net, price=0.0, seed=seed)
    before = policy.alpha["s1b2"].detach().clone()
    policy.arch_step(step)
    after = policy.alpha["s1b2"].detach()
    assert torch.isfinite(after).all()
    assert (after != before).sum() == 2
