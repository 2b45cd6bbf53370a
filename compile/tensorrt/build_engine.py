#!/usr/bin/env python3
"""Build TensorRT engines on this board with TensorRT's Python API, or look after those that trtexec builds.

python3 build_engine.py [--force] [NAME ...]   build engines (default: the one chosen for this board) unless they fit already
python3 build_engine.py --check NAME           exit 0 when the engine fits this board, 3 and the reason when it does not
python3 build_engine.py --prepare NAME         before trtexec: is this the right TensorRT? prints the path of the timing cache
python3 build_engine.py --record NAME          after trtexec: note what the engine was built with

An engine fits one GPU model and one version of TensorRT only, and loading a foreign one executes its code: so each has a record beside
it, <engine>.json, and is refused when this board is another. Needs Python 3.6 or later; building here, the tensorrt package.
"""

import argparse
import ctypes
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
WORDS = {"tensorrt": "TensorRT", "gpu": "the GPU", "compute_capability": "compute capability", "l4t": "L4T"}


class BoardError(RuntimeError):
    """Something that the user can mend; its text is the one line that is shown."""


class Cuda:
    """The CUDA driver, through ctypes: what the first GPU is. Raises BoardError where there is none."""

    def __init__(self) -> None:
        try:
            self.driver = ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise BoardError("no NVIDIA driver here (libcuda.so.1 cannot be loaded): run this on the board") from None
        self.device, self.context = ctypes.c_int(), None
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)

    def call(self, name: str, *arguments: object) -> None:
        """Call a function of the driver; its error becomes ours."""
        code = getattr(self.driver, name)(*arguments)
        if code:
            hint = ": this user may not use the GPU; try sudo" if code == 801 else ""
            raise BoardError(f"{name} failed with CUDA error {code}{hint}")

    def make_current(self) -> None:
        """Use the context that TensorRT uses too, the device's primary one, in this thread."""
        if self.context is None:
            self.context = ctypes.c_void_p()
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), self.device)
        self.call("cuCtxSetCurrent", self.context)

    def facts(self) -> dict:
        """Name and compute capability of the GPU, and the newest CUDA that the driver serves."""
        name, major, minor, cuda = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self.call("cuDeviceGetName", name, 256, self.device)
        self.call("cuDeviceGetAttribute", ctypes.byref(major), 75, self.device)
        self.call("cuDeviceGetAttribute", ctypes.byref(minor), 76, self.device)
        self.call("cuDriverGetVersion", ctypes.byref(cuda))
        capability = f"{major.value}.{minor.value}"
        served = f"{cuda.value // 1000}.{cuda.value % 1000 // 10}"
        return {"gpu": name.value.decode("utf-8", "replace"), "compute_capability": capability, "cuda": served}


def read_text(path: Path) -> str:
    """Text of a file, empty when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return ""


def sha256(path: Path) -> str:
    """Hash of a file, 64 hex digits; empty when there is no file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as f:
            for chunk in iter(lambda: f.read(1 << 20), b""):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def l4t_of(release: str) -> str:
    """L4T's version, "35.2.1", of the first line of /etc/nv_tegra_release ("# R35 (release), REVISION: 2.1, ..."); empty for others."""
    found = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    return "{}.{}".format(*found.groups()) if found else ""


def release_of(version: str) -> str:
    """The three numbers that decide whether an engine loads: "8.5.2" of "8.5.2.2", of trtexec's "v8502", "10.3.0" of "v100300"."""
    packed = re.match(r"v(\d+)$", version)
    if packed:
        number = int(packed.group(1))
        step = 10000 if number >= 100000 else 1000
        return f"{number // step}.{number % step // 100}.{number % 100}"
    return ".".join(version.split(".")[:3])


def version_of(tool: str) -> str:
    """Release of the TensorRT behind a tool, "python" or "trtexec"; empty when it is not here."""
    if tool == "python":
        try:
            import tensorrt
        except ImportError:
            return ""
        return release_of(tensorrt.__version__)
    binary = os.environ.get("TRTEXEC") or TRTEXEC
    try:
        said = subprocess.Popen([binary, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).communicate()[0]
    except OSError:
        return ""
    found = re.search(r"\[TensorRT (v\d+)\]", said.decode("utf-8", "replace"))
    return release_of(found.group(1)) if found else ""


def board_facts(tool: str, root: Path = Path("/")) -> dict:
    """What decides whether an engine fits, and what a reader of its times wants to know; nothing personal. Unknown facts are left out."""
    facts = {
        "tensorrt": version_of(tool),
        "l4t": l4t_of(read_text(root / "etc/nv_tegra_release")),
        "board": read_text(root / "proc/device-tree/model"),
        "driver": read_text(root / "proc/driver/nvidia/version").partition("\n")[0],
        **Cuda().facts(),
    }
    return {key: value for key, value in facts.items() if value}


def record_path(engine: Path) -> Path:
    """Where an engine's record lies."""
    return engine.with_name(engine.name + ".json")


def misfit(engine: Path, onnx: Path, wanted: dict, root: Path = Path("/")) -> str:
    """Why an engine must not be used here, in words; empty when it fits. ``wanted``: the settings that it should be built with."""
    return next(_misfits(engine, onnx, wanted, root), "")


def _misfits(engine: Path, onnx: Path, wanted: dict, root: Path) -> Iterator:
    if not engine.exists():
        yield f"{engine.name} is not built yet"
    try:
        noted = json.loads(read_text(record_path(engine)))
    except ValueError:
        yield f"{engine.name} has no record of what it was built with"
        return
    if sha256(engine) != noted["engine_sha256"]:
        yield f"{engine.name} is damaged, or not the one that was recorded"
    if sha256(onnx) != noted["onnx_sha256"]:
        yield f"{engine.name} was built from another {onnx.name}"
    if wanted != noted["settings"]:
        yield f"{engine.name} was built with other settings"
    here = board_facts(noted["built_by"], root)
    for key, words in WORDS.items():
        there, now = noted["board"].get(key, "unknown"), here.get(key, "unknown")
        if there != now:
            yield f"{engine.name} was built for {words} {there}, and here it is {now}"


def check(facts: dict, name: str, root: Path = Path("/")) -> str:
    """Why the engine of a bundle's artifact must not be used here, with the command that mends it; empty when it fits."""
    reason = misfit(HERE / facts["engine"], HERE / facts["builder"]["onnx"], facts["builder"], root)
    return reason and f"{reason}: build it on this board with ./build_engine.sh {name}"


def record(engine: Path, onnx: Path, settings: dict, tool: str, root: Path = Path("/")) -> dict:
    """Write the record of an engine that was just built, and return it."""
    content = {
        "schema": 1,
        "engine_sha256": sha256(engine),
        "onnx_sha256": sha256(onnx),
        "settings": settings,
        "built_by": tool,
        "board": board_facts(tool, root),
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if not content["engine_sha256"]:
        raise BoardError(f"{engine.name} was not built")
    write(record_path(engine), (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
    return content


def write(path: Path, content: bytes) -> None:
    """Write a file at once: whoever reads it meanwhile sees the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def fits_version(settings: dict, tool: str) -> None:
    """Refuse a TensorRT for which this build was not written."""
    have, want = version_of(tool), settings["tensorrt"]
    kept = 1 if int(want.split(".")[0]) >= 10 else 2  # within 8, flags change with the minor version
    if have.split(".")[:kept] != want.split(".")[:kept]:
        what = "this was written for TensorRT {}, and {} has {}".format(want, tool, have or "none")
        raise BoardError(f"{what}: compile for this board's target, or give its version in the target file")


def timing_cache(tool: str, folder: Path) -> Path:
    """Path of the timings of earlier builds: they hold for one GPU and one TensorRT, whose names are the file's."""
    facts = board_facts(tool)
    parts = [facts["gpu"], "sm" + facts["compute_capability"], facts.get("l4t", ""), "trt" + facts.get("tensorrt", "")]
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(p for p in parts if p)) + ".cache")


def cache_folder() -> Path:
    """Beside the bundle, so that the next one profits; TIMING_CACHE moves it."""
    return Path(os.environ.get("TIMING_CACHE") or HERE.parent / "tensorrt-timing")


def build(api: object, settings: dict, onnx: Path, engine: Path, layers: Path, cache: Path) -> dict:
    """Build an engine with ``trt_engine`` (``api``), write its layers and its record beside it, and return the record."""
    fits_version(settings, "python")
    plan, timings, listed = api.build(settings, onnx, cache.read_bytes() if cache.exists() else b"")
    write(engine, plan)
    write(layers, listed.encode())
    write(cache, timings)
    return record(engine, onnx, settings, "python")


def artifacts() -> dict:
    """Name -> facts of the bundle's artifacts that are built here, the one for this board first."""
    try:
        bundle = json.loads(read_text(HERE / "bundle.json"))
    except ValueError:
        raise BoardError("bundle.json is missing or damaged: copy the bundle again") from None
    found = sorted(bundle["artifacts"], key=lambda a: a["name"] != bundle["chosen"])
    return {a["name"]: a["facts"] for a in found if "builder" in a["facts"]}


def pick(name: str) -> dict:
    """Facts of an artifact."""
    known = artifacts()
    if name not in known:
        raise BoardError("no artifact '{}' to build an engine of; there are: {}".format(name, ", ".join(known) or "none"))
    return known[name]


def main(arguments: list) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="in bundle.json (default: the one chosen for this board)")
    for option in ("--check", "--prepare", "--record"):
        parser.add_argument(option, metavar="NAME")
    parser.add_argument("--force", action="store_true", help="build although the engine fits")
    args = parser.parse_args(arguments)
    if args.check:
        reason = check(pick(args.check), args.check)
        sys.stdout.write("{}\n".format(reason or args.check + ": the engine fits this board"))
        return 3 if reason else 0
    if args.prepare:
        fits_version(pick(args.prepare)["builder"], "trtexec")
        sys.stdout.write("{}\n".format(timing_cache("trtexec", cache_folder())))
        return 0
    if args.record:
        facts = pick(args.record)["builder"]
        record(HERE / facts["engine"], HERE / facts["onnx"], facts, "trtexec")
        return 0
    for name in args.names or list(artifacts())[:1]:
        facts = pick(name)
        if args.force or check(facts, name):
            paths = [HERE / facts["builder"][key] for key in ("onnx", "engine", "layers")]
            import trt_engine  # the file beside this one

            start = time.time()
            build(trt_engine, facts["builder"], paths[0], paths[1], paths[2], timing_cache("python", cache_folder()))
            sys.stdout.write(f"{name}: built in {time.time() - start:.0f} s\n")
        else:
            sys.stdout.write(f"{name}: the engine here fits this board; --force builds it again\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RuntimeError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(2)
