"""trtexec: the commands that run and time an engine, and what it exports. The same JSON in TensorRT 8.5 to 11."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from board.basics import DeviceError, call, read_text

DEFAULT = "/usr/src/tensorrt/bin/trtexec"


def find() -> str:
    """Path of trtexec, empty when it is not here: $TRTEXEC, the search path, JetPack's place."""
    path = os.environ.get("TRTEXEC") or shutil.which("trtexec") or DEFAULT
    return path if Path(path).exists() else ""


def parse_times(text: str) -> Dict[str, List[float]]:
    """Milliseconds of ``--exportTimes`` by run: "compute" for the kernels alone, "latency" with the copies to and from the GPU.

    Raises:
        DeviceError: it is not what trtexec writes.

    """
    try:
        rows = json.loads(text)
        found = {"compute": [float(r["computeMs"]) for r in rows], "latency": [float(r["latencyMs"]) for r in rows]}
    except (ValueError, KeyError, TypeError):
        raise DeviceError("trtexec exported no times that can be read: is this TensorRT 8.5 to 11?") from None
    if not rows:
        raise DeviceError("trtexec exported no times: give more --seconds")
    return found


def parse_profile(text: str) -> Dict[str, Any]:
    """Layers of ``--exportProfile`` in the order of execution: {"runs": N, "rows": [{"name", "ms"}]}, ms per inference; {} when it is none.

    The file starts with {"count": N}.
    """
    try:
        rows = json.loads(text)
        layers = [{"name": str(r["name"]), "ms": float(r["averageMs"])} for r in rows if "name" in r]
        runs = [int(r["count"]) for r in rows if "count" in r]
    except (ValueError, KeyError, TypeError):
        return {}
    return {"runs": runs[0], "rows": layers} if runs and layers else {}


def run_engine(binary: str, engine: Path, *flags: str, seconds: float = 600.0) -> None:
    """Call trtexec on an engine; its failure becomes one line."""
    status, text = call(binary, f"--loadEngine={engine}", *flags, seconds=seconds)
    if status:
        raise DeviceError(f"trtexec failed ({status}: {text[-200:]}); if TensorRT was updated, run ./build_engine.sh again")


def infer(binary: str, engine: Path, name: str, x: Any) -> Any:
    """One inference through files: float32 [1, 3, H, W] to the same."""
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "input.bin"), Path(folder, "output.json")
        x.tofile(str(raw))
        run_engine(binary, engine, f"--loadInputs={name}:{raw}", f"--exportOutput={out}", "--iterations=1", "--duration=0", "--warmUp=0")
        values = json.loads(read_text(out))[0]["values"]
    return np.asarray(values, dtype=np.float32).reshape(x.shape)


def measure(binary: str, engine: Path, flags: List[str], seconds: float, count: int) -> Dict[str, List[float]]:
    """Let trtexec time itself for at least ``seconds`` and ``count`` runs; as ``parse_times``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "times.json")
        least = [f"--iterations={count}", f"--duration={max(1, round(seconds))}"]
        run_engine(binary, engine, f"--exportTimes={out}", *least, *flags, seconds=600 + 10 * seconds)
        return parse_times(read_text(out))


def profile(binary: str, engine: Path, flags: List[str]) -> Dict[str, Any]:
    """Let trtexec time the engine's layers, in a run of its own; as ``parse_profile``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "profile.json")
        run_engine(binary, engine, f"--exportProfile={out}", "--iterations=10", "--duration=1", *flags)
        return parse_profile(read_text(out))
