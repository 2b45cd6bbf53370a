"""Is a compiled artifact still the same network? Floats by PSNR between outputs, integers by task PSNR and exact scales.

Outputs are compared at tiles of test images. Nothing is chosen by how good they are there: a difference from its own source, either way,
is all that counts.

End-to-end equality of int8 outputs is not defined: the order of additions alone moves them to about 50 dB of each other, while the
task PSNR stays put. Nor are one backend's artifacts for two CPUs equal where they come from files of two flavours, unless the network's
activations are unsigned: behind a ReLU "u8" (x86) holds up to 255 steps and "s8" (Arm) clips at 127, so that a value may lose up to 128
steps of its tensor there, and everything that reads it differs. TVM's kernels compute the same integers from the same integers on both.
NaN never passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.quality import IDENTICAL_DB
from pipeline.contract import Better, Evidence, Measurement, Verdict
from pipeline.errors import StageFailed

if TYPE_CHECKING:
    from quantize.artifact import ModelFolder

Batch = NDArray[np.float32]

FLOAT_DB = {"fp32": 60.0, "fp16": 60.0, "bf16": 50.0}
"""Least PSNR of a float artifact's output against the float network's, by precision.

A number of p significant bits in [0.5, 1) lies on a grid of 2**-p; rounding to it errs by 2**-p / sqrt(12) in the root mean square.
An image that is rounded once at full amplitude is therefore 20 log10(2**p sqrt(12)) dB from itself: 77 dB in fp16 (p = 11), 58.96 dB in
bf16 (p = 8). In bf16 no network whose input or output is rounded can promise 60 dB. k independent roundings of that size leave
58.96 - 10 log10(k): 50 dB allows seven (input, stem, the joins of the skip connections, global residual, output), while that of fp16
allows fifty. A wrong layer is far below either. 50 dB is also 20 dB below the error of a restored image at 30 dB: it adds 1 % to that
error, 0.04 dB, which is what ``TASK_DB`` lets pass, and bf16 is held to that as well.
"""

TASK_DB = 0.05
"""Largest difference in mean task PSNR, either way: of an int8 artifact from its Q/DQ file, of a bf16 one from the float network."""

QDQ = "Q/DQ file run node by node"

PROOF = "run.py --verify"
"""The bundle's own proof on the device."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Verdict, the numbers behind it, and the reason in words.

    ``stands_in``: the artifact's own runtime had no part in it.
    """

    verdict: Verdict
    reason: str
    measurements: tuple[Measurement, ...] = ()
    stands_in: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """PSNR in dB against the sharp originals of an artifact and of what it was made from: one of each for every image.

    split  data set of the images
    kind   "image" where they are whole, "tile" where they were cut
    """

    artifact: Sequence[float]
    reference: Sequence[float]
    split: str
    kind: str

    @property
    def change(self) -> float:
        """Of the mean, in dB."""
        return float(np.mean(self.artifact) - np.mean(self.reference))

    def __str__(self) -> str:
        return f"{self.change:+.3f} dB on {_counted(len(self.artifact), self.split, self.kind)}"


def unproven(reason: str) -> Parity:
    """No evidence: the artifact does not run here."""
    return Parity(Verdict.UNPROVEN, f"parity unproven: {reason}")


def by_stand_in(parity: Parity, device: str) -> Parity:
    """Say of a verdict that the artifact was read but did not run: its source ran in its place.

    Args:
        parity: the verdict.
        device: where the artifact's own runtime is.

    """
    text = f"by a stand-in here, its source in ONNX Runtime: {parity.reason}; its own runtime runs on {device}, where {PROOF} proves it"
    return replace(parity, reason=text, stands_in=True)


def output_psnr(got: Batch, want: Batch) -> float:
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


def float_parity(got: Sequence[Batch], want: Sequence[Batch], precision: str, split: str, **conditions: Any) -> Parity:
    """Compare a float artifact with the float network.

    Args:
        got: outputs of the compiled one, float32 [1, 3, H, W].
        want: those of the float ONNX file, run as it is written.
        precision: of ``FLOAT_DB``, which holds the bound.
        split: data set of the tiles.
        conditions: said beside the number.

    """
    bound = FLOAT_DB[precision]
    values = [output_psnr(a, b) for a, b in zip(got, want, strict=True)]
    found = parity_measurement(values, bound=bound, split=split, **conditions)
    text = f"output {found.value:.1f} dB from the float network's on {_counted(len(values), split, 'tile')} (at least {bound:g})"
    return Parity(Verdict.PASSED if found.value >= bound else Verdict.FAILED, text, (found,))


def with_task_parity(parity: Parity, tasks: Sequence[Task], against: str, **conditions: Any) -> Parity:
    """Add to a verdict that the mean task PSNR must equal that of what the artifact was made from, within ``TASK_DB``, on every data set.

    Args:
        parity: the verdict so far; one that is not passed stays what it is.
        tasks: on each data set, at least one.
        against: what the artifact was made from, in words.
        conditions: said beside the numbers.

    """
    said = {"bound": TASK_DB, "against": against, **conditions}
    rows = [_task_measurement(task, split=task.split, cut=f"{task.kind}s", **said) for task in tasks]
    same = all(abs(task.change) <= TASK_DB for task in tasks)
    verdict = parity.verdict if same or parity.verdict is not Verdict.PASSED else Verdict.FAILED
    text = f"task PSNR {', '.join(map(str, tasks))} against the {against} (at most {TASK_DB:g} either way)"
    return replace(parity, verdict=verdict, reason=f"{parity.reason}; {text}", measurements=(*rows, *parity.measurements))


def _task_measurement(task: Task, **conditions: Any) -> Measurement:
    """parity_task_psnr: what the mean task PSNR gains against its source, in dB."""
    values = tuple(a - b for a, b in zip(task.artifact, task.reference, strict=True))
    return Measurement("parity_task_psnr", task.change, "dB", Better.HIGHER, len(values), Evidence.HOST, conditions, values)


def _counted(count: int, split: str, kind: str) -> str:
    return f"{count} {split} {kind}{'s' * (count != 1)}"


def integer_parity(differences: Sequence[str], tasks: Sequence[Task], outputs: Measurement, **conditions: Any) -> Parity:
    """Judge an int8 artifact.

    The reference is the Q/DQ file that the artifact was made from, run node by node in float by ONNX Runtime. The signed and the unsigned
    file are not each other's reference: behind a ReLU one cuts at 127 steps, the other at 255, unless the network is unsigned.

    Args:
        differences: scales, zero points and integers that the artifact holds otherwise than the network.
        tasks: its quality and that of its Q/DQ file.
        outputs: parity_psnr between the two, for information.
        conditions: said beside the numbers.

    """
    found = Parity(Verdict.PASSED, "scales and integers exact", (outputs,))
    if differences:
        text = f"quantization parameters differ: {differences[0]} ({len(differences)} in all)"
        found = Parity(Verdict.FAILED, text, (outputs,))
    return with_task_parity(found, tasks, QDQ, **conditions)


def qdq_differences(path: Path, folder: ModelFolder) -> list[str]:
    """Compare a Q/DQ file with the model folder: scales, zero points and integer weights, exactly.

    Returns:
        One line for each tensor that differs or is not in the file.

    """
    scales = folder.scales()
    found, want = _integers(path), _integers(folder.qdq("s8"))
    changed = [name for name in scales["weights"] if not _equal(found.get(name), want.get(name))]
    return [*scale_differences(path, scales), *(f"integers of weight {name}" for name in changed)]


def _equal(found: NDArray[Any] | None, want: NDArray[Any] | None) -> bool:
    return found is not None and want is not None and found.dtype == want.dtype and np.array_equal(found, want)


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
    """Signed files have the zero points that are said; unsigned ones 0 for what cannot be negative, else 128."""
    unsigned = (0 if want["non_negative"] else 128) if found[1].dtype == np.uint8 else want["zero_point"]
    return bool(found[1].reshape(-1)[0] == unsigned)


def _same(found: NDArray[Any], want: Sequence[float]) -> bool:
    return bool(np.array_equal(found.reshape(-1), np.asarray(want, np.float32)))


def _integers(path: Path) -> dict[str, NDArray[Any]]:
    """The constants behind DequantizeLinear nodes, by the name of the tensor that they make."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    values = {i.name: i for i in graph.initializer}
    nodes = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in values]
    return {n.name.removesuffix(".dequantize"): numpy_helper.to_array(values[n.input[0]]) for n in nodes}


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
