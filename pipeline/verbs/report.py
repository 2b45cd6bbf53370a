"""``report``: a run's documents again, from its report.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UsageError, did_you_mean

_HELP = """Render a run's report again, from its report.json and pictures; nothing is measured.

Without --format, report.md and report.html in the run's folder are written anew. With it, the document goes to standard output,
or to the file that --out names.

Example: python -m pipeline report latest

Example: python -m pipeline report .pipeline/runs/latest --format html --out report.html
"""

FORMATS = ("md", "html", "json")

WorkspaceOpt = Annotated[Path, typer.Option("--workspace", help="where runs are looked up by name", metavar="DIR")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report", help=_HELP)(report)


def report(
    run: Annotated[str, typer.Argument(help="a run: its folder, its name, or 'latest'", metavar="RUN")] = "latest",
    form: Annotated[str | None, typer.Option("--format", help="md, html or json", metavar="FORMAT")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="file for the document; goes with --format", metavar="FILE")] = None,
    workspace: WorkspaceOpt = Path(".pipeline"),
) -> None:
    """Render a run's report again."""
    from pipeline.runs import find_run, read_report
    from pipeline.store import write_atomic

    _check(form, out)
    folder = find_run(run, workspace.resolve())
    tree = read_report(folder)
    if form is None:
        for name in ("md", "html"):
            write_atomic(folder / f"report.{name}", _renderer(name)(tree, folder))
            print(folder / f"report.{name}")
    elif out is None:
        print(_renderer(form)(tree, folder), end="")
    else:
        _write(out, _renderer(form)(tree, folder))
        print(out)


def _check(form: str | None, out: Path | None) -> None:
    if form is not None and form not in FORMATS:
        raise UsageError("--format", f"unknown format '{form}'", did_you_mean(form, FORMATS))
    if out is not None and form is None:
        raise UsageError(f"--out {out}", "one file cannot hold both documents", "say which with --format md, html or json")


def _renderer(form: str) -> Callable[[Mapping[str, Any], Path], str]:
    from pipeline.report import render_html, render_markdown

    return {"md": render_markdown, "html": render_html, "json": _render_json}[form]


def _render_json(tree: Mapping[str, Any], folder: Path) -> str:
    """The report as the run wrote it; of another schema it is refused as the other formats do."""
    from pipeline.report.view import build

    del folder
    build(tree)
    return json.dumps(tree, indent=1) + "\n"


def _write(out: Path, text: str) -> None:
    from pipeline.store import write_atomic

    try:
        write_atomic(out, text)
    except OSError as e:
        raise UsageError(f"--out {out}", f"cannot be written ({e.strerror})", "name a file in a folder that can be written to") from e
