"""One stage's part of a run, for the terminal and for its own report.md; and the test pairs as pictures beside the restored ones."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.contract import PairSource

_HEADLINE = ("psnr", "psnr_gain", "ssim", "params", "macs", "size", "speedup", "latency_p50")
_MARK = {"passed": "✓", "failed": "✗", "unproven": "?"}


def figure(entry: Mapping[str, Any]) -> str:
    """A measurement as text with its unit, e.g. ``29.51 dB``."""
    value = entry["value"]
    text = "NaN" if value is None else f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"
    return f"{text} {entry['unit']}".strip()


def gate_name(gate: Mapping[str, Any]) -> str:
    """What a gate looks at: the metric, and the statistic unless it is the mean."""
    statistic = gate.get("statistic") or "mean"
    return str(gate["metric"]) if statistic == "mean" else f"{gate['metric']} ({statistic})"


def stage_line(entry: Mapping[str, Any], number: int, total: int) -> str:
    """The one line that the terminal shows when a stage is done."""
    by_name = {m["name"]: m for m in reversed(entry["measurements"])}
    figures = "  ".join(f"{n} {figure(by_name[n])}" for n in _HEADLINE if n in by_name)
    gates = "".join(f"  {_MARK[g['verdict']]} {gate_name(g)}" for g in entry["gates"])
    return f"[{number}/{total}] {entry['id']:<10} {entry['status']:<9} {entry['seconds']:7.1f} s  {figures}{gates}"


def stage_markdown(entry: Mapping[str, Any]) -> str:
    """A stage's report.md."""
    state = f"status: {entry['status']}, {entry['seconds']:.1f} s, key `{entry['key'][:16]}`"
    lines = [f"# {entry['id']}", "", entry["title"], "", state, ""]
    if entry["error"]:
        lines += ["```", entry["error"], "```", ""]
    if entry["measurements"]:
        lines += ["| measurement | value | samples | evidence | conditions |", "|---|---|---|---|---|"]
        for m in entry["measurements"]:
            conditions = ", ".join(f"{k} {v}" for k, v in m["conditions"].items())
            lines.append(f"| {m['name']} | {figure(m)} | {m['samples']} | {m['evidence']} | {conditions} |")
        lines.append("")
    for gate in entry["gates"]:
        against = f" against {gate['against']}" if gate["against"] else ""
        lines.append(f"* {gate['verdict']}: {gate_name(gate)} {gate['rule']} {gate['bound']:g}{against} {gate['reason']}".rstrip())
    for c in entry["candidates"]:
        lines.append(f"* {'chosen' if c['chosen'] else 'lost'}: {c['name']}: {c['reason']}")
    lines += [""] + [f"{note}\n" for note in entry["notes"]]
    return "\n".join(lines)


def write_test_pairs(source: PairSource, folder: Path) -> None:
    """Write every test pair as ``blurred/<name>.png`` and ``sharp/<name>.png`` under ``folder``."""
    write_image = importlib.import_module("data.images").write_image
    for i in range(len(source)):
        pair = source[i]
        for kind, image in (("blurred", pair.lq), ("sharp", pair.gt)):
            path = folder / kind / f"{pair.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, image)
