"""Predictions kept beside what was measured later, and their error, whole and by kind of operator."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import UsageError
from targets.estimator import LayerTime


@dataclass(frozen=True, slots=True)
class Prediction:
    """An estimate and the measurement that came after it.

    evidence  of the measurement: host or target
    model     of the estimate: roofline or calibrated
    """

    target: str
    artifact: str
    backend: str
    precision: str
    frame: str
    model: str
    predicted_ms: float
    measured_ms: float
    evidence: str
    when: str = ""

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class KindError:
    """Milliseconds of one kind of operator, predicted and measured."""

    kind: str
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """(predicted - measured) / measured; infinite where nothing was measured."""
        return self.predicted_ms / self.measured_ms - 1 if self.measured_ms > 0 else math.inf


def append(path: Path, prediction: Prediction) -> None:
    """Add a line to the file of predictions, which is made when it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(asdict(prediction), sort_keys=True) + "\n")


def read(path: Path) -> list[Prediction]:
    """Every prediction of a file, oldest first; none where there is no file.

    Raises:
        UsageError: a line that is no prediction.

    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(Prediction(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            raise UsageError(f"{path}:{number}", f"is no prediction: {line[:60]!r}", "delete that line, or the file") from None
    return found


def kind_errors(networks: Iterable[tuple[Sequence[LayerTime], Mapping[str, float]]]) -> list[KindError]:
    """Predicted and measured time by kind of operator, summed over networks, the longest measured first.

    Args:
        networks: for each, the layers of its estimate and the measured milliseconds by name of the layer. A runtime that fuses layers
            reports the leading one; those that it reports nothing for count as predicted and measured 0.

    """
    predicted: dict[str, float] = {}
    measured: dict[str, float] = {}
    for layers, times in networks:
        kinds = {layer.name: layer.kind for layer in layers}
        for layer in layers:
            predicted[layer.kind] = predicted.get(layer.kind, 0.0) + layer.ms
        for name, ms in times.items():
            kind = kinds.get(name, "frame" if name == "frame" else "other")
            measured[kind] = measured.get(kind, 0.0) + ms
    rows = [KindError(k, predicted.get(k, 0.0), measured.get(k, 0.0)) for k in {*predicted, *measured}]
    return sorted(rows, key=lambda row: -row.measured_ms)
