"""``compare``: measurements and gates of runs side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_HELP = """Show measurements and gates of runs side by side, with differences from the first one and whether they are for the better.

RUN is a run's folder, 'latest', or its name (or the beginning of it) under the workspace's runs/.

Example: python -m pipeline compare 20260301-120003-jetson-xavier latest

Example: python -m pipeline compare .pipeline/runs/latest elsewhere/runs/latest --json
"""

_STYLES = {"better": "green", "worse": "red", "passed": "green", "failed": "bold red", "unproven": "yellow"}
_LEAST = {"measurement": 16, "gate": 20}
_MARKS = {"passed": "✓", "failed": "✗", "unproven": "?"}

WorkspaceOpt = Annotated[Path, typer.Option("--workspace", help="where runs are looked up by name", metavar="DIR")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("compare", help=_HELP)(compare)


def compare(
    runs: Annotated[list[str], typer.Argument(help="at least two runs", metavar="RUN RUN...")],
    workspace: WorkspaceOpt = Path(".pipeline"),
    changed: Annotated[bool, typer.Option("--changed", help="only rows that differ")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Show measurements and gates of runs side by side."""
    from pipeline.compare import compare as side_by_side
    from pipeline.runs import LATEST, find_run

    if len(runs) < 2:
        raise UsageError(
            "compare", "one run alone cannot be compared", f"name another: compare {runs[0]} {'RUN' if runs[0] == LATEST else LATEST}"
        )
    found = side_by_side([find_run(run, workspace.resolve()) for run in runs])
    if changed:
        for part in ("stages", "measurements", "gates"):
            found[part] = [row for row in found[part] if _differs(row)]
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    for number, run in enumerate(found["runs"], 1):
        console.print(_text(f"run {number}: {run['name']}, {run['target']}, {run['verdict']}, {run['seconds']} s"), soft_wrap=True)
    for note in found["notes"]:
        console.print(_text(f"note: {note}", "yellow"), soft_wrap=True)
    count = len(found["runs"])
    if found["measurements"]:
        console.print(_measurement_table(found["measurements"], count))
    if found["gates"]:
        console.print(_gate_table(found["gates"], count))
    if not found["measurements"] and not found["gates"]:
        console.print("nothing to compare")


def _measurement_table(rows: Sequence[Mapping[str, Any]], count: int) -> Table:
    table = _table("Measurements", "stage", "measurement", "evidence")
    for number in range(1, count + 1):
        table.add_column(f"run {number}", justify="right", no_wrap=True)
    for row in rows:
        name = f"{row['name']} ({row['settings']})" if row["settings"] else row["name"]
        cells = [_measurement(cell, row, i) for i, cell in enumerate(row["cells"])]
        table.add_row(row["stage"], name, row["evidence"], *cells)
    return table


def _measurement(cell: Mapping[str, Any] | None, row: Mapping[str, Any], number: int) -> Text:
    from pipeline.report.numbers import number as figure

    if cell is None:
        return _text("–", "dim")
    value = figure(cell["value"] if cell["value"] is not None else "nan", row["unit"], metric=row["name"]).text
    if number == 0 or cell["difference"] is None:
        return _text(value)
    if cell["direction"] == "equal":
        return _text(f"{value} (=)")
    change = figure(cell["difference"], row["unit"], metric=row["name"], signed=True).text
    return _text(f"{value} ({change}, {cell['direction']})", _STYLES[cell["direction"]])


def _gate_table(rows: Sequence[Mapping[str, Any]], count: int) -> Table:
    table = _table("Gates", "stage", "gate")
    for number in range(1, count + 1):
        table.add_column(f"run {number}")
    for row in rows:
        against = f" against {row['against']}" if row["against"] else ""
        statistic = f" ({row['statistic']})" if row["statistic"] not in ("", "mean") else ""
        table.add_row(row["stage"], f"{row['metric']} {row['rule']}{against}{statistic}", *(_gate(c, row) for c in row["cells"]))
    return table


def _gate(cell: Mapping[str, Any] | None, row: Mapping[str, Any]) -> Text:
    from pipeline.report.numbers import number as figure

    if cell is None:
        return _text("–", "dim")
    unit = str(cell["unit"] or "")
    value, bound = (figure(cell[k], unit, metric=row["metric"]).text for k in ("value", "bound"))
    return _text(f"{_MARKS.get(cell['verdict'], '!')} {cell['verdict']}: {value}, bound {bound}", _STYLES.get(cell["verdict"], ""))


def _differs(row: Mapping[str, Any]) -> bool:
    """Whether any run has something else than the first one."""
    return any(_plain(cell) != _plain(row["cells"][0]) for cell in row["cells"])


def _plain(cell: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if cell is None else {k: v for k, v in cell.items() if k not in ("difference", "direction")}


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, min_width=_LEAST.get(column, 9), overflow="fold")  # many runs narrow the figures, not the names
    return table


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(text, style)
