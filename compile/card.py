"""The model card in ``bundle.json``: where the network comes from, what is int8 in it, how good it is, whose work it builds on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.checkpoint import read_header
from pipeline.contract import Measurement, PairSource
from pipeline.store import hash_file
from quantize.artifact import ModelFolder


def model_card(
    folder: ModelFolder, data: Mapping[str, PairSource], measurements: Sequence[Measurement], packages: Iterable[str]
) -> dict[str, Any]:
    """Fields of ``BundleFacts``: lineage (to which the caller may add), quantization, scores, licences.

    Args:
        folder: the network that was compiled.
        data: role -> pictures that took part in compiling; their digests are kept.
        measurements: of the chosen artifact.
        packages: names of installed packages whose work is in the bundle.

    """
    return {
        "lineage": {
            "arch": folder.facts.arch,
            "checkpoint_sha256": hash_file(folder.checkpoint),
            "history": read_header(folder.checkpoint).history,
            "data": {role: {"sha256": source.digest(), "pairs": len(source)} for role, source in sorted(data.items())},
            "sources": {p.name: hash_file(p) for p in sorted(folder.path.glob("*.onnx"))},
        },
        "quantization": quantization(folder),
        "scores": [score(m) for m in measurements],
        "licences": licences(packages),
    }


def quantization(folder: ModelFolder) -> dict[str, Any]:
    """What is int8 and how: scales per output channel for weights and per tensor for activations; {} for a float network."""
    if not folder.has_int8:
        return {}
    facts = folder.facts
    return {
        "weights": "int8, symmetric, one scale for each output channel",
        "activations": "int8, one scale for each tensor",
        "convolutions": facts.quantized_convs,
        "tensors": facts.quantized_tensors,
        "float_tensors": list(facts.float_tensors),
        "scale_range": list(facts.scale_range),
    }


def score(m: Measurement) -> dict[str, Any]:
    """A measurement as JSON, with its unit, samples and evidence."""
    return {
        "name": m.name,
        "value": m.value,
        "unit": m.unit,
        "better": m.better.value,
        "samples": m.samples,
        "evidence": m.evidence.value,
        "conditions": dict(m.conditions),
    }


def licences(packages: Iterable[str]) -> dict[str, str]:
    """Licence of each package that is installed, as its own metadata states it, by name and version."""
    found = {}
    for name in packages:
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        classifiers = [c.rpartition("::")[2].strip() for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
        stated = (metadata.get("License-Expression") or "").strip() or (metadata.get("License") or "").strip().partition("\n")[0]
        found[f"{name} {metadata['Version']}"] = stated or ", ".join(classifiers) or "not stated"
    return found
