"""From an ONNX file of fixed size to a Relax module whose operators are fused and scheduled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compile.tvm.resize import legalize_resize
from compile.tvm.schedule import Vectors, schedule_module

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class Lowered:
    """A module that is ready to build, and the names of its functions that no schedule fits."""

    module: Any
    plain: tuple[str, ...]


def lower(model: onnx.ModelProto, target: Any) -> Lowered:
    """Import, simplify, fuse and schedule a network.

    Args:
        model: float32 ONNX with one input of fixed shape.
        target: ``tvm.target.Target`` of a CPU.

    """
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    to = relax.transform
    passes = [
        to.DecomposeOpsForInference(),
        to.CanonicalizeBindings(),
        to.LegalizeOps({"relax.image.resize2d": legalize_resize}),
        to.AnnotateTIROpPattern(),
        to.FoldConstant(),
        to.FuseOps(),
        to.FuseTIR(),
        to.DeadCodeElimination(["main"]),
    ]
    with target:
        mod = tvm.transform.Sequential(passes)(from_onnx(model, keep_params_in_input=False))
    mod, plain = schedule_module(mod, vectors_of(target))
    return Lowered(mod, tuple(plain))


def vectors_of(target: Any) -> Vectors:
    """The vector registers of a TVM target: 32 of 16 floats with AVX-512, 16 of 8 with AVX, 32 of 4 on aarch64, else 16 of 4."""
    from tvm.target.codegen import llvm_cpu_has_features

    if "aarch64" in str(target.attrs.get("mtriple", "")):
        return Vectors(lanes=4, accumulators=24)
    if llvm_cpu_has_features("avx512f", target):
        return Vectors(lanes=16, accumulators=24)
    if llvm_cpu_has_features("avx", target):
        return Vectors(lanes=8, accumulators=12)
    return Vectors(lanes=4, accumulators=12)
