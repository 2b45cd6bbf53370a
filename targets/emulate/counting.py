"""How many instructions an artifact executes for one image, by class: counted by a plugin of qemu, the same every time.

What one image takes is the difference between a process that restores many and one that restores one: start, imports and the
preparation of the artifact cancel out, but for a remainder of the interpreter's, which is shared by many. It is a count, not a time:
cores differ in how many instructions they finish in a cycle.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StageFailed, ToolchainMissing
from targets.emulate.cpus import cpu_model
from targets.emulate.emulator import Emulator
from targets.emulate.encodings import CLASSES
from targets.emulate.restore import Artifact, restore_on
from targets.emulate.sysroot import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SOURCE = Path(__file__).parent / "count.c"
FOLDER = "/counting"
REPEAT = 10
ATTEMPTS, SECONDS = 4, 240.0
"""qemu 7.2 now and then stands still when a thread begins or ends while a plugin is loaded: such a process is ended and started again."""


def missing() -> str:
    """Empty when instructions can be counted here; otherwise the line that brings what is lacking."""
    qemu = shutil.which("qemu-aarch64")
    if not qemu:
        return "apt-get install qemu-user"
    if not importlib.util.find_spec("ziglang"):
        return 'pip install -e ".[tvm]"'
    text = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    version = tuple(int(n) for n in re.findall(r"version (\d+)\.(\d+)", text)[0])
    return "" if version < (9, 0) else "install a qemu-user older than 9.0: plugins of newer ones are built otherwise"


def instructions(emulator: Emulator, artifact: Artifact, lq: NDArray[np.float32]) -> dict[str, float]:
    """Instructions by class (``encodings.CLASSES`` and "other") that one image takes, single-threaded.

    Args:
        emulator: the machine.
        artifact: what runs.
        lq: float32 [1, 3, H, W] in [0, 1].

    Raises:
        ToolchainMissing: qemu, or the compiler that builds the plugin, is not here.
        StageFailed: the artifact does not run there, or the emulator stood still again and again.

    """
    hint = missing()
    if hint:
        raise ToolchainMissing("emulate", "cannot count instructions", hint)
    plugin = _plugin()
    one, many = (_patiently(emulator, plugin, artifact, lq, repeat) for repeat in (1, 1 + REPEAT))
    return {name: (many[name] - one[name]) / REPEAT for name in one}


def of_program(cpu: str, argv: Sequence[str]) -> Counter[str]:
    """Instructions by class that a static program for aarch64 executes from beginning to end.

    Args:
        cpu: LLVM's name of the core, as ``Emulator`` takes it.
        argv: the command.

    Raises:
        ToolchainMissing: qemu, or the compiler that builds the plugin, is not here.
        StageFailed: the program fails.

    """
    hint = missing()
    if hint:
        raise ToolchainMissing("emulate", "cannot count instructions", hint)
    with tempfile.TemporaryDirectory(prefix="count-") as tmp:
        log = Path(tmp) / "log.json"
        options = ["-cpu", cpu_model(cpu).name, "-plugin", str(_plugin()), "-d", "plugin", "-D", str(log)]
        done = subprocess.run(["qemu-aarch64", *options, *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            raise StageFailed("emulate", f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}", "see what it says")
        return Counter(json.loads(log.read_text().splitlines()[-1]))


def _patiently(emulator: Emulator, plugin: Path, artifact: Artifact, lq: NDArray[np.float32], repeat: int) -> Counter[str]:
    for attempt in range(ATTEMPTS):
        with suppress(subprocess.TimeoutExpired):
            return _counted(emulator, plugin, artifact, lq, repeat, SECONDS * 2**attempt)
    what = f"stood still or took longer than {SECONDS * 2 ** (ATTEMPTS - 1):.0f} s in each of {ATTEMPTS} attempts"
    raise StageFailed("emulate", f"counting the instructions of {artifact.path.name} {what}", "count a smaller image")


def _counted(emulator: Emulator, plugin: Path, artifact: Artifact, lq: NDArray[np.float32], repeat: int, seconds: float) -> Counter[str]:
    with tempfile.TemporaryDirectory(prefix="count-") as tmp:
        shutil.copy(plugin, Path(tmp) / "count.so")
        options = ("-plugin", f"{FOLDER}/count.so", "-d", "plugin", "-D", f"{FOLDER}/%d.json")  # a line for each process
        restore_on(replace(emulator, binds={**emulator.binds, FOLDER: Path(tmp)}, options=options), [artifact], lq, repeat, seconds=seconds)
        return counts_in(Path(tmp))


def counts_in(folder: Path) -> Counter[str]:
    """Sum of what the plugin wrote, a line of JSON for each process, to the ``.json`` files of a folder.

    Raises:
        StageFailed: it wrote nothing: no count is not a count of none.

    """
    found: Counter[str] = Counter()
    for log in folder.glob("*.json"):
        for line in log.read_text().splitlines():
            found.update(json.loads(line))
    if not found:
        raise StageFailed("emulate", "the plugin counted nothing", "take a qemu-user that was built with plugins")
    return found


def _plugin() -> Path:
    """The plugin, built once for each content."""
    names = list(CLASSES)
    table = ",".join(f"{{{mask:#x},{value:#x},{names.index(name)}}}" for name, pairs in CLASSES.items() for mask, value in pairs)
    words = ",".join(f'"{name}"' for name in names)
    digest = hashlib.sha256(SOURCE.read_bytes() + table.encode() + words.encode()).hexdigest()[:12]
    out = cache_folder() / f"count-{digest}.so"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".building-") as tmp:
            made = Path(tmp) / "count.so"
            command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-Wl,-z,lazy", f"-DCLASS_TABLE={table}"]
            done = subprocess.run([*command, f"-DCLASS_NAMES={words}", "-o", made, SOURCE], capture_output=True, text=True, check=False)
            if done.returncode:
                raise StageFailed("emulate", f"the plugin cannot be built: {done.stderr.strip()[-400:]}", 'pip install -e ".[tvm]"')
            made.replace(out)
    return out
