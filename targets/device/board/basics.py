"""Errors in words, files, and calls of the board's own tools."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

Json = Dict[str, Any]
HERE = Path(__file__).resolve().parent.parent


class DeviceError(Exception):
    """Something that the user can mend; its text is the one line that is shown."""


def read_text(path: Path) -> str:
    """Text of a file without zeros and line ends, empty when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return ""


def call(*command: str, seconds: float = 30.0) -> Tuple[int, str]:
    """Exit status and output of a command; 127 when it is not there, 124 when it takes too long."""
    if not shutil.which(command[0]):
        return 127, "not found"
    try:
        done = subprocess.run(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, "no answer within {:g} s".format(seconds)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def answer(*command: str) -> str:
    """Output of a command, empty when it is not there or fails."""
    status, text = call(*command)
    return "" if status else text


def sha256(path: Path) -> str:
    """Hash of a file in hex."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as f:
            for block in iter(lambda: f.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        raise DeviceError("{} is missing: copy the bundle again".format(path.name)) from None
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at every moment either the old one or the whole new one is there."""
    try:
        handle, name = tempfile.mkstemp(dir=str(path.parent), prefix=path.name + ".")
    except OSError as e:
        raise DeviceError("{} cannot be written ({}): free some space, or name another file".format(path, e.strerror)) from None
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as e:
        Path(name).unlink()
        raise DeviceError("{} cannot be written ({}): free some space, or name another file".format(path, e.strerror)) from None


def write_json(path: Path, content: Json) -> None:
    """Write JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode("utf-8"))


def check_manifest(folder: Path = HERE) -> int:
    """Compare every file with MANIFEST.sha256; returns how many there are."""
    lines: List[str] = read_text(folder / "MANIFEST.sha256").splitlines()
    if not lines:
        raise DeviceError("MANIFEST.sha256 is missing or empty: copy the bundle again")
    for line in lines:
        want, _, name = line.partition("  ")
        if sha256(folder / name) != want:
            raise DeviceError("{} differs from MANIFEST.sha256: copy the bundle again".format(name))
    return len(lines)


def load_bundle(folder: Path = HERE) -> Json:
    """Read bundle.json."""
    try:
        bundle: Json = json.loads(read_text(folder / "bundle.json"))
        bundle["artifacts"], bundle["network"]["size_multiple"]
    except (ValueError, KeyError, TypeError):
        raise DeviceError("bundle.json is missing or damaged: copy the bundle again") from None
    return bundle


def pick(bundle: Json, name: str) -> Json:
    """Find the artifact of that name, by default the one chosen for this device."""
    found: Dict[str, Json] = {a["name"]: a for a in bundle["artifacts"]}
    name = name or bundle["chosen"]
    if name not in found:
        raise DeviceError("no artifact '{}' in this bundle; there are: {}".format(name, ", ".join(found)))
    return found[name]


def load_array(path: Path) -> Any:
    """Array of a .npy file, or of one that xz packed."""
    if path.suffix != ".xz":
        return np.load(str(path))
    try:
        import lzma
    except ImportError:
        raise DeviceError("this Python cannot unpack {}: it lacks the module lzma".format(path.name)) from None
    with lzma.open(str(path)) as f:
        return np.lib.format.read_array(f)
