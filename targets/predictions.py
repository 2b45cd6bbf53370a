"""Predictions kept beside what was measured later, and their error, whole and by kind of operator."""

from __future__ import annotations

import fcntl
import json
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import UsageError
from targets.estimator import LayerTime


@dataclass(frozen=True, slots=True)
class Prediction:
    """An estimate and the measurement that came after it.

    evidence  of the measurement: host or target
    model     of the estimate: roofline or calibrated
    result    what was measured, by the hashes of its bundle and its file: the same result is kept once
    kinds     (kind of operator, predicted ms, measured ms), where the measurement tells its layers apart
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
    result: str = ""
    kinds: tuple[tuple[str, float, float], ...] = ()

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


def append(path: Path, prediction: Prediction) -> bool:
    """Add a line to the file of predictions, which is made when it is not there; several may do so at once.

    Returns:
        False where the result's prediction is there already: nothing is added then.

    Raises:
        UsageError: a line of the file is no prediction.

    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        if prediction.result and prediction.result in {p.result for p in read(path)}:
            return False
        f.write(json.dumps(asdict(prediction), sort_keys=True) + "\n")
        return True


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
            tree = json.loads(line)
            kinds = tuple((str(kind), float(predicted), float(measured)) for kind, predicted, measured in tree.get("kinds", ()))
            found.append(Prediction(**{**tree, "kinds": kinds}))
        except (AttributeError, TypeError, ValueError):
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
        kinds = _kinds(layers)
        for layer in layers:
            predicted[kinds[layer.name]] = predicted.get(kinds[layer.name], 0.0) + layer.ms
        for name, ms in times.items():
            kind = kinds.get(name, "frame" if name == "frame" else "other")
            measured[kind] = measured.get(kind, 0.0) + ms
    rows = [KindError(k, predicted.get(k, 0.0), measured.get(k, 0.0)) for k in {*predicted, *measured}]
    return sorted(rows, key=lambda row: -row.measured_ms)


def _kinds(layers: Sequence[LayerTime]) -> dict[str, str]:
    """Kinds by name of the layer; one that costs nothing inside the layer before it is of that one's: a runtime may name both after it."""
    found: dict[str, str] = {}
    head = ""
    for layer in layers:
        head = head if head and layer.bound == "fused" and layer.ms == 0 else layer.kind
        found[layer.name] = head
    return found


def by_layer(profile: Iterable[tuple[str, float]], names: Sequence[str]) -> dict[str, float]:
    """A runtime's own profile as milliseconds by layer of the ONNX file, as ``kind_errors`` takes them.

    Args:
        profile: (name, ms) in the order of execution. Runtimes name what they fuse after its parts ("Conv_1 + Relu_2") and what they add
            after what it serves ("Conv_1_quantized", "Reformatting CopyNode for Input Tensor 0 to Conv_1").
        names: of the layers. A row counts to the layer that its name says first; one that names none, to the layer before it, or to
            "frame" before the first.

    """
    found: dict[str, float] = {}
    known = sorted(names, key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(name)}(?!\d)" for name in known) or "(?!)")
    layer = "frame"
    for name, ms in profile:
        said = pattern.search(name)
        layer = said.group() if said else layer
        found[layer] = found.get(layer, 0.0) + ms
    return found


def summary(predictions: Iterable[Prediction]) -> Iterator[str]:
    """Lines on how far the estimates were off what was measured later: by backend and precision, then by kind of operator."""
    groups: dict[tuple[str, str, str], list[Prediction]] = {}
    for p in predictions:
        groups.setdefault((p.backend, p.precision, p.model.partition(";")[0]), []).append(p)
    for (backend, precision, model), found in sorted(groups.items()):
        errors = [abs(p.error) for p in found]
        head = f"{backend} {precision} ({model}): {len(found)} measured, error median {statistics.median(errors):.0%}"
        yield f"{head}, worst {max(errors):.0%}, last {found[-1].predicted_ms:.2f} for {found[-1].measured_ms:.2f} ms"
        sums: dict[str, list[float]] = {}
        for kind, predicted, measured in (row for p in found for row in p.kinds):
            total = sums.setdefault(kind, [0.0, 0.0])
            total[:] = total[0] + predicted, total[1] + measured
        for kind, (predicted, measured) in sorted(sums.items(), key=lambda item: -item[1][1]):
            error = f"{predicted / measured - 1:+.0%}" if measured > 0 else "not in the profile"
            yield f"  {kind}: {predicted:.2f} for {measured:.2f} ms, {error}"
