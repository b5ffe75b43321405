"""A killed search ends as one that was not; several objectives share one supernet."""

import dataclasses

import pytest
import torch

from edgenas import supernet
from edgenas.errors import CorruptFile
from edgenas.methods.darts import Darts
from edgenas.methods.proxyless import Proxyless
from edgenas.methods.proxyless_full import ProxylessFull
from edgenas.methods.proxyless_r import ProxylessR
from edgenas.search import Ledger, Objective

pytestmark = pytest.mark.trains

QUICK = {"epochs": 3, "warmup": 1, "batch": 64, "arch_every": 1, "samples": 2}
METHODS = {
    "proxyless": Proxyless(**QUICK),
    "proxyless-full": ProxylessFull(**QUICK),
    "proxyless-r": ProxylessR(**QUICK, networks=2),
    "darts": Darts(**{**QUICK, "epochs": 2}),
}


class Killed(Exception):
    pass


def outcome(method, problem, ledger, progress=lambda *args: None):
    """What must be the same: the answer, every weight, what the ledger says, scores of trials."""
    found = method.run(problem, ledger, progress)
    epochs = [{**e, "seconds": 0, "images_per_second": 0} for e in ledger.epochs("search")]
    trials = [(t.arch, dict(t.metrics)) for t in ledger.trials("evaluate")]
    return found.archs, found.supernet.state_dict(), epochs, trials


def same(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    assert all(torch.equal(v, b[1][k]) for k, v in a[1].items())
    assert a[2:] == b[2:]


def fronted(problem):
    """The same, for two networks: within the budget, and within one and a half of it."""
    (budget,) = problem.objectives[0].budgets
    wider = dataclasses.replace(budget, limit_ms=budget.limit_ms * 1.5)
    return dataclasses.replace(problem, objectives=(*problem.objectives, Objective((wider,))))


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_search_goes_on_to_the_same_supernet(name, problem, tmp_path, monkeypatch):
    """Bit for bit, wherever it was killed: in warm-up, within an epoch, at its end."""
    monkeypatch.setattr(supernet, "SAVE_SECONDS", 0.0)
    method, problem = METHODS[name], fronted(problem)
    whole = outcome(method, problem, Ledger(tmp_path / "whole.jsonl"))
    for kills in ((1,), (4, 4, 6)):
        ledger = Ledger(tmp_path / f"{kills}.jsonl")
        for at in kills:

            def progress(what, done, total, at=at):
                if what == "search" and done >= at:
                    raise Killed

            with pytest.raises(Killed):
                method.run(problem, ledger, progress)
        same(whole, outcome(method, problem, ledger))


def test_the_end_of_an_epoch_is_saved_however_short_it_was(problem, tmp_path):
    ledger, seen = Ledger(tmp_path / "ledger.jsonl"), []

    def progress(what, done, total):
        seen.append(done)
        if what == "search" and done == total * 2 // 3:
            raise Killed

    with pytest.raises(Killed):
        METHODS["proxyless"].run(problem, ledger, progress)
    steps = len(seen) // 2  # an epoch; three were asked for, the second was not over
    seen.clear()
    METHODS["proxyless"].run(problem, ledger, lambda what, done, total: seen.append(done))
    assert seen[0] == steps + 1


def test_a_checkpoint_of_another_search_is_not_gone_on_from(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(supernet, "SAVE_SECONDS", 0.0)
    first, other = METHODS["proxyless"], dataclasses.replace(METHODS["proxyless"], arch_lr=0.2)
    whole = outcome(other, problem, Ledger(tmp_path / "whole" / "ledger.jsonl"))
    ledger = Ledger(tmp_path / "part" / "ledger.jsonl")

    def progress(what, done, total):
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        first.run(problem, ledger, progress)
    assert list((tmp_path / "part").rglob("*.safetensors"))
    ledger.path.unlink()
    same(whole, outcome(other, problem, ledger))


def test_a_damaged_checkpoint_is_named(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(supernet, "SAVE_SECONDS", 0.0)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    METHODS["proxyless"].run(problem, ledger)
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"search/ledger\.safetensors.*delete it to start afresh"):
        METHODS["proxyless"].run(problem, ledger)


def test_several_objectives_share_one_supernet(problem, space, tmp_path):
    asked = fronted(problem)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    found = Proxyless(epochs=6, warmup=2, batch=32, arch_every=1, samples=3).run(asked, ledger)
    assert len(found.archs) == 2
    for arch, objective in zip(found.archs, asked.objectives, strict=True):
        assert objective.fits(space.ops(arch))
    narrow, wide = ledger.epochs("search")[-1]["levels"]
    assert narrow["expected"]["ms:paper"] < wide["expected"]["ms:paper"]
    trials = ledger.trials("evaluate")
    assert set(found.archs) <= {t.arch for t in trials}
    assert all({"accuracy", "load", "ms:paper"} <= t.metrics.keys() for t in trials)
    assert all(t.metrics["load"] <= 1 for t in trials)
    assert sum(e["event"] == "epoch" for e in ledger.events("search")) == 6


@pytest.mark.parametrize("name", ["proxyless", "proxyless-full"])
def test_bf16_keeps_weights_and_gates_in_fp32(name, problem, tmp_path):
    method = dataclasses.replace(METHODS[name], precision="bf16", samples=0)
    found = method.run(problem, Ledger(tmp_path / "ledger.jsonl"))
    assert all(p.dtype is torch.float32 for p in found.supernet.parameters())
    assert all(s.dtype is torch.float32 and s.isfinite().all() for s in found.scores[0].values())
