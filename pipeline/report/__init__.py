"""Documents about a run, made from its ``report.json`` alone: Markdown, a self-contained HTML page, and the terminal's summary.

Nothing is measured or trained here; rendering again gives the same document.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def render_markdown(report: Mapping[str, Any], run_dir: Path) -> str:
    """The run as Markdown: the tables of the page without its pictures.

    Args:
        report: parsed report.json, schema 1.
        run_dir: the run's folder; paths in the report are relative to it.

    Raises:
        UsageError: the report is of another schema.

    """
    from pipeline.report.markdown import render
    from pipeline.report.view import build

    return render(build(report), run_dir)


def render_html(report: Mapping[str, Any], run_dir: Path) -> str:
    """The run as one HTML page that needs no other file: tables, a chart, and the worst test crops after each stage.

    Args:
        report: parsed report.json, schema 1.
        run_dir: the run's folder, with ``samples/blurred`` and ``samples/sharp`` (one PNG per test pair) when there are any.

    Raises:
        UsageError: the report is of another schema.

    """
    from pipeline.report.crops import worst_crops
    from pipeline.report.html import render
    from pipeline.report.view import build

    return render(build(report), worst_crops(report, run_dir))


def print_summary(report: Mapping[str, Any], console: Console) -> None:
    """Print the stages, the gates that need attention and the verdict; fits the console's width.

    Raises:
        UsageError: the report is of another schema.

    """
    from pipeline.report.terminal import show
    from pipeline.report.view import build

    show(build(report), console)
