"""Which trtexec flags exist in which version of TensorRT, as far as they are used here.

Read from the sources of trtexec (samples/common/sampleOptions.cpp of releases 8.2, 8.5, 10.8 and 11.1). A command is checked against
its version's list before it is written, because trtexec refuses unknown flags and its flags come and go: 8.5 takes ``--memPoolSize``
where 8.2 has ``--workspace``, 10 dropped ``--buildOnly`` for ``--skipInference``, and 11 dropped every precision flag: it builds the
types that the ONNX file states. 11.1 measures with a CUDA graph, spinning and without copies unless told otherwise, 8 and 10 the other
way round; so what is measured is always spelled out.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import UsageError

_COMMON = frozenset(
    [
        *("onnx", "saveEngine", "loadEngine", "timingCacheFile", "profilingVerbosity", "exportLayerInfo", "noTF32"),
        *("loadInputs", "exportOutput", "exportTimes", "exportProfile", "separateProfileRun", "useCudaGraph", "useSpinWait"),
        *("noDataTransfers", "avgRuns", "warmUp", "duration", "iterations", "sleepTime", "idleTime", "verbose", "help"),
    ]
)


@dataclass(frozen=True, slots=True)
class TrtExec:
    """trtexec of a range of versions.

    title       the range, for people
    flags       those that it has, of the ones used here
    workspace   flag with the memory that the builder may use, a template over MiB
    build_only  flag that builds without timing
    streams     flag with the number of streams that are timed at once
    typed       precision is stated in the ONNX file, not by flags
    """

    title: str
    flags: frozenset[str]
    workspace: str
    build_only: str
    streams: str
    typed: bool = False


_WEAK = frozenset({"fp16", "int8"})
_POOLS = frozenset({"memPoolSize", "skipInference", "infStreams", "stronglyTyped"})
_POOL = "memPoolSize=workspace:{mib}"
_V82 = TrtExec("8.2", _COMMON | _WEAK | {"workspace", "buildOnly", "streams"}, "workspace={mib}", "buildOnly", "streams")
_V85 = TrtExec("8.5", _COMMON | _WEAK | {"workspace", "memPoolSize", "buildOnly", "streams"}, _POOL, "buildOnly", "streams")
_V10 = TrtExec("10", _COMMON | _WEAK | _POOLS, _POOL, "skipInference", "infStreams")
_V11 = TrtExec("11", _COMMON | _POOLS, _POOL, "skipInference", "infStreams", typed=True)

VERSIONS = {(8, 2): _V82, (8, 3): _V82, (8, 4): _V85, (8, 5): _V85, (10, None): _V10, (11, None): _V11}
"""(major, minor) -> trtexec; None: every minor version. 8.6 changed flags again and came with JetPack 6.0 alone, which 6.1 replaces."""


def trtexec_of(version: str) -> TrtExec:
    """Return trtexec's description for a TensorRT version such as "8.5.2".

    Raises:
        UsageError: no version, or one whose commands are not known here.

    """
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    major = numbers[0] if numbers else 0
    found = VERSIONS.get((major, None)) or VERSIONS.get((major, numbers[1] if len(numbers) > 1 else None))
    if found is None:
        hint = "give one of 8.2 to 8.5 (JetPack 4.6, 5), 10.x (JetPack 6.1 and later) or 11.x"
        raise UsageError("target: backends.tensorrt.version", f"no commands for TensorRT '{version}'", hint)
    return found


def command_flags(version: str, flags: dict[str, str | None]) -> list[str]:
    """Render flags as trtexec takes them.

    Args:
        version: of TensorRT.
        flags: name without dashes -> value, or None for a switch.

    Raises:
        UsageError: unknown version, or a flag that this version does not have.

    """
    known = trtexec_of(version).flags
    for name in flags:
        if name not in known:
            raise UsageError("target: backends.tensorrt.options", f"trtexec of TensorRT {version} has no --{name}", "remove it")
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in flags.items()]
