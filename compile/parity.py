"""Is a compiled artifact still the same network? Floats by PSNR between outputs, integers by task PSNR and exact scales.

End-to-end equality of int8 outputs is not defined: the order of additions alone moves them to about 50 dB of each other, while the
task PSNR stays put. NaN never passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.quality import IDENTICAL_DB, QualityResult
from pipeline.contract import Better, Evidence, Measurement, Verdict
from pipeline.errors import StageFailed

if TYPE_CHECKING:
    from eval.session import Session

FLOAT_DB = 60.0
"""Least PSNR of a float artifact's output against the float network's."""

TASK_DB = 0.05
"""Largest difference in mean task PSNR between an int8 artifact and the fake-quantized network."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Verdict, the numbers behind it, and the reason in words."""

    verdict: Verdict
    reason: str
    measurements: tuple[Measurement, ...] = ()


def unproven(reason: str) -> Parity:
    """No evidence: the artifact does not run here."""
    return Parity(Verdict.UNPROVEN, f"parity unproven: {reason}")


def output_psnr(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """PSNR in dB (peak 1) between two outputs; ``IDENTICAL_DB`` when equal, NaN when either holds a NaN or an infinity."""
    if got.shape != want.shape:
        raise StageFailed("compile.parity", f"outputs are {got.shape} and {want.shape}", "the artifact is not the same network")
    error = float(np.mean(np.square(got.astype(np.float64) - want.astype(np.float64))))
    if not math.isfinite(error):
        return math.nan
    return IDENTICAL_DB if error == 0 else min(IDENTICAL_DB, -10 * math.log10(error))


def parity_measurement(values: Sequence[float], **conditions: Any) -> Measurement:
    """parity_psnr: the worst of the given PSNRs in dB, so that no good image hides a bad one."""
    worst = min(values) if all(math.isfinite(v) for v in values) and values else math.nan
    return Measurement("parity_psnr", worst, "dB", Better.HIGHER, len(values), Evidence.HOST, conditions, tuple(values))


def float_parity(artifact: Session, reference: Session, batches: Sequence[NDArray[np.float32]], **conditions: Any) -> Parity:
    """Compare a float artifact with the float network.

    Args:
        artifact: the compiled one.
        reference: the float ONNX file, run as it is written.
        batches: inputs, float32 [1, 3, H, W] in [0, 1].
        conditions: said beside the number.

    """
    found = parity_measurement([output_psnr(artifact.run(x), reference.run(x)) for x in batches], bound=FLOAT_DB, **conditions)
    passed = found.value >= FLOAT_DB
    text = f"output {found.value:.1f} dB from the float network (at least {FLOAT_DB:g})"
    return Parity(Verdict.PASSED if passed else Verdict.FAILED, text, (found,))


def integer_parity(artifact: QualityResult, reference: QualityResult, differences: Sequence[str], outputs: Measurement) -> Parity:
    """Judge an int8 artifact.

    Args:
        artifact: its quality on some images.
        reference: quality of the fake-quantized network on the same images.
        differences: what ``scale_differences`` found.
        outputs: parity_psnr between the two, for information.

    """
    change = artifact.mean_psnr - reference.mean_psnr
    values = tuple(a - b for a, b in zip(artifact.psnr, reference.psnr, strict=True))
    conditions = {"bound": TASK_DB, "against": "fake-quantized network", "scales": "differ" if differences else "exact"}
    rows = (Measurement("parity_task_psnr", change, "dB", Better.HIGHER, len(values), Evidence.HOST, conditions, values), outputs)
    if differences:
        return Parity(Verdict.FAILED, f"quantization parameters differ: {differences[0]} ({len(differences)} in all)", rows)
    passed = abs(change) <= TASK_DB
    text = f"task PSNR {change:+.3f} dB against the fake-quantized network (at most {TASK_DB:g} either way), scales exact"
    return Parity(Verdict.PASSED if passed else Verdict.FAILED, text, rows)


def scale_differences(path: Path, scales: Mapping[str, Any]) -> list[str]:
    """Compare the scales and zero points in a Q/DQ file with those in ``quantization.json``, exactly.

    Returns:
        One line for each tensor whose parameters differ or are not in the file.

    """
    nodes = _parameters(path)
    out = []
    for name, want in scales["activations"].items():
        found = nodes.get(f"{name}.quantize")
        if found is None or not _same(found[0], [want["scale"]]) or not _zero_fits(found, want):
            out.append(f"activation {name}")
    for name, want in scales["weights"].items():
        found = nodes.get(f"{name}.dequantize")
        if found is None or not _same(found[0], want["scale"]) or found[1].any():
            out.append(f"weight {name}")
    return out


def _zero_fits(found: tuple[NDArray[Any], NDArray[Any]], want: Mapping[str, Any]) -> bool:
    """Signed files have zero points 0; unsigned ones 0 for what cannot be negative, else 128."""
    unsigned = found[1].dtype == np.uint8
    return bool(found[1].reshape(-1)[0] == (128 if unsigned and not want["non_negative"] else 0))


def _same(found: NDArray[Any], want: Sequence[float]) -> bool:
    return bool(np.array_equal(found.reshape(-1), np.asarray(want, np.float32)))


def _parameters(path: Path) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Scale and zero point of every QuantizeLinear and DequantizeLinear, by node name."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    values = {i.name: i for i in graph.initializer}
    values |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    found = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and all(name in values for name in node.input[1:]):
            scale, zero = (np.atleast_1d(numpy_helper.to_array(values[name])) for name in node.input[1:3])
            found[node.name] = (scale, zero)
    return found
