"""The TVM backend: build for a CPU, open and run on this one."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compile.source import Source, write_fixed
from compile.tvm.cpu import cpu_of, target_of
from compile.tvm.host import host_dict, lacking
from compile.tvm.link import link_shared
from compile.tvm.options import TvmOptions, options_of
from compile.tvm.pins import FFI, TVM, misfit
from compile.tvm.readback import differences
from compile.tvm.search import in_words
from eval.session import Backend, BuildRequest, Built, Session
from pipeline.errors import StageFailed, UsageError
from pipeline.machine import cores
from quantize.artifact import ModelFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compile.tvm.lower import Lowered


class TvmBackend(Backend):
    """Networks of fixed size as one shared library with the weights inside: int8, fp32, and fp16 where the CPU computes in it."""

    name: ClassVar[str] = "tvm"
    toolchain: ClassVar[tuple[str, ...]] = ("apache-tvm", "apache-tvm-ffi", "ziglang")
    needs: ClassVar[str] = f'`pip install "apache-tvm=={TVM[-1]}*" apache-tvm-ffi=={FFI[TVM[-1]]}`'

    def missing(self) -> str:
        """Empty when TVM and its linker are installed, in versions that fit each other."""
        found = all(importlib.util.find_spec(name) for name in ("tvm", "tvm_ffi", "ziglang"))
        return misfit() if found else 'pip install -e ".[tvm]"'

    def _build(self, request: BuildRequest) -> Built:
        kind = target_dict(request)
        source = _source(request, kind)
        options = options_of(request.options)
        _check_tuning(options, kind)
        lowered, executable = compiled(request, kind, source, tune=options.tune, search=options.search())
        out = request.workdir / f"tvm-{request.precision}-{kind['mcpu']}.so"
        arch, system = _arch_and_system(kind["mtriple"])

        def fcompile(path: str, objects: list[str], options: object = None, **_: object) -> None:
            link_shared(Path(path), list(objects), arch, system)

        executable.export_library(str(out), fcompile=fcompile)
        facts = {
            **{"backend": "compile.tvm", "precision": request.precision, "height": request.height, "width": request.width},
            **{"mtriple": kind["mtriple"], "mcpu": kind["mcpu"], "mattr": kind["mattr"]},
            "runs_here": arch == platform.machine() and not lacking(kind),
            "source": source,
            "float_precision": "fp16" if request.precision == "fp16" else "fp32",
            "islands": list(lowered.islands),
            "unscheduled": list(lowered.unscheduled),
            "searched": {f.name: {"schedules": f.tried, "timed_now": f.timed} for f in lowered.searched},
            "notes": [line for line in (in_words(lowered.searched, target_of(kind), options.search()),) if line],
            "tiles": {shape: [t.pixels, t.vectors] for shape, t in sorted(lowered.tiles.known.items())} if lowered.tiles else {},
            "activations": {name: [n.dtype, n.scale, n.zero] for name, n in sorted(lowered.activations().items())},
        }
        return Built(out, facts)

    def differences(self, built: Built, folder: ModelFolder) -> list[str]:
        """What of the network's integers and scales is not in a built library (``compile.tvm.readback``)."""
        return differences(built, folder)

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        arch = str(facts["mtriple"]).split("-")[0]
        if arch != platform.machine():
            raise StageFailed(str(path), f"is built for {arch}", f"this machine is {platform.machine()}: run it on the device")
        gaps = lacking(facts)
        if gaps:
            raise StageFailed(str(path), f"is built for {facts['mcpu']}: this CPU lacks {', '.join(gaps)}", "run compile on this machine")
        return TvmSession(path, int(facts["height"]), int(facts["width"]), threads)


class TvmSession(Session):
    """A loaded library.

    Args:
        path: the .so.
        height: of its input in pixels.
        width: likewise.
        threads: CPU threads; 0 takes all cores.
    """

    def __init__(self, path: Path, height: int, width: int, threads: int) -> None:
        super().__init__(height, width)
        _prepare_thread_pool()
        import tvm
        from tvm import relax

        self._threads = threads or cores()
        self._set_threads = tvm.get_global_func("runtime.config_threadpool")
        self._tensor = tvm.runtime.tensor
        self._input: Any = None
        with tempfile.TemporaryDirectory() as tmp:  # a loader that has seen a path before hands out the old library
            private = shutil.copy(path, Path(tmp) / f"{uuid.uuid4().hex}.so")
            self._main = relax.VirtualMachine(tvm.runtime.load_module(str(private)), tvm.cpu())["main"]

    def _run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]:
        self._set_threads(1, self._threads)  # one pool serves every session of the process
        if self._input is None:
            self._input = self._tensor(lq)  # TVM wants its own alignment
        self._input.copyfrom(lq)
        out: NDArray[np.float32] = self._main(self._input).numpy()
        return out


def _prepare_thread_pool() -> None:
    """Let TVM's pool have every core, and keep it from pinning this process to some of them; read when it first runs."""
    os.environ.setdefault("TVM_NUM_THREADS", str(cores()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def _check_tuning(options: TvmOptions, kind: Mapping[str, Any]) -> None:
    """Kernels for another machine can only be timed on one."""
    elsewhere = _arch_and_system(kind["mtriple"])[0] != platform.machine() or bool(lacking(kind))
    if options.tune is not None and not options.tune.rpc and elsewhere:
        where = "target: backends.tvm.options.tune"
        raise UsageError(where, f"{kind['mcpu']} code does not run here to be timed", "add rpc: host:port/key, or leave tune out")


def _source(request: BuildRequest, kind: dict[str, Any]) -> Source:
    """The file of the model folder that a precision is made from."""
    cpu = cpu_of(target_of(kind))
    if request.precision == "fp16" and not cpu.half:
        raise StageFailed("compile.tvm", f"has no fp16 for {kind['mcpu']}: it does not compute in it", "list fp32 for this backend")
    if request.precision not in ("int8", "fp32", "fp16"):
        raise StageFailed("compile.tvm", f"has no {request.precision}", "it has: int8, fp32, fp16")
    return cpu.flavour if request.precision == "int8" else "float"


def compiled(request: BuildRequest, kind: dict[str, Any], source: Source, **options: Any) -> tuple[Lowered, Any]:
    """The lowered network of a request and TVM's executable; whatever TVM cannot do becomes StageFailed.

    Args:
        request: what to build.
        kind: the TVM target as a dictionary.
        source: file of the model folder.
        options: of ``compile.tvm.lower.lower``.

    """
    import tvm

    from compile.tvm.lower import lower

    target = target_of(kind)
    with tempfile.TemporaryDirectory() as tmp:
        model = write_fixed(request, source, Path(tmp) / "fixed.onnx")
    try:
        lowered = lower(model, target, half=request.precision == "fp16", **options)
        return lowered, tvm.compile(lowered.module, target=target)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as e:  # TVM's errors derive from all of these
        text = str(e).strip().splitlines()
        raise StageFailed(
            "compile.tvm", f"cannot compile this network ({text[-1] if text else type(e).__name__})", "use another backend"
        ) from e


def target_dict(request: BuildRequest) -> dict[str, Any]:
    """The TVM target of a request: this machine's CPU, or the one that the target file describes."""
    cpu = request.target.cpu
    if request.for_host or cpu.mcpu == "native":
        return host_dict()
    return {"kind": "llvm", "mtriple": cpu.triple, "mcpu": cpu.mcpu, "mattr": list(cpu.features)}


def _arch_and_system(triple: str) -> tuple[str, str]:
    parts = triple.split("-")
    return parts[0], parts[-1]
