"""A stage's or candidate's measurements, sorted into what the tables have columns for and the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.numbers import MISSING, Number, conditions_text, label, number, origin

COLUMNS = ("psnr", "ssim", "psnr_worst5", "psnr_gain", "params", "macs", "size", "speedup")
_PERCENTILES = ("p50", "p90", "p99")
_SPREAD = {"cv", "stable", "p50", "p90", "p99"}


@dataclass(frozen=True, slots=True)
class Latency:
    """One latency: its leading percentile, the others in the hint, and always where it comes from."""

    percentile: str
    number: Number
    evidence: str
    origin: str
    frame: str
    others: str = ""

    @property
    def frame_text(self) -> str:
        """The frame size, or that it is not known."""
        return self.frame.replace("x", "×") or "frame size unknown"

    def of_target(self, frame: str) -> bool:
        """Whether it speaks of the target at its own frame size, so that the target's budget applies."""
        return self.evidence in {"estimated", "target"} and self.frame == frame

    @property
    def series(self) -> tuple[str, str, str]:
        """What a chart may draw on one scale: the same percentile, origin and frame size."""
        return (self.percentile, self.origin, self.frame)


@dataclass(frozen=True, slots=True)
class Other:
    """A measurement that has no column."""

    name: str
    number: Number
    origin: str


@dataclass(frozen=True, slots=True)
class Measured:
    """``measured["psnr"]`` is the number of that name, or the missing one."""

    columns: Mapping[str, Number] = field(default_factory=dict)
    latencies: tuple[Latency, ...] = ()
    others: tuple[Other, ...] = ()

    @property
    def speed(self) -> str:
        """How much faster than what came in, as text; unlike two stages' times, both sides were timed in turn."""
        found = self["speedup"]
        return f"{found.text.removesuffix(' x')}× as fast as before, timed in turn" if found.value is not None else ""

    def __getitem__(self, name: str) -> Number:
        return self.columns.get(name, Number())


def read_measurements(entries: Iterable[Mapping[str, Any]], target: str) -> Measured:
    """Sort the measurements of report.json; of several with one name the first counts for the column, the rest go to ``others``.

    Args:
        entries: the ``measurements`` list of a stage or candidate.
        target: the target's name, for saying where an estimate belongs.

    """
    columns: dict[str, Number] = {}
    others: list[Other] = []
    timed: list[Mapping[str, Any]] = []
    for entry in entries:
        name = str(entry.get("name", "?"))
        if name.startswith("latency_"):
            timed.append(entry)
        elif name in COLUMNS and name not in columns:
            columns[name] = _number(entry, target)
        else:
            others.append(Other(_named(name, entry), _number(entry, target), _origin(entry, target)))
    return Measured(columns, _latencies(timed, target), tuple(others))


def _named(name: str, entry: Mapping[str, Any]) -> str:
    """The measurement's name in words, with the data set where the entry says it: one name may come once for each."""
    split = (entry.get("conditions") or {}).get("split")
    return f"{label(name)} on {split}" if split else label(name)


def _latencies(entries: list[Mapping[str, Any]], target: str) -> tuple[Latency, ...]:
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for entry in entries:
        settings = {k: v for k, v in (entry.get("conditions") or {}).items() if k not in _SPREAD}
        groups.setdefault((entry.get("evidence"), str(sorted(settings.items(), key=str))), []).append(entry)
    return tuple(_latency(group, target) for group in groups.values())


def _latency(group: list[Mapping[str, Any]], target: str) -> Latency:
    order = {f"latency_{p}": i for i, p in enumerate(_PERCENTILES)}
    first, *rest = sorted(group, key=lambda e: order.get(str(e["name"]), len(order)))
    others = (f"{_percentile(e)} {number(_value(e), str(e.get('unit') or '')).text}" for e in rest)
    return Latency(
        percentile=_percentile(first),
        number=_number(first, target),
        evidence=str(first.get("evidence", "")),
        origin=_origin(first, target),
        frame=str((first.get("conditions") or {}).get("frame", "")),
        others=", ".join(others) or "",
    )


def _percentile(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).removeprefix("latency_") or MISSING


def _number(entry: Mapping[str, Any], target: str) -> Number:
    samples = entry.get("samples")
    conditions = conditions_text({k: v for k, v in (entry.get("conditions") or {}).items() if k != "not_finite"})
    count = f"{samples} sample{'s' * (samples != 1)}" if samples else ""
    hint = "; ".join(part for part in (_origin(entry, target), count, conditions) if part)
    return number(_value(entry), str(entry.get("unit") or ""), metric=str(entry.get("name", "")), hint=hint)


def _value(entry: Mapping[str, Any]) -> object:
    """The value; where JSON could not hold it, the word for it in the conditions."""
    value = entry.get("value")
    return (entry.get("conditions") or {}).get("not_finite") if value is None else value


def _origin(entry: Mapping[str, Any], target: str) -> str:
    return origin(str(entry.get("evidence", "")), target, is_replayed(entry))


def is_replayed(entry: Mapping[str, Any]) -> bool:
    """Whether a measurement was read from recorded outputs."""
    return bool((entry.get("conditions") or {}).get("replayed"))
