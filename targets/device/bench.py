#!/usr/bin/env python3
"""Verify and time the artifacts of this folder on this device; writes result.json.

python3 bench.py --verify           check every file's hash and the golden output: PASS or FAIL, exit 0 or 1
python3 bench.py                    the same, then time the artifact chosen for this device
python3 bench.py --artifact NAME    another artifact of bundle.json

Needs Python 3.8 or later, numpy, and the artifact's runtime (onnxruntime, TVM or trtexec); nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import numpy as np
except ImportError as missing:
    sys.stderr.write(f"error: {missing}: pip install numpy\n")
    sys.exit(2)

HERE = Path(__file__).resolve().parent
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"

if TYPE_CHECKING:
    Json = dict[str, Any]


class DeviceError(Exception):
    """Something that the user can mend; its text is the one line that is shown."""


def read_text(path: Path) -> str:
    """Text of a file, empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def call(*command: str) -> tuple[int, str]:
    """Exit status and output of a command; 127 when it is not there."""
    if not shutil.which(command[0]):
        return 127, "not found"
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def sha256(path: Path) -> str:
    """Hash of a file, 64 hex digits."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as f:
            for chunk in iter(lambda: f.read(1 << 20), b""):
                digest.update(chunk)
    except OSError:
        raise DeviceError(f"{path.name} is missing: copy the bundle again") from None
    return digest.hexdigest()


def check_manifest() -> int:
    """Compare every file that MANIFEST.sha256 lists with its hash; returns how many there are."""
    lines = read_text(HERE / "MANIFEST.sha256").splitlines()
    if not lines:
        raise DeviceError("MANIFEST.sha256 is missing or empty: copy the bundle again")
    for line in lines:
        want, _, name = line.partition("  ")
        if sha256(HERE / name) != want:
            raise DeviceError(f"{name} differs from MANIFEST.sha256: copy the bundle again")
    return len(lines)


def load_bundle() -> Json:
    """Read bundle.json."""
    try:
        bundle: Json = json.loads(read_text(HERE / "bundle.json"))
    except ValueError:
        raise DeviceError("bundle.json is missing or damaged: copy the bundle again") from None
    return bundle


def pick(bundle: Json, name: str) -> Json:
    """Find the artifact of that name, by default the one chosen for this device."""
    found: dict[str, Json] = {a["name"]: a for a in bundle["artifacts"]}
    name = name or bundle["chosen"]
    if name not in found:
        raise DeviceError(f"no artifact '{name}' in this bundle; there are: {', '.join(found)}")
    return found[name]


class Called:
    """A runtime that runs in this process: ``run`` takes float32 [1, 3, H, W] to the same."""

    run: Any

    def measure(self, x: Any, seconds: float, count: int) -> list[float]:
        """Times in ms, warm-up apart, until both the least time and the least count are reached."""
        for _ in range(3):
            self.run(x)
        times: list[float] = []
        total = 0.0
        while len(times) < count or total < seconds * 1e3:
            start = time.perf_counter()
            self.run(x)
            times.append((time.perf_counter() - start) * 1e3)
            total += times[-1]
        return times


class OnnxRuntime(Called):
    """ONNX Runtime on the CPU."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as e:
            raise DeviceError(f"onnxruntime cannot be imported ({e}): pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(str(HERE / artifact["path"]), options, providers=["CPUExecutionProvider"])
        self.name = bundle["network"]["input"]
        self.version = "onnxruntime " + onnxruntime.__version__

    def run(self, x: Any) -> Any:
        """One inference."""
        return self.session.run(None, {self.name: x})[0]


class Tvm(Called):
    """TVM's virtual machine on the CPU."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        os.environ["TVM_NUM_THREADS"] = str(threads or os.cpu_count() or 1)
        arch = artifact["facts"]["mtriple"].split("-")[0]
        if arch != platform.machine():
            raise DeviceError(f"{artifact['name']} was built for {arch} and this machine is {platform.machine()}")
        try:
            import tvm
            from tvm import relax
        except ImportError as e:
            raise DeviceError(f"TVM cannot be imported ({e}): pip install apache-tvm==0.26.0 apache-tvm-ffi==0.1.13.post3") from None
        library = tvm.runtime.load_module(str(HERE / artifact["path"]))
        self.main = relax.VirtualMachine(library, tvm.cpu())["main"]
        self.tensor = tvm.runtime.tensor
        self.version = "tvm " + tvm.__version__

    def run(self, x: Any) -> Any:
        """One inference."""
        return self.main(self.tensor(x)).numpy()


class TrtExec(Called):
    """TensorRT through trtexec, which times itself."""

    def __init__(self, artifact: Json, bundle: Json, threads: int) -> None:
        self.binary = os.environ.get("TRTEXEC") or shutil.which("trtexec") or TRTEXEC
        if not Path(self.binary).exists():
            raise DeviceError(f"trtexec is not at {self.binary}: install TensorRT, or set TRTEXEC to its path")
        self.engine = HERE / artifact["facts"]["engine"]
        if not self.engine.exists():
            raise DeviceError(f"{artifact['facts']['engine']} is not built yet: run ./build_engine.sh on this device first")
        self.input, self.flags = bundle["network"]["input"], artifact["facts"]["run_flags"]
        self.version = "tensorrt " + artifact["facts"]["tensorrt"]

    def _trtexec(self, *flags: str) -> None:
        status, text = call(self.binary, f"--loadEngine={self.engine}", *flags)
        if status:
            raise DeviceError(f"trtexec failed ({status}: {text[-200:]}); if TensorRT was updated, run ./build_engine.sh again")

    def run(self, x: Any) -> Any:
        """One inference, through files."""
        with tempfile.TemporaryDirectory() as tmp:
            raw, out = Path(tmp, "input.bin"), Path(tmp, "output.json")
            x.tofile(str(raw))
            self._trtexec(f"--loadInputs={self.input}:{raw}", f"--exportOutput={out}", "--iterations=1", "--duration=0", "--warmUp=0")
            values = json.loads(out.read_text())[0]["values"]
        return np.asarray(values, dtype=np.float32).reshape(x.shape)

    def measure(self, x: Any, seconds: float, count: int) -> list[float]:
        """Times in ms as trtexec exports them: without the copies to and from the device."""
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp, "times.json")
            self._trtexec(f"--exportTimes={out}", f"--iterations={count}", f"--duration={max(1, round(seconds))}", *self.flags)
            return [row["latencyMs"] for row in json.loads(out.read_text())]


RUNTIMES = {"onnxruntime": OnnxRuntime, "tvm": Tvm, "tensorrt": TrtExec}


def golden_input(artifact: Json) -> Any:
    """Load the golden input as float32 [1, 3, H, W] in [0, 1]."""
    return np.load(str(HERE / artifact["golden"]["input"])).astype(np.float32) / np.float32(255)


def golden_psnr(got: Any, artifact: Json) -> float:
    """PSNR in dB of an output against the golden one; infinite when they are equal, NaN when either holds a NaN."""
    want = np.load(str(HERE / artifact["golden"]["expected"]))
    if got.shape != want.shape:
        raise DeviceError(f"the output is {got.shape}, the golden one {want.shape}")
    if want.dtype == np.uint8:
        got, want = np.rint(np.clip(got, 0, 1) * 255) / 255, want / 255.0
    mse = float(np.mean(np.square(got.astype(np.float64) - want)))
    return math.inf if mse == 0 else -10 * math.log10(mse) if math.isfinite(mse) else math.nan


def statistics(times: list[float]) -> Json:
    """Percentiles in ms and the robust coefficient of variation (1.4826 x median absolute deviation / median)."""
    p50, p90, p99 = (float(np.percentile(times, q)) for q in (50, 90, 99))
    cv = 1.4826 * float(np.median(np.abs(np.asarray(times) - p50))) / p50
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "cv": cv, "count": len(times), "times_ms": [round(t, 4) for t in times]}


def temperatures() -> Json:
    """Degrees Celsius by thermal zone."""
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*"))
    found = {f"{z.name} {read_text(z / 'type')}": read_text(z / "temp") for z in zones}
    return {k: int(v) / 1000 for k, v in found.items() if v.lstrip("-").isdigit()}


def host_facts() -> Json:
    """What decides a timing on this machine; nothing personal."""
    cpu = [x.split(":", 1)[1].strip() for x in read_text(Path("/proc/cpuinfo")).splitlines() if x.startswith(("model name", "Model"))]
    power = call("nvpmodel", "-q")
    facts = {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "model": read_text(Path("/proc/device-tree/model")),
        "l4t": read_text(Path("/etc/nv_tegra_release")).split("\n")[0],
        "power_mode": "" if power[0] else " ".join(power[1].split()),
    }
    return {k: v for k, v in facts.items() if v}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", default="", help="name in bundle.json (default: the one chosen for this device)")
    parser.add_argument("--verify", action="store_true", help="check hashes and golden output only")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, 0 = all (default 1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="least time to measure (default 10)")
    parser.add_argument("--count", type=int, default=50, help="least number of runs (default 50)")
    parser.add_argument("--output", type=Path, default=HERE / "result.json", help="where the result goes")
    return parser.parse_args()


def result(args: argparse.Namespace, bundle: Json, artifact: Json, runner: Any, golden: Json) -> Json:
    """Time the artifact; everything that result.json holds."""
    lq, before = golden_input(artifact), temperatures()
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    latency = statistics(runner.measure(lq, args.seconds, args.count))
    what = {"schema": 1, "target": bundle["target"], "artifact": artifact["name"], "artifact_sha256": artifact["sha256"]}
    what.update(bundle_sha256=sha256(HERE / "bundle.json"), runtime=runner.version, threads=args.threads, started=started)
    what.update(height=lq.shape[2], width=lq.shape[3], golden=golden, latency=latency, host=host_facts())
    return {**what, "temperatures": {"before": before, "after": temperatures()}}


def work(args: argparse.Namespace) -> int:
    """Verify, and time unless told not to; returns the exit status."""
    files, bundle = check_manifest(), load_bundle()
    artifact = pick(bundle, args.artifact)
    bound = artifact["golden"]["psnr_at_least"]
    if artifact["backend"] not in RUNTIMES:
        raise DeviceError(f"this script cannot run the backend '{artifact['backend']}'")
    runner = RUNTIMES[artifact["backend"]](artifact, bundle, args.threads)
    psnr = golden_psnr(runner.run(golden_input(artifact)), artifact)
    verdict = "PASS" if psnr >= bound else "FAIL"
    text = f"{files} files as in the manifest, output {psnr:.1f} dB from the golden one (at least {bound:g})"
    sys.stdout.write(f"{verdict} {artifact['name']}: {text}\n")
    if args.verify or verdict == "FAIL":
        return 0 if verdict == "PASS" else 1
    golden = {"psnr": psnr if math.isfinite(psnr) else None, "identical": psnr == math.inf, "bound": bound}
    report = result(args, bundle, artifact, runner, golden)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    t = report["latency"]
    times = f"p50 {t['p50_ms']:.2f} ms, p90 {t['p90_ms']:.2f}, p99 {t['p99_ms']:.2f}, cv {t['cv']:.3f}"
    sys.stdout.write(f"{args.output}: {times}, {t['count']} runs\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(work(parse()))
    except DeviceError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(2)
