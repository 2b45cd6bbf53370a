"""From a fixed ONNX file to a Relax module that is ready to build: kernels where there are some, TVM's fused operators elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compile.tvm.assemble import Packed, assemble
from compile.tvm.cpu import Cpu, cpu_of
from compile.tvm.functions import FUNCTIONS
from compile.tvm.fuse import fuse_sums
from compile.tvm.graph import Graph
from compile.tvm.kernels.tensors import Number
from compile.tvm.network import read_network
from compile.tvm.records import Search
from compile.tvm.resize import legalize_resize
from compile.tvm.schedule import Vectors, schedule_module
from compile.tvm.search import Found, search_module
from compile.tvm.steps import Network, Step, Tensor
from compile.tvm.tiles import Tiles

if TYPE_CHECKING:
    import onnx

    from compile.tvm.options import TuneOptions


@dataclass(frozen=True, slots=True)
class Lowered:
    """A module that is ready to build.

    module       Relax and TIR
    steps        what it computes, before sums were melted into other steps
    constants    the packed constants of the convolutions
    islands      ONNX nodes that no kernel covers: computed in float32 by TVM's own operators
    unscheduled  functions of those that no rule schedules and no search: they run, but as plain loops
    searched  functions of those whose schedule was searched for
    tiles    sizes of the register tiles
    """

    module: Any
    steps: tuple[Step, ...]
    constants: tuple[Packed, ...]
    islands: tuple[str, ...]
    unscheduled: tuple[str, ...]
    searched: tuple[Found, ...] = ()
    tiles: Tiles | None = None

    def activations(self) -> dict[str, Number]:
        """Integer tensors by the name of what they hold, with the scale and zero point that the kernels were written with."""
        tensors = [v for step in self.steps for v in (*step.inputs, step.out) if isinstance(v, Tensor) and not v.number.is_float]
        return {t.name.removesuffix(".integers"): t.number for t in tensors}


def lower(
    model: onnx.ModelProto,
    target: Any,
    *,
    half: bool = False,
    kernels: bool = True,
    tune: TuneOptions | None = None,
    search: Search | None = None,
) -> Lowered:
    """Lower a network.

    Args:
        model: ONNX of fixed size, float or Q/DQ, one float32 image in and one out.
        target: ``tvm.target.Target`` of a CPU.
        half: compute floats in float16 where a kernel covers them.
        kernels: False leaves everything to TVM's own operators, with schedules by rule.
        tune: how tile sizes are measured; by default the shipped ones are taken.
        search: how schedules are found for an operator that neither a kernel nor a rule fits; by default it is left as plain loops.

    """
    cpu = cpu_of(target)
    graph = Graph(model)
    network = read_network(graph, cpu.activation, Number("float16") if half else Number(), kernels=kernels)
    fused = fuse_sums(network)
    tiles = _tiles(fused, cpu, target, tune)
    assembled = assemble(fused, cpu, tiles, graph.opset)
    mod, plain = schedule_module(_legalized(assembled.module, target), vectors_of(target))
    found = search_module(mod, plain, target, search) if search else []
    left = tuple(name for name in plain if name not in {f.name for f in found})
    return Lowered(mod, network.steps, tuple(assembled.constants), tuple(assembled.islands), left, tuple(found), tiles)


def _tiles(network: Network, cpu: Cpu, target: Any, options: TuneOptions | None) -> Tiles:
    """The shipped tiles, and over them those that are measured now."""
    shipped = Tiles.shipped(cpu)
    if options is None:
        return shipped
    from compile.tvm.remote import Remote
    from compile.tvm.tune import tune_network

    measure = Remote(options.rpc) if options.rpc else None
    return Tiles(cpu, {**shipped.known, **tune_network(network, cpu, target, options.records, measure, options.trials)})


def _legalized(mod: Any, target: Any) -> Any:
    import tvm
    from tvm import relax

    to = relax.transform
    passes = [
        to.InlinePrivateFunctions(),
        to.DecomposeOpsForInference(),
        to.CanonicalizeBindings(),
        to.LegalizeOps({"relax.image.resize2d": legalize_resize, **FUNCTIONS}),
        to.AnnotateTIROpPattern(),
        to.FoldConstant(),
        to.FuseOps(),
        to.FuseTIR(),
        to.DeadCodeElimination(["main"]),
    ]
    with target:
        return tvm.transform.Sequential(passes)(mod)


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
