"""What every space promises, here Mobile in several forms."""

import dataclasses
import itertools
import json
import random

import pytest
import torch
from torch import nn

from edgenas import ops
from edgenas.errors import CapabilityError, InvalidArchitecture, UnknownName, UsageError
from edgenas.gates import Mixed
from edgenas.space import SPACES, Relaxable, load_space, require
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture, OpSpec

TINY = {"kind": "mobile", "preset": "tiny", "resolution": 28, "channels": 1, "classes": 10}
FORMS = {
    "narrow": {},
    "hard-swish": {"activation": "hard-swish"},
    "odd sizes": {"resolution": 13, "stem_stride": 2, "strides": (2, 2)},
    "colour, 13 options": {"channels": 3, "kernels": (3, 5, 7), "expansions": (1, 2, 3, 6)},
    "no shortcut": {"depths": (1, 1), "widths": (12, 16)},
}


@pytest.fixture(params=FORMS)
def form(request, space) -> Mobile:
    return dataclasses.replace(space, **FORMS[request.param])


def images(space, n=2) -> torch.Tensor:
    return torch.randn(n, *space.input, generator=torch.Generator().manual_seed(0))


def randomised(net: nn.Module) -> nn.Module:
    """Batch norms that tell whether they are applied."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t in (m.weight.data, m.bias.data, m.running_mean, m.running_var):
                t.uniform_(0.5, 1.5)
    return net.eval()


def test_samples_and_mutants_are_in_the_space(form):
    rng = random.Random(0)
    for _ in range(30):
        a = form.sample(rng)
        b = form.mutate(a, rng)
        form.check(a)
        form.check(b)
        assert sum(x != y for x, y in zip(a.picks, b.picks, strict=True)) == 1
        for op in form.ops(a):
            assert OpSpec.parse(str(op)) == op


def test_every_option_is_drawn(form):
    rng = random.Random(0)
    archs = [form.sample(rng) for _ in range(400)]
    for c in form.choices:
        assert {a.index(c.name) for a in archs} == set(range(len(c.options)))


def test_vocabulary_is_exactly_what_architectures_contain(form):
    names = [c.name for c in form.choices]
    first = Architecture.of(form.id, dict.fromkeys(names, 0))
    seen = set()
    for c in form.choices:
        for k in range(len(c.options)):
            seen |= set(form.ops(first.but(**{c.name: k})))
    assert form.vocabulary() == seen


def test_operators_chain_and_are_those_of_the_options(form):
    rng = random.Random(1)
    for _ in range(10):
        arch = form.sample(rng)
        chain = form.ops(arch)
        assert (chain[0].cin, chain[0].size) == (form.channels, form.resolution)
        assert chain[-1].cout == form.classes
        for a, b in itertools.pairwise(chain):
            assert (a.cout, ops.output_size(a)) == (b.cin, b.size)
        picked = [o for c in form.choices for o in form.option_ops(c.name)[arch.index(c.name)]]
        assert sorted(map(str, chain)) == sorted(map(str, (*form.fixed_ops(), *picked)))


def test_built_network_executes_its_operators_in_order(form):
    arch = form.sample(random.Random(2))
    net, shapes = form.build(arch).eval(), []
    for layer in net.layers:
        layer.register_forward_hook(lambda m, x, y: shapes.append((x[0].shape[1:], y.shape[1:])))
    assert net(images(form)).shape == (2, form.classes)
    for op, (before, after) in zip(form.ops(arch), shapes, strict=True):
        assert tuple(before) == (op.cin, op.size, op.size)
        assert after[0] == op.cout
        assert op.kind == "classifier" or after[1:] == (ops.output_size(op),) * 2


def test_subnet_is_the_supernet_under_gates(form):
    torch.manual_seed(0)
    net = randomised(form.supernet(Mixed))
    rng, x = random.Random(3), images(form)
    for _ in range(6):
        arch = form.sample(rng)
        alone = form.subnet(net, arch).eval()
        torch.testing.assert_close(alone(x), net(x, form.gates(arch)))
        form.build(arch).load_state_dict(alone.state_dict())  # the same layers by the same names


def test_subnet_is_a_copy(space):
    net = space.supernet(Mixed)
    arch = space.sample(random.Random(0))
    alone = space.subnet(net, arch)
    mine = {p.data_ptr() for p in net.parameters()}
    assert all(p.data_ptr() not in mine for p in alone.parameters())
    with pytest.raises(TypeError, match="not a supernet"):
        space.subnet(alone, arch)


def test_decode_inverts_gates(form):
    rng = random.Random(4)
    for _ in range(10):
        arch = form.sample(rng)
        scores = {
            c.name: torch.eye(len(c.options))[form.gates(arch)[c.name].live[0]]
            for c in form.choices
        }
        assert form.decode(scores) == arch


def test_skip_only_where_shapes_allow_it(form):
    for c in form.choices:
        positions = form.option_ops(c.name)
        block = positions[0][0]
        assert (c.options[-1] == "skip") == ops.has_residual(block) == (positions[-1] == ())
        assert len(positions) == len(c.options)


def test_description_rebuilds_the_space(form):
    text = json.dumps(form.describe())
    again = load_space(json.loads(text))
    assert again == form and again.id == form.id


def test_ids_tell_spaces_apart(space):
    forms = [dataclasses.replace(space, **change) for change in FORMS.values()]
    assert len({f.id for f in forms}) == len(FORMS)
    assert dataclasses.replace(space).id == space.id
    arch = forms[1].sample(random.Random(0))
    with pytest.raises(InvalidArchitecture, match="is of space"):
        space.check(arch)


def test_presets():
    assert load_space(TINY).input == (1, 28, 28)
    paper = load_space({**TINY, "preset": "proxyless", "resolution": 224, "channels": 3})
    sizes = [len(c.options) for c in paper.choices]
    assert (sizes.count(6), sizes.count(7)) == (6, 15)  # A.1
    assert sum(ops.macs(o) for o in paper.ops(paper.sample(random.Random(0)))) > 1e8


@pytest.mark.parametrize(
    "change, says",
    [
        ({"widths": (8,)}, "widths, depths and strides need one entry a stage, not 1, 2 and 2"),
        ({"activation": "gelu"}, "activation is 'relu6' or 'hard-swish', not 'gelu'"),
        ({"kernels": (4,)}, "kernels odd"),
        ({"stem": 0}, "sizes must be positive"),
        ({"classes": 1}, "1 class"),
        ({"kernels": (3,), "expansions": (2,)}, "nothing to search"),
    ],
)
def test_what_cannot_be_a_space(space, change, says):
    with pytest.raises(UsageError, match=says):
        dataclasses.replace(space, **change)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"preset": "tinny"}, "Did you mean 'tiny'"),
        ({"width": 3}, "unknown key 'width'.*Did you mean 'widths'"),
        ({"stem": "many"}, "stem"),
        ({"kind": "mobil"}, "Did you mean 'mobile'"),
    ],
)
def test_settings_that_are_wrong_are_named(change, says):
    with pytest.raises(UsageError, match=says):
        load_space({**TINY, **change})


@pytest.mark.parametrize(
    "change, says",
    [
        ({"s1b1": 4}, "s1b1 is 4, allowed 0 to 3"),
        ({"s1b1": -1}, "s1b1 is -1"),
        ({"s1b1": 0.0}, "s1b1 is 0.0"),
        ({"s9b9": 0}, "missing or unknown choices: s9b9"),
    ],
)
def test_picks_outside_the_space_are_named(space, change, says):
    wider = dataclasses.replace(space, widths=(10, 12))  # no skip in s1b1
    arch = wider.sample(random.Random(0))
    with pytest.raises(InvalidArchitecture, match=says):
        wider.check(arch.but(**change))


def test_capabilities(space):
    require(space, Relaxable, "proxyless")
    with pytest.raises(CapabilityError, match=r"'proxyless' needs a space that is Relaxable"):
        require(object(), Relaxable, "proxyless")
    assert "mobile" in set(SPACES)
    with pytest.raises(UnknownName):
        SPACES["resnet"]


@torch.no_grad()
def test_options_of_a_supernet_start_alike_and_quiet_beside_a_shortcut(form):
    torch.manual_seed(0)
    net = form.supernet(Mixed).train()
    for c, layer in zip(form.choices, net.mixed, strict=True):
        specs = [o[0] for o in form.option_ops(c.name) if o]
        x = torch.randn(16, specs[0].cin, 9, 9)
        out = {s: body(x).flatten() for s, body in zip(specs, layer.mixed.options, strict=False)}
        widest = [s for s in specs if s.arg("e", 1) == max(form.expansions)]
        assert len(widest) == len(form.kernels)
        for other in widest[1:]:
            assert torch.corrcoef(torch.stack([out[widest[0]], out[other]]))[0, 1] > 0.3
        assert (float(out[specs[0]].std()) < 0.2) == layer.shortcut
