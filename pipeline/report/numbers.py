"""Numbers as a reader sees them: unit, a sensible count of digits, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "–"
MINUS = "−"
NAN = "NaN"

_RAW = {"", "1", "count", "B", "byte", "bytes"}
_SCALED = {"params": (1e6, "M"), "macs": (1e9, "G"), "size": (1e6, "MB"), "peak_memory": (1e6, "MB")}
_DECIMALS = {"dB": 2, "%": 1}

LABELS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "psnr_worst5": "PSNR of the worst five",
    "psnr_gain": "PSNR gain over the blurred input",
    "params": "parameters",
    "macs": "MACs",
    "size": "size",
    "peak_memory": "peak memory",
    "parity_psnr": "parity PSNR",
    "latency_p50": "latency p50",
    "latency_p90": "latency p90",
    "latency_p99": "latency p99",
    "frame_latency_p50": "whole-frame latency p50",
    "frame_latency_p90": "whole-frame latency p90",
    "frame_latency_p99": "whole-frame latency p99",
    "energy": "energy",
    "psnr_drop": "PSNR drop",
    "psnr_drop_worst": "PSNR drop on the worst image",
    "psnr_delta": "PSNR change",
    "ssim_drop": "SSIM drop",
    "parity_task_psnr": "task PSNR change",
}


@dataclass(frozen=True, slots=True)
class Number:
    """A number ready to be shown.

    text  digits and unit, ``–`` when there is none, ``NaN`` or ``∞`` when it is not finite
    value the number behind it, None when missing
    state "ok", "missing" or "nan" (anything that is not finite)
    hint  what else is known: samples, conditions, origin
    """

    text: str = MISSING
    value: float | None = None
    state: str = "missing"
    hint: str = ""


def label(metric: str) -> str:
    """A metric's name in words; an unknown one with its underscores as spaces."""
    return LABELS.get(metric, metric.replace("_", " "))


def origin(evidence: str, target: str, replayed: bool = False) -> str:
    """Where a number comes from, in words. Only evidence ``target`` speaks of a measurement on the device; ``replayed``: of another day."""
    phrases = {"host": "measured on this host", "estimated": f"estimated for {target}", "target": f"measured on {target}"}
    found = phrases.get(evidence, "origin unknown")
    return f"replayed, {found}" if replayed else found


def parse(value: object) -> float | None:
    """A JSON value as a number: None stays None, and the texts "NaN", "Infinity", "-Infinity" count as what they say."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(str(value))
    except ValueError:
        return None


def number(value: object, unit: str = "", *, metric: str = "", signed: bool = False, hint: str = "") -> Number:
    """Format one value; raw counts and bytes of known metrics are brought to M, G or MB.

    Args:
        value: what the JSON holds.
        unit: its unit there.
        metric: measurement name; decides digits where the unit does not.
        signed: write a plus before positive values.
        hint: kept for a tooltip.

    """
    parsed = parse(value)
    if parsed is None:
        return Number(hint=hint)
    if metric in _SCALED and unit in _RAW:
        factor, unit = _SCALED[metric]
        parsed /= factor
    if not math.isfinite(parsed):
        text = NAN if math.isnan(parsed) else ("∞" if parsed > 0 else f"{MINUS}∞")
        return Number(_with_unit(text, unit), parsed, "nan", hint)
    text = _digits(parsed, unit, metric)
    if signed and parsed > 0 and text.strip("0.,"):
        text = f"+{text}"
    return Number(_with_unit(text, unit), parsed, "ok", hint)


def duration(seconds: object, hint: str = "") -> Number:
    """Seconds as "0.4 s", "61 s", "7 min 11 s" or "2 h 5 min"."""
    value = parse(seconds)
    if value is None or not math.isfinite(value):
        return number(value, "s", hint=hint)
    if value < 100:
        return Number(f"{value:.1f} s" if value < 10 else f"{value:.0f} s", value, "ok", hint)
    whole = round(value)
    hours, minutes = whole // 3600, whole % 3600 // 60
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"
    return Number(text, value, "ok", hint)


def conditions_text(conditions: Mapping[str, Any]) -> str:
    """The scalar conditions as ``key value`` pairs; nested ones are left to report.json."""
    return ", ".join(f"{k} {_scalar(v)}" for k, v in conditions.items() if isinstance(v, str | int | float) and v != "")


def _scalar(value: str | int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return significant(value, 4) if isinstance(value, float) else str(value)


def significant(value: float, digits: int = 3) -> str:
    """``value`` with that many significant digits, never in exponent form between 1e-6 and 1e15."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -6 <= exponent < 15:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", MINUS)


def _digits(value: float, unit: str, metric: str) -> str:
    places = 4 if metric in {"ssim", "lpips"} else _DECIMALS.get(unit)
    if places is None:
        return significant(value)
    rounded = round(value, places) + 0.0  # no "-0.00"
    return f"{rounded:,.{places}f}".replace("-", MINUS)


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if unit else text
