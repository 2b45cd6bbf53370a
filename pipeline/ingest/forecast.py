"""What the estimator said of a network, beside what the board then took for it: kept in the workspace, and shown in the report."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.calibration import PREDICTIONS, workspace_of_run
from pipeline.contract import Better, Evidence, Measurement
from pipeline.ingest.figures import ERROR, kernel_size
from pipeline.ingest.result import DeviceResult
from pipeline.target import Target


@dataclass(frozen=True, slots=True)
class Forecast:
    """A ``targets.predictions.Prediction`` and its errors as measurements."""

    prediction: Any
    rows: tuple[Measurement, ...]


def forecast(result: DeviceResult, bundle: Any, target: Target, name: str, replayed: bool) -> Forecast | None:
    """Estimate what the board was timed with: the network alone, at the size that one run of it takes.

    Args:
        result: a checked result.
        bundle: the run's, an ``eval.bundle.Bundle``.
        target: the run's, with what was known of its speed then.
        name: of the result, by hashes: its prediction is kept once.
        replayed: the numbers were recorded earlier.

    Returns:
        None where the network alone was not timed, or the target states no rates for its processor.

    """
    artifact, size = bundle.artifact(result.artifact), kernel_size(result)
    rates = target.rates.get(artifact.runs_on)
    if result.kernel is None or size is None or rates is None:
        return None
    made = importlib.import_module("targets.estimator").estimate(bundle.layers(artifact.name, *size), rates, backend=artifact.backend)
    kinds = _kinds(result, made)
    prediction = importlib.import_module("targets.predictions").Prediction(
        target=target.name,
        artifact=artifact.name,
        backend=artifact.backend,
        precision=artifact.precision,
        frame=f"{size[1]}x{size[0]}",
        model=made.model,
        predicted_ms=made.ms,
        measured_ms=result.kernel.p50_ms,
        evidence=str(Evidence.TARGET),
        when=result.started or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        result=name,
        kinds=kinds,
    )
    return Forecast(prediction, tuple(_rows(prediction, result, replayed)))


def keep(run: Path, prediction: Any) -> Path:
    """Keep a prediction beside its measurement in the run's workspace, once; returns the file. A run outside of one keeps it itself."""
    path = workspace_of_run(run, run) / "calibration" / PREDICTIONS
    importlib.import_module("targets.predictions").append(path, prediction)
    return path


def _kinds(result: DeviceResult, made: Any) -> tuple[tuple[str, float, float], ...]:
    """Predicted and measured ms by kind of operator, where the board told the layers apart."""
    if result.layers is None:
        return ()
    predictions = importlib.import_module("targets.predictions")
    times = predictions.by_layer([(row.name, row.ms) for row in result.layers.rows], [layer.name for layer in made.layers])
    return tuple((k.kind, k.predicted_ms, k.measured_ms) for k in predictions.kind_errors([(made.layers, times)]))


def _rows(prediction: Any, result: DeviceResult, replayed: bool) -> Sequence[Measurement]:
    common: dict[str, Any] = {"artifact": result.artifact, "frame": prediction.frame, "model": prediction.model, "in": "ms"}
    common |= {"board": str(result.identity.get("model") or "")} | ({"replayed": True} if replayed else {})
    whole = ("network", prediction.predicted_ms, prediction.measured_ms, result.kernel.count if result.kernel else 1)
    runs = result.layers.runs if result.layers else 1
    parts = [(kind, predicted, measured, runs) for kind, predicted, measured in prediction.kinds if measured > 0]
    return [
        Measurement(
            f"{ERROR}{what}",
            100 * (predicted / measured - 1),
            "%",
            Better.LOWER,
            samples,
            Evidence.TARGET,
            {"predicted": predicted, "measured": measured, **common},
        )
        for what, predicted, measured, samples in (whole, *parts)
    ]
