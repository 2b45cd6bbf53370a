"""CPU models: what qemu calls the nearest core it has, and what the guest reads in /proc/cpuinfo.

The two must agree: libraries choose their kernels by what they read, and an instruction that the emulated core lacks kills the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import UsageError, did_you_mean

_V8 = ("fp", "asimd", "evtstrm", "aes", "pmull", "sha1", "sha2", "crc32", "cpuid")
_V82 = (*_V8, "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "dcpop", "asimddp")


@dataclass(frozen=True, slots=True)
class CpuModel:
    """A core that qemu emulates.

    name      qemu's name, for ``-cpu``
    part      the core's number in /proc/cpuinfo (Arm's technical reference manuals, MIDR_EL1)
    features  as Linux names them; ``asimddp`` is the dot product, ``asimdhp`` fp16 arithmetic
    """

    name: str
    part: int
    features: tuple[str, ...]

    @property
    def dotprod(self) -> bool:
        """Whether sdot and udot run."""
        return "asimddp" in self.features

    def cpuinfo(self, cores: int = 2) -> str:
        """Text of /proc/cpuinfo."""
        lines = (
            "BogoMIPS\t: 108.00",
            f"Features\t: {' '.join(self.features)}",
            "CPU implementer\t: 0x41",
            "CPU architecture: 8",
            "CPU variant\t: 0x0",
            f"CPU part\t: {self.part:#x}",
            "CPU revision\t: 1",
        )
        return "".join(f"processor\t: {i}\n" + "\n".join(lines) + "\n\n" for i in range(cores))


MODELS = {
    m.name: m
    for m in (
        CpuModel("cortex-a53", 0xD03, _V8),
        CpuModel("cortex-a57", 0xD07, _V8),
        CpuModel("cortex-a72", 0xD08, _V8),
        CpuModel("cortex-a76", 0xD0B, _V82),
        CpuModel("neoverse-n1", 0xD0C, _V82),
    )
}
"""Cores that qemu 7.2 and later emulate by name. Its own default, ``max``, has SVE and SME and takes kernels that no board here runs."""

STAND_INS = {
    "carmel": "cortex-a76",
    "cortex-a55": "cortex-a76",
    "cortex-a77": "cortex-a76",
    "cortex-a78": "cortex-a76",
    "cortex-a78ae": "cortex-a76",
    "cortex-a78c": "cortex-a76",
    "cortex-x1": "cortex-a76",
    "cortex-a73": "cortex-a72",
    "generic": "cortex-a53",
}
"""LLVM's name of a core that qemu lacks → the nearest one that it has. Each runs all that the real core runs, but for one: no core of
ARMv8.2 in qemu can be had without the dot product, so "carmel" runs under more than the board has. That an artifact for it holds no
dot-product instruction is told from its code (``compile.tvm.count``), and that it needs none by running it under cortex-a72 as well."""


def cpu_model(mcpu: str) -> CpuModel:
    """The emulated core for LLVM's name of one, e.g. "cortex-a76" or "carmel"; raises UsageError for one that has no stand-in."""
    found = MODELS.get(STAND_INS.get(mcpu, mcpu))
    if found is None:
        raise UsageError("emulate", f"no emulated CPU stands for '{mcpu}'", did_you_mean(mcpu, {*MODELS, *STAND_INS}))
    return found
