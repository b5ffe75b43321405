"""A module whose weights are numbers: what computes them from others is carried out once."""

import copy
from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from edgenas.errors import CapabilityError


def copied(module: nn.Module) -> nn.Module:
    """All of it. Raises CapabilityError where something in it has no copy."""
    computed = {  # from parameters, and kept for autograd: copy.deepcopy refuses these
        id(t): t.detach().clone()
        for m in module.modules()
        for t in vars(m).values()
        if isinstance(t, Tensor) and not t.is_leaf
    }
    try:
        return copy.deepcopy(module, computed)
    except Exception as e:  # whatever a module holds
        said = " ".join(str(e).split())
        raise CapabilityError(
            f"{type(module).__name__} cannot be copied ({type(e).__name__}: {said:.200}); keep out "
            "of it what copy.deepcopy cannot copy: files, locks, generators"
        ) from e


def baked(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with weights as they are in eval mode, each its own, and no hooks.

    ``torch.nn.utils``' weight_norm, spectral_norm and pruning masks, and all parametrizations,
    are carried out with the weights of now; tied weights are tied no longer. Hooks that change
    what a layer gives are not carried out: ``compared`` tells. Raises CapabilityError.
    """
    module = copied(module)
    for m in [*module.modules()]:
        if is_parametrized(m):
            _unparametrized(m)
        for hook in reversed([*m._forward_pre_hooks.values()]):  # the last was put on the others
            if isinstance(hook, WeightNorm):
                sources = [getattr(m, f"{hook.name}_{part}") for part in "gv"]
                _carried_out(m, hook.name, sources, remove_weight_norm)
            elif isinstance(hook, SpectralNorm):
                sources = [getattr(m, f"{hook.name}_orig")]
                _carried_out(m, hook.name, sources, remove_spectral_norm)
                _forget_how_it_loads(m)
            elif isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                _carried_out(m, name, [getattr(m, f"{name}_orig")], prune.remove)
    for m in module.modules():
        m._forward_hooks.clear()
        m._forward_pre_hooks.clear()
    _untie(module)
    return module


def _forget_how_it_loads(m: nn.Module) -> None:
    """``remove_spectral_norm`` looks for this hook by a type that PyTorch wraps by now."""
    for key, hook in [*m._load_state_dict_pre_hooks.items()]:
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del m._load_state_dict_pre_hooks[key]


def _unparametrized(m: nn.Module) -> None:
    """By hand: ``remove_parametrizations`` takes the weight out of a class shared by all copies."""
    every = m.parametrizations
    assert isinstance(every, nn.ModuleDict)
    every.eval()  # spectral_norm moves on while it trains
    values = {name: getattr(m, name).detach().clone() for name in every}
    m.__class__ = type(m).__mro__[1]
    del m.parametrizations
    for name, steps in every.items():
        if sources := [*steps.parameters()]:
            learns = any(s.requires_grad for s in sources)
            m.register_parameter(name, nn.Parameter(values[name], learns))
        else:
            m.register_buffer(name, values[name])


def _carried_out(
    m: nn.Module, name: str, sources: Iterable[Tensor], remove: Callable[[nn.Module, str], object]
) -> None:
    """The weight ``name``; frozen where all its ``sources`` are."""
    learns = any(s.requires_grad for s in sources)
    remove(m, name)
    if isinstance(weight := getattr(m, name), nn.Parameter):
        weight.requires_grad_(learns)


def _untie(module: nn.Module) -> None:
    seen = set[int]()
    for m in module.modules():
        for name, t in [*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)]:
            if (at := t.untyped_storage().data_ptr()) in seen:
                own = t.detach().clone()
                learns = isinstance(t, nn.Parameter)
                setattr(m, name, nn.Parameter(own, t.requires_grad) if learns else own)
            seen.add(at)
