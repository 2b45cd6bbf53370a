"""The run as one HTML page. Layout lives in ``pipeline/templates``; everything is inlined, so the page needs no other file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report import chart
from pipeline.report.crops import Crops
from pipeline.report.numbers import MISSING, label, number
from pipeline.report.view import MARKS, RunView

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


def render(view: RunView, crops: Crops) -> str:
    """The page as text; every text from the report is escaped."""
    template = _environment().get_template("report.html")
    return template.render(
        run=view,
        crops=crops,
        panels=chart.panels(view),
        chart=chart,
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        passed=sum(g.verdict == "passed" for g in view.gates),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(MARKS=MARKS, MISSING=MISSING)
    environment.filters.update(metric=label, decibel=lambda value: number(value, "dB").text)
    return environment
