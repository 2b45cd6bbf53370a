#!/usr/bin/env python3
"""Verify and time the artifacts of this folder on this device; writes result.json.

python3 bench.py --verify           check every file's hash and the golden output: PASS or FAIL, exit 0 or 1
python3 bench.py                    the same, then time the artifact chosen for this device
python3 bench.py --artifact NAME    another artifact of bundle.json

Needs Python 3.8 or later, numpy, and the artifact's runtime (onnxruntime, LiteRT, OpenVINO, TVM or trtexec); nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import numpy as np
except ImportError as missing:
    sys.stderr.write(f"error: {missing}: pip install numpy\n")
    sys.exit(2)

from runtimes import HERE, RUNTIMES, DeviceError, call  # the file beside this one

if TYPE_CHECKING:
    Json = dict[str, Any]


def read_text(path: Path) -> str:
    """Text of a file, empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


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
