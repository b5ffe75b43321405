"""Facts -> HTML. All text is escaped by the template; only our own drawings are markup."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import edgenas
from edgenas.latency import LatencyTable
from edgenas.report import compare, curves, front, network, options, race, summary, table
from edgenas.report import quantity as q
from edgenas.report.record import Record


def render(record: Record) -> str:
    """The whole page of a run."""
    return page("report.html.j2", _facts(record))


def render_front(record: Record) -> str:
    """The whole page of a run that delivered networks at several budgets."""
    return page("front.html.j2", front.facts(record))


def render_table(loaded: LatencyTable, work: table.Work) -> str:
    """The whole page of a latency table; ``work``: multiply-accumulates of an operator."""
    facts = {"version": edgenas.__version__, "table": table.described(loaded)}
    return page("table.html.j2", {**facts, "charts": table.charts(loaded, work)})


def page(name: str, facts: Mapping[str, Any]) -> str:
    """The template ``name`` filled with ``facts``; all that it needs is inside."""
    environment = Environment(
        loader=FunctionLoader(_shipped),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["q"] = q
    return environment.get_template(name).render(css=Markup(_shipped("report.css")), **facts) + "\n"


def _shipped(name: str) -> str:
    return resources.files("edgenas.report").joinpath(name).read_text(encoding="utf-8")


def _facts(record: Record) -> dict[str, Any]:
    manifest, verdict = record.manifest, record.verdict
    return {
        "record": record,
        "version": manifest.get("edgenas", edgenas.__version__),
        "headline": summary.headline(record),
        "advice": summary.advice(record),
        "tested": _named(record, "test"),
        "searched": _named(record, "search"),
        "progress": summary.progress(record),
        "cards": summary.budget_cards(record),
        "gates": summary.gates(record),
        "files": summary.delivered_files(record),
        "candidates": compare.candidates(record),
        "stages": compare.stages(record),
        "pareto": curves.pareto(record),
        "score": curves.search_score(record),
        "network": network.network(record),
        "race": race.race(record),
        "worth": race.option_worth(record),
        "option_costs": options.option_costs(record),
        "comparisons": network.comparisons(record),
        "convergence": curves.convergence(record),
        "training": curves.training(record),
        "task": list(q.flat(verdict.task)) if verdict else [],
        "repairs": [list(q.flat(r)) for r in verdict.repairs] if verdict else [],
        "conditions": _groups(verdict.conditions) if verdict else [],
        "versions": list(q.flat(manifest.get("versions", {}))),
        "hashes": [(k, list(q.flat(manifest.get(k, {})))) for k in ("inputs", "outputs")],
        "seed": manifest.get("seed", q.ABSENT),
    }


def _named(record: Record, part: str) -> str:
    """``505 images of the test part``."""
    named = {"test": "the test part", "search": "search-validation"}[part]
    number = record.images(part)
    return named if number is None else f"{q.count(number)} images of {named}"


def _groups(facts: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [(k, list(q.flat(v if isinstance(v, dict) else {"": v}))) for k, v in facts.items()]
