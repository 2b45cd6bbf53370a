#!/usr/bin/env python3
"""Prove and time an artifact of this folder on this board; writes result.json.

python3 bench.py --verify           check hashes, board and golden output: PASS or FAIL, exit 0 or 1
python3 bench.py                    the same, then time the artifact chosen for this board
python3 bench.py --artifact NAME    another artifact of bundle.json

Exit status: 0 timed, 1 the golden output is another, 2 it cannot be run here, 3 timed but unstable: result.json says why.
Needs Python 3.6 or later, numpy, and the artifact's runtime (its own runner, onnxruntime, LiteRT, OpenVINO or TensorRT).
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

try:
    from board.basics import HERE, DeviceError, Json, sha256, write_json
    from board.line import Line
    from board.measure import measure
    from board.opened import Opened, add_arguments, verify_only
    from board.sensors import power_mode
    from board.settings import LockedClocks, PowerMode
except ImportError as e:
    sys.stderr.write("error: this folder is not whole ({}): copy the bundle again\n".format(e))
    sys.exit(2)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="least time to measure (default 10)")
    parser.add_argument("--count", type=int, default=50, metavar="N", help="least number of runs (default 50)")
    parser.add_argument("--frames", type=int, default=5, metavar="N", help="least number of whole frames (default 5)")
    parser.add_argument("--warmup", type=float, default=2.0, metavar="S", help="least time to warm up (default 2)")
    parser.add_argument("--set-clocks", action="store_true", help="lock the highest clocks while measuring, then give them back (root)")
    parser.add_argument("--power-mode", type=int, default=-1, metavar="ID", help="a Jetson's mode while measuring; needs --set-clocks")
    parser.add_argument("--wait", type=float, default=3600.0, metavar="S", help="longest wait for another benchmark (default 3600)")
    parser.add_argument("--out", "--output", type=Path, default=HERE / "result.json", metavar="FILE", help="where the result goes")
    args = parser.parse_args()
    if args.power_mode >= 0 and not args.set_clocks:
        parser.error("--power-mode needs --set-clocks")
    if args.seconds < 0 or args.count < 1 or args.frames < 1 or args.warmup < 0:
        parser.error("--seconds and --warmup are 0 or more, --count and --frames 1 or more")
    return args


def result(args: argparse.Namespace, opened: Opened) -> Json:
    """Measure; everything that result.json holds."""
    started, begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    with contextlib.ExitStack() as stack:
        if args.set_clocks:
            stack.enter_context(PowerMode(args.power_mode, power_mode().get("id")))
            stack.enter_context(LockedClocks())
        opened.device["power_mode"] = power_mode() or None
        measured = measure(args, opened)
    return {
        "schema": 2,
        "bundle_sha256": sha256(HERE / "MANIFEST.sha256"),
        "target": opened.bundle["target"],
        "artifact": opened.artifact["name"],
        "artifact_sha256": opened.artifact["sha256"],
        "precision": opened.artifact["precision"],
        "verified": opened.passed,
        "golden": opened.golden(),
        "device": dict(opened.device, clocks=measured["samples"]["clocks_before"]),
        "started": started,
        "seconds": round(time.monotonic() - begun, 3),
        **measured,
    }


def work(args: argparse.Namespace) -> int:
    """Verify, and time unless told not to; returns the exit status."""
    if args.verify:
        return verify_only(args)
    if not os.access(str(args.out.parent), os.W_OK):
        raise DeviceError(f"{args.out.parent} is no folder that can be written: name another --out")
    with Line(args.wait):
        opened = Opened(args)
        print(opened.verify(), flush=True)
        if not opened.passed:
            return 1
        print(f"timing the network alone, then whole frames, each for {args.seconds:g} s or longer", flush=True)
        report = result(args, opened)
        opened.runtime.close()
        write_json(args.out, report)
    print(f"{args.out}: {summary(report)}")
    if not report["stable"]:
        sys.stderr.write(f"unstable: {report['unstable_reason']}\n")
        return 3
    return 0


def summary(report: Json) -> str:
    """The times in one line."""
    return "; ".join(f"{name} {_times(report[name])}" for name in ("kernel", "frame") if report[name])


def _times(t: Json) -> str:
    return f"p50 {t['p50_ms']:.2f} ms, p90 {t['p90_ms']:.2f}, p99 {t['p99_ms']:.2f}, cv {t['cv']:.3f}, {t['count']} runs"


def stop(number: int, frame: Any) -> None:
    """Leave by the ordinary way, so that clocks are given back."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(AttributeError):
        signal.signal(signal.SIGHUP, stop)
    try:
        sys.exit(work(parse()))
    except DeviceError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
