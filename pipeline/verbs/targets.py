"""``targets``: the boards that ship with the pipeline and their limits; one in detail; the beginning of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.target import Rates, Target

_HELP = """List the targets and their limits, show one in detail, or begin one of your own.

A board that is reachable without being named (this machine, what is connected by adb) is shown with its target; another is asked by
doctor --on.

Example: python -m pipeline targets

Example: python -m pipeline targets jetson-xavier

What `bench --calibrate` and `ingest` taught about a target is shown with it, from the workspace.

Example: python -m pipeline targets --new my-board --like jetson-xavier
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("targets", help=_HELP)(targets)


def targets(
    name: Annotated[str | None, typer.Argument(help="one target: a shipped name, or the path of a YAML", metavar="[NAME]")] = None,
    new: Annotated[str | None, typer.Option("--new", help="write a commented target file of this name", metavar="NAME")] = None,
    like: Annotated[str, typer.Option("--like", help="where the new one's values come from", metavar="TARGET")] = "raspberry-pi-5",
    out: Annotated[Path | None, typer.Option("--out", help="the new file; NAME.yaml here when left out", metavar="FILE")] = None,
    workspace: Annotated[Path, typer.Option("--workspace", help="where calibrations are kept", metavar="DIR")] = Path(".pipeline"),
    as_json: Annotated[bool, typer.Option("--json", help="print every field as JSON")] = False,
) -> None:
    """List the targets, show one, or begin one."""
    from pipeline.calibration import learned, refined
    from pipeline.target import known_targets, load_target

    if new is not None:
        print(_begin(new, like, out or Path(f"{new}.yaml")))
        return
    if name is not None:
        one = refined(load_target(name), workspace)
        lines = [*_detail(one), *(f"  {line}" for line in learned(one, workspace))]
        print(json.dumps(one.model_dump(mode="json"), indent=1) if as_json else "\n".join(lines))
        return
    found = [load_target(known) for known in known_targets()]
    there = _there(found)
    trees = [t.model_dump(mode="json") | {"reachable": there[t.name]} for t in found]
    print(json.dumps(trees, indent=1) if as_json else "\n".join(_table(found, there)))


def _there(found: list[Target]) -> dict[str, list[str]]:
    """By target the boards that are it, as ``--on`` takes them."""
    from pipeline.devices import reachable

    boards = list(reachable(found))
    return {t.name: [b.where for b in boards if t.name in b.targets] for t in found}


def _begin(new: str, like: str, path: Path) -> str:
    from pipeline.store import write_atomic
    from pipeline.target import Target, load_target
    from pipeline.targetfile import render
    from pipeline.yamlfile import parse_yaml, validate

    if path.exists():
        raise UsageError(str(path), "is there already", "give another --out, or remove it")
    shown = str(path) if path.suffix in (".yaml", ".yml") and path.parent != Path() else f"./{path}"
    text = render(new, load_target(like), shown)
    validate(Target, parse_yaml(text, str(path)), str(path))
    write_atomic(path, text)
    return f"{path} is written: edit it, then use it with --target {shown}"


def _table(found: list[Target], there: dict[str, list[str]]) -> Iterator[str]:
    width = max(len(t.name) for t in found)
    for t in found:
        backends = " · ".join(" ".join([b.use, *b.precisions]) for b in t.backends)
        limits = f"{t.frame.width}x{t.frame.height} in {t.latency_budget_ms:g} ms · opset <= {t.opset} · channels x{t.channel_multiple}"
        yield f"{t.name:<{width}}  {t.title}\n{'':<{width}}  {limits}\n{'':<{width}}  {backends}"
        if there[t.name]:
            yield f"{'':<{width}}  reachable: {', '.join(there[t.name])}"
    yield "\nOne in detail: targets NAME. Of your own: targets --new NAME --like TARGET, then --target path/to/NAME.yaml"


def _detail(t: Target) -> Iterator[str]:
    yield f"{t.name}: {t.title}"
    rows = [
        ("cpu", f"{t.cpu.name or t.cpu.mcpu}, {t.cpu.cores} cores used · {t.cpu.triple} {t.cpu.mcpu} {' '.join(t.cpu.features)}"),
        ("gpu", f"{t.gpu.name} · {t.gpu.arch} · {t.gpu.dla} DLA" if t.gpu else ""),
        ("memory", f"{t.memory_gb:g} GB" if t.memory_gb else ""),
        *((f"rates {processor}", _rates(rates)) for processor, rates in t.rates.items()),
        *(("measured", m) for rates in t.rates.values() for m in _measured(rates)),
        *((f"runs {b.use}", f"{b.version} {' '.join(b.precisions)} on the {b.runs_on}".strip()) for b in t.backends),
        (
            "software",
            " · ".join([f"JetPack {t.jetpack}"] * bool(t.jetpack) + [f"Python {t.python}"] + [f"glibc {t.glibc}"] * bool(t.glibc)),
        ),
        ("also there", " · ".join(f"{k} {v}" for k, v in t.runtimes.items())),
        ("networks", f"opset <= {t.opset} · channels in multiples of {t.channel_multiple}"),
        ("what pays", f"{', '.join(t.pays.activation)} · {', '.join(t.pays.blocks)} · {', '.join(t.pays.upsample)}"),
        ("power modes", " · ".join(f"{m.id} {m.name}" for m in t.power_modes)),
        ("limits", f"{t.frame.width}x{t.frame.height} in {t.latency_budget_ms:g} ms; p90 taken as {t.jitter_p90:g} x the estimate"),
        ("known by", " · ".join(f"{k} {v}" for k, v in t.recognise.model_dump(exclude_defaults=True).items())),
    ]
    yield from (f"  {label:<17} {text}" for label, text in rows if text)


def _rates(r: Rates) -> str:
    peaks = " · ".join(f"{precision} {value:g}" for precision, value in r.macs.items())
    share = f"{r.compute_efficiency:.0%} dense, {r.depthwise_efficiency:.0%} depthwise, {r.memory_efficiency:.0%} memory"
    return f"{peaks} T MAC/s at most · {r.bandwidth_gbs:g} GB/s · reached: {share} · {r.launch_us:g} us per layer"


def _measured(r: Rates) -> Iterator[str]:
    for c in r.calibrations:
        yield f"{c.backend} {c.precision}: {c.networks} microbenchmarks, {len(c.costs)} kinds, left-out error {c.error:.0%}"
