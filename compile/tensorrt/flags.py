"""Which trtexec flags exist in which major version of TensorRT, as far as they are used here.

Read from the sources of trtexec (samples/common/sampleOptions.cpp of releases 8.5 and 10.8). A command is checked against its
version's list before it is written, because trtexec refuses unknown flags and its flags come and go: 10 dropped ``--buildOnly`` for
``--skipInference`` and ``--workspace`` for ``--memPoolSize``, and 11 dropped every precision flag.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import UsageError

_COMMON = frozenset(
    [
        *("onnx", "saveEngine", "loadEngine", "fp16", "int8", "memPoolSize", "timingCacheFile", "profilingVerbosity", "exportLayerInfo"),
        *("loadInputs", "exportOutput", "exportTimes", "exportProfile", "separateProfileRun", "useCudaGraph", "useSpinWait"),
        *("noDataTransfers", "avgRuns", "warmUp", "duration", "iterations", "verbose"),
    ]
)


@dataclass(frozen=True, slots=True)
class TrtExec:
    """trtexec of one major version: its flags, and the one that builds without timing."""

    flags: frozenset[str]
    build_only: str


VERSIONS = {8: TrtExec(_COMMON | {"buildOnly"}, "buildOnly"), 10: TrtExec(_COMMON | {"skipInference"}, "skipInference")}


def trtexec_of(version: str) -> TrtExec:
    """Return trtexec's description for a TensorRT version such as "8.5.2".

    Raises:
        UsageError: no version, or one whose commands are not known here.

    """
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) not in VERSIONS:
        known = ", ".join(str(v) for v in VERSIONS)
        raise UsageError(
            "target: backends.tensorrt.version", f"no commands for TensorRT '{version}'", f"give a version of these majors: {known}"
        )
    return VERSIONS[int(major)]


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
