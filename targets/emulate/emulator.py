"""The emulator: a command of a userland, run by qemu under a CPU model, with a root of its own and one folder of this machine.

proot gives the guest its own root without any privilege, and runs what the guest starts under qemu too. What comes out proves that the
code works on that CPU and C library. How long it took says nothing about any board, so nothing here reports a time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import ToolchainMissing
from targets.emulate.cpus import CpuModel, cpu_model
from targets.emulate.sysroot import sysroot_folder
from targets.emulate.userlands import userland

EVIDENCE = "emulated: function only, no timing"
"""What anything found under emulation is marked with."""

WORK = "/work"
"""The guest's name of the one folder that it shares with this machine."""

PROGRAMS = {"qemu-aarch64": "qemu-user", "proot": "proot"}
"""Programs that are needed, and the Debian package of each."""

_SHARED = ("bin", "lib", "usr")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8", "USER": "root"}


@dataclass(frozen=True, slots=True)
class Emulator:
    """An emulated machine.

    cpu       LLVM's name of a core, e.g. "cortex-a76" or a target's ``cpu.mcpu`` (``targets.emulate.cpus``)
    system    the userland, by the name of its Debian release: "bookworm" (glibc 2.36) or "bullseye" (2.31)
    binds     host paths that the guest sees as well, by their path in it
    options   more options of qemu, e.g. a plugin that counts instructions; paths are the guest's
    """

    cpu: str = "cortex-a76"
    system: str = "bookworm"
    binds: Mapping[str, Path] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def model(self) -> CpuModel:
        """The core that is really emulated."""
        return cpu_model(self.cpu)

    def missing(self) -> str:
        """Empty when everything is here; otherwise the line that installs it."""
        packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
        steps = [f"apt-get install {' '.join(packages)}"] if packages else []
        if not sysroot_folder(userland(self.system)).exists():
            steps.append(f"python -m targets.emulate {self.system}")
        return " && ".join(steps)

    def _require(self) -> None:
        hint = self.missing()
        if hint:
            raise ToolchainMissing("emulate", f"cannot emulate {self.cpu} with {self.system}", hint)

    def lay_out(self, root: Path) -> None:
        """Make a folder the root of an emulated machine: what is the machine's own is written to it, the rest is the userland's.

        Raises:
            ToolchainMissing: qemu, proot or the sysroot is not here.

        """
        self._require()
        sysroot = sysroot_folder(userland(self.system))
        for name in (*_SHARED, "dev", "home", "proc", "root", "tmp", "var", WORK.strip("/")):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("etc", "sys"):
            shutil.copytree(sysroot / name, root / name, dirs_exist_ok=True)
        (root / "etc/cpuinfo").write_text(self.model.cpuinfo())

    def command(self, root: Path, argv: Sequence[str], cwd: str = "/") -> list[str]:
        """The command of this machine that runs ``argv`` in the guest whose root was laid out; raises as ``lay_out`` does."""
        self._require()
        sysroot = sysroot_folder(userland(self.system))
        binds = {"/dev": Path("/dev"), "/proc": Path("/proc"), "/proc/cpuinfo": root / "etc/cpuinfo"}
        binds |= {f"/{name}": sysroot / name for name in _SHARED} | dict(self.binds)
        shown = [f"--bind={host}:{guest}" for guest, host in binds.items()]
        proot, qemu = shutil.which("proot"), shutil.which("qemu-aarch64")
        emulator = " ".join([str(qemu), "-cpu", self.model.name, *self.options])
        return [str(proot), f"--qemu={emulator}", f"--rootfs={root}", *shown, f"--cwd={cwd}", *argv]

    def run(
        self, argv: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the guest, with a folder of this machine as its working folder ``/work``.

        Args:
            argv: the command, e.g. ``["python3", "run.py"]``; found on the guest's PATH.
            folder: what the guest shares with this machine; results are found there.
            environment: variables beside PATH, HOME, LANG and USER; nothing of this process's environment is passed on.
            seconds: subprocess.TimeoutExpired is raised after that.

        """
        with tempfile.TemporaryDirectory(prefix="emulate-") as tmp:
            root = Path(tmp)
            self.lay_out(root)
            command = replace(self, binds={**self.binds, WORK: folder.resolve()}).command(root, argv, WORK)
            return _run(command, self.environment(environment), seconds)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The guest's environment."""
        return {**_ENVIRONMENT, "PROOT_TMP_DIR": os.environ.get("TMPDIR", "/tmp"), **(more or {})}


def _run(command: list[str], environment: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command in a process group of its own, so that nothing of the guest outlives it: proot's end does not end what it traces."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
