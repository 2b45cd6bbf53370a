"""Whether a board is the target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pipeline.machine import machine_facts
from pipeline.target import Target


def described(identity: Mapping[str, Any]) -> str:
    """A board in a few words, from what it says of itself."""
    words = [str(identity[k]) for k in ("model", "android", "cpu", "machine") if identity.get(k)]
    name = words[0] if words else "a board that says nothing of itself"
    return f"{name} ({identity['l4t']})" if identity.get("l4t") else name


CUDA = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7"}
"""Compute capability of the GPU by the chip that /proc/device-tree/compatible names (NVIDIA's device trees; CUDA's list of GPUs)."""

_PROPERTIES = {"ro.product.model": "model", "ro.soc.model": "soc", "ro.build.version.release": "android", "ro.product.cpu.abi": "abi"}


def unlike(target: Target, identity: Mapping[str, Any]) -> str:
    """Why a board is not the target, "" when it is.

    Args:
        target: its ``recognise`` holds a pattern (regular expression, searched for) by name of a fact.
        identity: facts by name, as the transports and the device's script state them.

    A pattern is searched for in the fact of that name. ``cpu_flags`` must all be among its features, ``android`` holds patterns by
    property. ``cuda`` is asked only where the chip is known: a board says it nowhere.
    """
    if target.is_host:
        here = machine_facts()
        names = {"machine": "arch", "cpu": "cpu"}
        differing = [f"its {k} is '{identity.get(k, 'unknown')}', here '{here[v]}'" for k, v in names.items() if identity.get(k) != here[v]]
        return "; ".join(differing)
    rules = recognise_rules(target)
    if not rules:
        return f"target {target.name} does not say how to recognise the board (recognise: in its file)"
    return "; ".join(words for name, want in sorted(rules.items()) if (words := _differs(name, want, identity)))


def _differs(name: str, want: Any, identity: Mapping[str, Any]) -> str:
    if name == "cpu_flags":
        features = identity.get("features") or ()
        known = features.split() if isinstance(features, str) else features
        lacking = [str(w) for w in want if w not in known]
        return f"its CPU lacks {', '.join(lacking)}" if lacking else ""
    if isinstance(want, Mapping):
        found = (_searched(p, w, identity.get(p) or identity.get(_PROPERTIES.get(p, ""))) for p, w in sorted(want.items()))
        return "; ".join(words for words in found if words)
    have = identity.get(name)
    if name == "cuda" and not have:
        chips = str(identity.get("compatible") or "")
        have = next((capability for chip, capability in CUDA.items() if chip in chips), "")
        return _searched(name, want, have) if have else ""
    return _searched(name, want, have)


def _searched(name: str, pattern: Any, have: Any) -> str:
    if re.search(str(pattern), str(have or "")):
        return ""
    return f"its {name} is {repr(str(have)) if have else 'unknown'}, expected '{pattern}'"


def recognise_rules(target: Target) -> dict[str, Any]:
    """What the target states, by name of a fact; empty when it states nothing."""
    stated: Any = getattr(target, "recognise", None)
    rules = stated.model_dump() if hasattr(stated, "model_dump") else dict(stated or {})
    return {k: v for k, v in rules.items() if v}
