"""Running artifacts under emulation with the very scripts that go to the board."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import targets.device
from pipeline.errors import StageFailed
from targets.emulate import guest
from targets.emulate.emulator import EVIDENCE, Emulator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "ORT_DISABLE_TELEMETRY": "1"}
"""One thread: qemu 7.2 with a plugin crashes or stands still when threads come and go on a busy machine. ONNX Runtime starts one for its
telemetry, unless told not to."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """What to run: a built engine, the name of its backend's folder in ``compile/``, and the backend's facts about it.

    ``runner`` is a program for the emulated machine that runs it, where the backend has one; without it the backend's Python package does.
    """

    path: Path
    backend: str
    facts: Mapping[str, Any]
    runner: Path | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What came out: the image, and what ran it. It proves the function alone; there is no time in it."""

    output: NDArray[np.float32]
    runtime: str
    machine: str
    libc: str
    evidence: str = EVIDENCE


def restore_on(
    emulator: Emulator, artifacts: Sequence[Artifact], lq: NDArray[np.float32], repeat: int = 1, name: str = "lq", seconds: float = 1800
) -> list[Restored]:
    """Run artifacts one after the other in one emulated Python.

    Args:
        emulator: the machine.
        artifacts: what to run.
        lq: float32 [1, 3, H, W] in [0, 1], of the size that the artifacts take.
        repeat: runs of each, for counting what one run takes.
        name: the input's name in ONNX files.
        seconds: the emulated process is ended after that.

    Raises:
        ToolchainMissing: something that emulation needs is not here.
        StageFailed: the emulated process ended with an error, or was killed, e.g. by an instruction that the CPU lacks.
        subprocess.TimeoutExpired: it took longer than it may.

    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="restore-") as tmp:
        folder = Path(tmp)
        shutil.copytree(Path(targets.device.__file__).parent, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(str(guest.__file__), folder / "guest.py")
        np.save(folder / "lq.npy", lq)
        rows = [_carry(artifact, folder, k) for k, artifact in enumerate(artifacts)]
        (folder / "request.json").write_text(json.dumps({"artifacts": rows, "network": {"input": name}, "repeat": repeat}))
        done = emulator.run(["python3", "guest.py"], folder, _ENVIRONMENT, seconds)
        if done.returncode:
            what = f"the run under {emulator.model.name} ended with {done.returncode}: {done.stderr.strip()[-400:]}"
            raise StageFailed("emulate", what, "the artifact does not run on that CPU, or its runtime does not")
        found = json.loads((folder / "answer.json").read_text())
        outputs = [np.load(folder / f"output{k}.npy") for k in range(len(rows))]
    where = {"machine": found["machine"], "libc": found["libc"]}
    return [Restored(output, version, **where) for output, version in zip(outputs, found["runtimes"], strict=True)]


def _carry(artifact: Artifact, folder: Path, k: int) -> dict[str, Any]:
    """Put an artifact where the guest finds it; what a bundle says of it."""
    place = f"artifact{k}{artifact.path.suffix}"
    shutil.copyfile(artifact.path, folder / place)
    row = {"name": place, "path": place, "backend": artifact.backend, "facts": dict(artifact.facts)}
    if artifact.runner is None:
        return row
    shutil.copy(artifact.runner, folder / f"runner{k}")
    return {**row, "runner": f"runner{k}"}
