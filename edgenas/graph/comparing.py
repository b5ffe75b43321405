"""Whether a graph computes what its module does, told in a few images."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgenas.errors import CapabilityError
from edgenas.graph.baking import baked, copied
from edgenas.graph.nodes import Graph

_TORCH, _HERE = Path(torch.__file__).parent, Path(__file__).parent
CALLS = 5  # with the same images
STILL = 1e-5  # of the spread of its outputs, by which two calls may differ
NEAR = 1e-3  # by which a graph may: batch norms are folded, so it rounds otherwise


def made_up(input: tuple[int, int, int]) -> Tensor:
    """Images (3, c, h, w): nothing, noise as normalised pixels are, and more than they ever are."""
    noise = torch.randn(3, *input, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([0.0, 1.0, 8.0]).reshape(3, 1, 1, 1)


def compare(graph: Graph, module: nn.Module, images: Tensor) -> None:
    """Raises CapabilityError where ``graph`` gives other outputs than ``module`` in eval mode.

    Or where ``module`` does not answer ``images`` (n, c, h, w) twice alike. It names what is at
    fault, where that can be told.
    """
    name = type(module).__name__
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        net = copied(module).cpu().float().eval()
        _answer(net, images)  # masks of weights that are normed too are a call late
        wanted, *more = (_answer(net, images) for _ in range(CALLS))
        if (moved := max(_off(again, wanted) for again in more)) > STILL:
            raise CapabilityError(
                f"{name} answers the same images otherwise at each call, {_percent(moved)} of its "
                f"outputs' spread: {_moving(net, images)} is random, or keeps something from call "
                "to call; it has to stand still in eval mode"
            )
        off = _off(graph(images), wanted)
        if off > NEAR:
            off = min(off, _off_in_float64(graph, net, images))
        if off > NEAR:
            raise CapabilityError(
                f"{name} cannot be exported: what can be written of it is {_percent(off)} of its "
                f"outputs' spread off; {_culprit(net, images)}"
            )


def _answer(net: nn.Module, images: Tensor) -> Tensor:
    try:
        answer: Tensor = net(images.clone())  # which it may overwrite
    except Exception as e:  # whatever a module raises
        name, shape = type(net).__name__, tuple(images.shape)
        raise CapabilityError(f"{name} fails for images {shape}: {told(e)}") from e
    return answer.clone()


def told(e: Exception) -> str:
    """In one line, with the line of the user's code that it came from."""
    reason = (str(e).splitlines() or [type(e).__name__])[0]
    frames = traceback.extract_tb(e.__traceback__)
    own = [f for f in frames if not {_TORCH, _HERE} & {*Path(f.filename).parents}]
    at = f" (at {Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{reason}{at}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _off(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the spread of ``wanted``."""
    if got.shape != wanted.shape:
        return float("inf")
    got, wanted = (torch.nan_to_num(t.double()) for t in (got, wanted))
    spread, largest = wanted.max() - wanted.min(), wanted.abs().max()
    least = max(float(spread), 1e-6 * float(largest), 1e-30)
    return float((got - wanted).abs().max()) / least


def _off_in_float64(graph: Graph, net: nn.Module, images: Tensor) -> float:
    """As ``_off``, where rounding plays no part; infinite where the module has no float64."""
    try:
        return _off(graph(images.double()), _answer(copied(net).double(), images.double()))
    except Exception:  # whatever a module does to a type that it does not expect
        return float("inf")


@dataclass(frozen=True)
class _Call:
    """Of a submodule: what it read and gave, as the network saw it, hooks included."""

    name: str
    x: Tensor
    y: Tensor


@contextmanager
def _recorded(net: nn.Module) -> Iterator[list[_Call]]:
    calls, open_calls, handles = list[_Call](), list[Any](), list[Any]()
    for name, m in net.named_modules():

        def before(m: nn.Module, args: Any) -> None:
            open_calls.append(args[0].clone() if args and isinstance(args[0], Tensor) else None)

        def after(m: nn.Module, args: Any, y: Any, name: str = name) -> None:
            x = open_calls.pop()
            if isinstance(x, Tensor) and isinstance(y, Tensor):
                calls.append(_Call(name, x, y.clone()))

        handles.append(m.register_forward_pre_hook(before, prepend=True))
        handles.append(m.register_forward_hook(after))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _moving(net: nn.Module, images: Tensor) -> str:
    """The innermost part that gives two answers to the same question."""
    runs = []
    with _recorded(net) as calls:
        for _ in range(CALLS):
            calls.clear()
            net(images.clone())
            times = Counter[str]()
            run = {}
            for call in calls:
                times[call.name] += 1
                run[call.name, times[call.name]] = call
            runs.append(run)
    first, *others = runs
    for key, call in first.items():
        for other in others:
            again = other.get(key)
            if again and _off(again.x, call.x) == 0 and _off(again.y, call.y) > STILL:
                return f"{key[0]!r}" if key[0] else "the network itself"
    return "something in it"


def _culprit(net: nn.Module, images: Tensor) -> str:
    """What gives another answer within ``net`` than it gives by itself."""
    modules, by_itself = dict(net.named_modules()), dict(baked(net).named_modules())
    for m in by_itself.values():
        m.training = False  # whatever its own eval() does
    is_leaf = fx.Tracer().is_leaf_module
    hooked = [n for n, m in modules.items() if _hooks(m)]
    with _recorded(net) as calls:
        net(images.clone())
    for call in calls:
        m = by_itself[call.name]
        if not is_leaf(m, call.name):
            continue
        off = _off(type(m).forward(m, call.x.clone()), call.y)
        if off > NEAR:
            why = _why(modules[call.name], call.name in hooked)
            return f"{call.name!r} is {_percent(off)} of its own off: {why}"
    replaced = [n for n, m in modules.items() if "forward" in vars(m)]
    for name in (*hooked, *replaced):
        what = f"{name!r}" if name else "the network itself"
        return f"{what}: {_why(modules[name], name in hooked)}"
    return "it computes something beside its layers, or overwrites what is read again"


def _why(m: nn.Module, hooked: bool) -> str:
    if hooked:
        return "it has a forward hook, which no file can hold: write it into forward"
    if "forward" in vars(m):
        return "its forward was replaced: write a module of its own"
    if m.training:
        return "it stays in training mode when the network is put into eval mode"
    return f"a {type(m).__name__} that was changed"


def _hooks(m: nn.Module) -> bool:
    """Other than those that ``baked`` carries out."""
    known = ("torch.nn.utils.",)
    every = (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
    return any(not type(h).__module__.startswith(known) for h in every)
