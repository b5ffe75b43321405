"""What every space promises, here Mobile in several forms."""

import dataclasses
import itertools
import json
import math
import random

import pytest
import torch
from torch import nn

from edgenas import ops
from edgenas.errors import CapabilityError, InvalidArchitecture, UnknownName, UsageError
from edgenas.gates import Gate, Mixed, run
from edgenas.resize import resized
from edgenas.space import SPACES, Relaxable, context_of, load_space, require
from edgenas.spaces.mobile import Mobile
from edgenas.spec import Architecture, Choice, OpSpec

TINY = {"kind": "mobile", "preset": "tiny", "resolution": 28, "channels": 1, "classes": 10}
V3 = {"ses": (0, 4), "activations": ("relu6", "hard-swish"), "kernels": (3,)}
FORMS = {
    "narrow": {},
    "hard-swish": {"activations": ("hard-swish",)},
    "gates and activations": {
        "ses": (0, 2, 4),
        "activations": ("relu6", "hard-swish"),
        "edge_activation": "hard-swish",
        "features": 24,
    },
    "odd sizes": {"resolution": 13, "stem_stride": 2, "strides": (2, 2)},
    "colour, 13 options": {"channels": 3, "kernels": (3, 5, 7), "expansions": (1, 2, 3, 6)},
    "dense": {"blocks": ("fused-mbconv", "conv"), "first": 0, "head": 0},
    "mixed with dense": {
        "blocks": ("conv", "fused-mbconv", "mbconv"),
        "dense_kernels": (3, 5),
        "expansions": (1, 3),
        "ses": (0, 2),
        "activations": ("relu6", "hard-swish"),
        "first": 0,
    },
    "widths, with dense blocks": {
        "blocks": ("mbconv", "fused-mbconv", "conv"),
        "multipliers": (1.0, 2.0, 0.5),
        "activations": ("hard-swish",),
        "head": 0,
    },
    "no shortcut": {"depths": (1, 1), "widths": (12, 16)},
    "widths, one of them without the first shortcut": {"multipliers": (1.0, 2.0, 0.5)},
    "one width, one resolution": {"multipliers": (1.5,), "resolutions": (8,)},
    "resolutions": {"resolutions": (12, 8)},
    "widths and resolutions, gates and activations": {
        "widths": (16, 24),
        "multipliers": (0.5, 1.0, 1.5),
        "resolutions": (8, 12, 16),
        "ses": (0, 2, 4),
        "activations": ("relu6", "hard-swish"),
        "edge_activation": "hard-swish",
        "features": 24,
    },
}


@pytest.fixture(params=FORMS)
def form(request, space) -> Mobile:
    return dataclasses.replace(space, **FORMS[request.param])


def images(space, n=2) -> torch.Tensor:
    return torch.randn(n, *space.input, generator=torch.Generator().manual_seed(0))


def blocks(space) -> list[Choice]:
    """What is chosen block by block."""
    return [c for c in space.choices if c.name not in space.contexts[0].picks]


def randomised(net: nn.Module) -> nn.Module:
    """Batch norms and gates that tell whether they are applied."""
    for m in net.modules():
        if isinstance(m, ops.SqueezeExcitation):
            m.excite.weight.data.uniform_(-1, 1)
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
    for context in form.contexts:
        for c in blocks(form):
            for k in range(len(c.options)):
                seen |= set(form.ops(first.but(**context.picks, **{c.name: k})))
    assert form.vocabulary() == seen


def test_contexts_are_all_joint_picks_of_what_they_are_made_of(form):
    made_of = [c for c in form.choices if c.name in ("width", "resolution")]
    assert [c.name for c in form.choices[: len(made_of)]] == [c.name for c in made_of]
    every = [
        dict(zip([c.name for c in made_of], picks, strict=True))
        for picks in itertools.product(*(range(len(c.options)) for c in made_of))
    ]
    assert [dict(c.picks) for c in form.contexts] == every
    for context in form.contexts:
        assert context.options.keys() == {c.name for c in form.choices}
        assert all(not any(context.options[name]) for name in context.picks)
    most = max(sum(map(ops.macs, c.fixed)) for c in form.contexts)
    assert sum(map(ops.macs, form.fixed_ops())) == most


def test_operators_chain_and_are_those_of_the_options(form):
    rng = random.Random(1)
    for _ in range(10):
        arch = form.sample(rng)
        chain = form.ops(arch)
        assert chain[0].cin == form.channels
        assert chain[0].size in (form.resolutions or (form.resolution,))
        assert chain[-1].cout == form.classes
        for a, b in itertools.pairwise(chain):
            assert (a.cout, ops.output_size(a)) == (b.cin, b.size)
        context = context_of(form, arch)
        picked = [o for c in form.choices for o in context.options[c.name][arch.index(c.name)]]
        assert sorted(map(str, chain)) == sorted(map(str, (*context.fixed, *picked)))


def test_built_network_executes_its_operators_in_order(form):
    arch = form.sample(random.Random(2))
    net, shapes = form.build(arch).eval(), []
    for layer in net.layers:
        layer.register_forward_hook(lambda m, x, y: shapes.append((x[0].shape[1:], y.shape[1:])))
    size = form.ops(arch)[0].size
    assert net(torch.randn(2, form.channels, size, size)).shape == (2, form.classes)
    for op, (before, after) in zip(form.ops(arch), shapes, strict=True):
        assert tuple(before) == (op.cin, op.size, op.size)
        assert after[0] == op.cout
        assert op.kind == "classifier" or after[1:] == (ops.output_size(op),) * 2


def test_subnet_is_the_supernet_under_gates(form):
    torch.manual_seed(0)
    net = randomised(form.supernet(Mixed)).double()
    rng, x = random.Random(3), images(form).double()
    for _ in range(12):
        arch = form.sample(rng)
        alone = form.subnet(net, arch).eval()
        want = alone(resized(x, form.ops(arch)[0].size))
        torch.testing.assert_close(want, net(x, form.gates(arch)), rtol=1e-11, atol=1e-12)
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
    for c in blocks(form):
        everywhere = [context.options[c.name] for context in form.contexts]
        assert all(len(options) == len(c.options) for options in everywhere)
        fits = all(ops.has_residual(options[0][0]) for options in everywhere)
        assert (c.options[-1] == "skip") == fits
        assert all((options[-1] == ()) == fits for options in everywhere)


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


def test_labels_say_what_an_option_is_where_there_is_a_choice(space):
    first = dataclasses.replace(space, **V3).choices[0]
    assert first.options == (
        "k3e2", "k3e2hs", "k3e2se4", "k3e2se4hs", "k3e4", "k3e4hs", "k3e4se4", "k3e4se4hs", "skip",
    )  # fmt: skip
    assert space.choices[0].options == ("k3e2", "k3e4", "k5e2", "k5e4", "skip")


def test_a_fused_block_of_expansion_1_is_a_plain_convolution(space):
    dense = dataclasses.replace(space, blocks=("fused-mbconv",), expansions=(1, 4))
    (options,) = {c.options for c in dense.choices if c.options[-1] == "skip"}
    assert options == ("conv-k3", "fused-k3e4", "skip")
    more = dataclasses.replace(dense, blocks=("conv", "fused-mbconv", "mbconv"), kernels=(5,))
    assert more.choices[0].options == ("conv-k3", "fused-k3e4", "k5e1", "k5e4", "skip")
    said = [str(op) for (op,) in dense.option_ops("s1b1")[:2]]
    assert said == ["conv 8-8 @12 k3 res1 s1", "fused-mbconv 8-8 @12 e4 k3 s1"]
    said = [str(op) for (op,) in dense.option_ops("s2b1")]
    assert said == ["conv 8-12 @12 k3 s2", "fused-mbconv 8-12 @12 e4 k3 s2"]


def test_first_block_and_head_may_be_left_out(space):
    bare = dataclasses.replace(space, first=0, head=0)
    assert [str(op) for op in bare.fixed_ops()] == ["conv 1-8 @12 k3 s1", "classifier 12-3 @6"]
    assert bare.ops(bare.all_last)[1:-1] == tuple(
        op for c in bare.choices for op in bare.option_ops(c.name)[-1]
    )


def test_a_plain_cnn_is_in_the_preset_of_its_size():
    """3 x 3 convolutions of 24, 48, 48, 96, 96 and 192 channels, strides 2, 2, 1, 2, 1, 2."""
    space = load_space({"kind": "mobile", "preset": "64px", "classes": 6})
    picks = {"s1b1": "conv-k3", "s1b2": "conv-k3", "s2b1": "conv-k3", "s2b2": "conv-k3",
             "s3b1": "conv-k3"}  # fmt: skip
    arch = Architecture.of(
        space.id, {c.name: c.options.index(picks.get(c.name, "skip")) for c in space.choices}
    )
    said = [(op.cout, op.arg("k", 0), op.arg("s", 0)) for op in space.ops(arch)[:-2]]
    assert said == [(24, 3, 2), (48, 3, 2), (48, 3, 1), (96, 3, 2), (96, 3, 1), (192, 3, 2)]


def most_and_least_macs(space):
    """Of a network of ``space``."""
    each = [[sum(map(ops.macs, o)) for o in space.option_ops(c.name)] for c in space.choices]
    fixed = sum(map(ops.macs, space.fixed_ops()))
    return fixed + sum(map(max, each)), fixed + sum(map(min, each))


@pytest.mark.parametrize(
    "pixels, preset",
    [(None, "32px"), (28, "32px"), (32, "32px"), (48, "64px"), (64, "64px"), (96, "96px"),
     (120, "128px"), (160, "128px"), (192, "224px"), (512, "224px")],
)  # fmt: skip
def test_without_a_preset_it_is_that_of_the_size_of_the_images(pixels, preset):
    size = {} if pixels is None else {"resolution": pixels}
    space = load_space({"kind": "mobile", **size})
    assert space == load_space({"kind": "mobile", "preset": preset, **size})
    assert space.resolution == (pixels or 32)
    most, least = most_and_least_macs(load_space({"kind": "mobile", "preset": preset}))
    assert most > 15 * least
    assert 3 <= ops.output_size(space.fixed_ops()[-2]) <= 16


def test_a_space_that_is_all_written_out_takes_nothing_of_a_preset():
    """As older runs hold it, which know no dense blocks."""
    old = {k: v for k, v in load_space(TINY).describe().items() if "dense" not in k}
    del old["blocks"]
    assert load_space({**old, "resolution": 64, "channels": 3}).blocks == ("mbconv",)


def test_labels_are_those_of_the_operators(form):
    assert all(len(set(c.options)) == len(c.options) for c in form.choices)
    for c, context in itertools.product(blocks(form), form.contexts):
        for label, option in zip(c.options, context.options[c.name], strict=True):
            said = "".join(
                f"{name}{op.arg(name, 0)}" if name != "hs" else "hs"
                for op in option
                for name in ("k", "e", "se", "hs")
                if op.arg(name, 0)
            )
            kinds = {"mbconv": "", "fused-mbconv": "fused-", "conv": "conv-"}
            said = "".join(kinds[op.kind] for op in option) + said
            assert label == (said or "skip")


def test_stem_and_head_have_an_activation_of_their_own(space):
    edges = dataclasses.replace(space, edge_activation="hard-swish").fixed_ops()
    assert [o.arg("hs", 0) for o in edges] == [1, 0, 1, 0]
    whole = dataclasses.replace(space, activations=("hard-swish", "relu6")).fixed_ops()
    assert [o.arg("hs", 0) for o in whole] == [1, 1, 1, 0]
    assert str(dataclasses.replace(space, features=32).fixed_ops()[-1]).endswith("h32")


@pytest.mark.parametrize(
    "settings, id",
    [
        ({"preset": "tiny"}, "mobile-32x3-60153e"),
        ({"preset": "tiny", "resolution": 28, "channels": 1}, "mobile-28x1-c3c748"),
        ({"preset": "small"}, "mobile-32x3-4696d4"),
        ({"preset": "proxyless"}, "mobile-224x3-3d16f4"),
        (
            {"preset": "tiny", "resolution": 28, "channels": 1, "activation": "hard-swish"},
            "mobile-28x1-d5c3b5",
        ),
    ],
)
def test_ids_that_tables_are_named_after_stay(settings, id):
    space = load_space({"kind": "mobile", **settings})
    assert space.id == id
    assert load_space(space.describe()).id == id


def test_widths_and_resolutions_are_part_of_an_id_where_they_are_used():
    plain = load_space(TINY)
    same = load_space({**TINY, "multipliers": [1.0], "resolutions": []})
    assert same == plain and same.id == plain.id
    given = {"multipliers": [0.75, 1], "resolutions": [20, 28]}
    changed = [load_space({**TINY, **dict([pair])}) for pair in given.items()]
    both = load_space({**TINY, **given})
    assert len({plain.id, both.id, *(s.id for s in changed)}) == 4
    assert dataclasses.replace(plain, multipliers=(1, 0.5)).id == (
        dataclasses.replace(plain, multipliers=(1.0, 0.5)).id
    )
    assert [c.options for c in both.choices[:2]] == [("w0.75", "w1"), ("r20", "r28")]


def test_widths_are_multiples_of_eight_and_stem_first_and_head_stay():
    space = load_space({**TINY, "multipliers": [0.35, 1, 1.4]})
    widths = [{op.cout for o in c.options.values() for (op,) in filter(None, o)}
              for c in space.contexts]  # fmt: skip
    assert widths == [{8, 16, 24}, {24, 40, 64}, {32, 56, 88}]
    for context in space.contexts:
        stem, first, head, classifier = context.fixed
        assert (stem.cout, first.cout, head.cout, classifier.cin) == (16, 16, 192, 192)


def test_one_activation_may_be_given_by_its_older_key():
    one, more = (
        load_space({**TINY, **given})
        for given in ({"activation": "hard-swish"}, {"activations": ["hard-swish"]})
    )
    assert one == more and one.id == more.id
    assert one.activations == ("hard-swish",)


def test_mobile_v3_holds_the_blocks_of_mobilenet_v3_large():
    """Table 1 of arXiv:1905.02244, its third stage at expansion 3 instead of 2.5 and 2.3."""
    space = load_space({"kind": "mobile", "preset": "mobile-v3"})
    table = {
        "s1b1": "k3e4", "s1b2": "k3e3", "s2b1": "k5e3se4", "s2b2": "k5e3se4", "s2b3": "k5e3se4",
        "s3b1": "k3e6hs", "s3b2": "k3e3hs", "s3b3": "k3e3hs", "s3b4": "k3e3hs",
        "s4b1": "k3e6se4hs", "s4b2": "k3e6se4hs",
        "s5b1": "k5e6se4hs", "s5b2": "k5e6se4hs", "s5b3": "k5e6se4hs",
    }  # fmt: skip
    assert [c.picks for c in space.contexts] == [{}]
    picks = {c.name: c.options.index(table.pop(c.name)) for c in space.choices}
    assert not table
    network = space.ops(Architecture.of(space.id, picks))
    assert sum(map(ops.macs, network)) == pytest.approx(219e6, rel=0.05)
    assert sum(map(ops.parameters, network)) == pytest.approx(5.4e6, rel=0.05)


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
        ({"activations": ("gelu",)}, "activation is 'relu6' or 'hard-swish', not 'gelu'"),
        ({"edge_activation": ""}, "activation is 'relu6' or 'hard-swish', not ''"),
        ({"activations": ()}, r"activations are \(\); each once, at least one"),
        ({"kernels": (3, 5, 3)}, r"kernels are \(3, 5, 3\); each once"),
        ({"ses": (-4, 0)}, "ses: -4 is not between 0 and 100000"),
        ({"features": -1}, "features: -1 is not between 0 and 100000"),
        ({"features": 10**6}, "features: 1000000 is not between 0 and 100000"),
        ({"kernels": (4,)}, "kernels: 4 is even, and kernels are odd"),
        ({"dense_kernels": (3, 2)}, "dense_kernels: 2 is even, and kernels are odd"),
        ({"blocks": ("fused",)}, "a block is 'mbconv' or .*, not 'fused'.*Known: mbconv, fused-"),
        ({"blocks": ("conv",)}, "one value of each of blocks, kernels, .* leaves nothing"),
        ({"blocks": ("fused-mbconv", "conv"), "expansions": (1,)}, "leaves nothing to search"),
        ({"blocks": ()}, r"blocks are \(\); each once, at least one"),
        ({"head": -1}, "head: -1 is not between 0 and 100000"),
        ({"stem": 0}, "stem: 0 is not between 1 and 100000"),
        ({"classes": 1}, "classes: 1 is not between 2 and 1000000"),
        ({"kernels": (3,), "expansions": (2,)}, "nothing to search"),
        ({"resolutions": (8, 8)}, r"resolutions are \(8, 8\); each once"),
        ({"resolutions": (0, 8)}, "resolutions: 0 is not between 1 and 4096"),
        ({"resolutions": (4097,)}, "resolutions: 4097 is not between 1 and 4096"),
        ({"multipliers": ()}, r"multipliers are \(\); at least one, over 0"),
        ({"multipliers": (1.0, 0.0)}, r"multipliers are \(1.0, 0.0\); at least one, over 0"),
        ({"multipliers": (math.nan,)}, "multipliers: nan is not between 0 and 100"),
        ({"multipliers": (math.inf,)}, "multipliers: inf is not between 0 and 100"),
        (
            {"multipliers": (0.5, 1, 0.6)},
            r"0.5 and 0.6 make widths of \(8, 8\) and \(8, 8\); take them further apart",
        ),
        (
            {"multipliers": (1.0, 0.99), "widths": (14, 20)},
            r"0.99 and 1 make .*\(16, 16\) and \(14, 20\)",
        ),
        ({"widths": (50_000, 8), "multipliers": (3.0,)}, "make a width of 150000; at most 100000"),
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
        ({"activation": "gelu"}, "not 'gelu'"),
        ({"activation": "relu6", "activations": ["relu6"]}, "activation or activations, not both"),
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
    gates = {"width": Gate.one(form.multipliers.index(max(form.multipliers)))}
    for c, layer in zip(blocks(form), net.mixed, strict=True):
        specs = [o[0] for o in form.option_ops(c.name) if o]
        x = torch.randn(16, specs[0].cin, 9, 9)
        bodies = zip(specs, layer.mixed.options, strict=False)
        out = {s: run(body, x, gates).flatten() for s, body in bodies}
        widest = [s for s in specs if s.arg("e", max(form.expansions)) == max(form.expansions)]
        assert len(widest) * len(form.expansions) == len(specs) or "conv" in form.blocks
        for other in widest[1:]:
            assert torch.corrcoef(torch.stack([out[widest[0]], out[other]]))[0, 1] > 0.3
        assert (float(out[specs[0]].std()) < 0.2) == (c.options[-1] == "skip")


@torch.no_grad()
def test_gates_of_a_supernet_start_open_and_squeeze_what_they_share_alike(space):
    torch.manual_seed(0)
    form = dataclasses.replace(space, kernels=(3,), expansions=(2, 8), ses=(0, 2, 4))
    net = form.supernet(Mixed).train()
    for c, layer in zip(form.choices, net.mixed, strict=True):
        bodies = dict(zip(c.options, layer.mixed.options, strict=True))
        x = torch.randn(16, form.option_ops(c.name)[0][0].cin, 9, 9)
        for e in form.expansions:
            without = bodies[f"k3e{e}"](x)
            for se in (2, 4):
                torch.testing.assert_close(
                    bodies[f"k3e{e}se{se}"](x), without, rtol=0.01, atol=0.01
                )
        squeezes = [
            m.squeeze for b in bodies.values() for m in b.modules() if hasattr(m, "squeeze")
        ]
        widest = max(squeezes, key=lambda m: m.weight.numel())
        assert len({m.weight.shape for m in squeezes}) > 2
        for m in squeezes:
            out, into = m.weight.shape[:2]
            torch.testing.assert_close(m.weight, widest.weight[:out, :into])
            torch.testing.assert_close(m.bias, widest.bias[:out])
