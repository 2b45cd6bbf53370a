#!/usr/bin/env python3
"""Time the microbenchmarks of this folder on this board; writes calibration.json.

python3 calibrate.py            every network of bundle.json, in rounds

Each network is opened, warmed up, timed and closed, then the next one; a round passes over all of them, so that a drift of the board meets
them all and shows as a difference between rounds. Where the runtime is TensorRT and trtexec is here, trtexec takes the times.

Exit status: 0 timed, 2 it cannot be run here, 3 timed but unstable: calibration.json says why.
Needs Python 3.6 or later, numpy, and the networks' runtime.
"""

import argparse
import contextlib
import signal
import sys
import time
from pathlib import Path

import numpy as np
from board.basics import HERE, DeviceError, check_manifest, load_bundle, sha256, write_json
from board.identity import check_board, device_facts
from board.line import Line
from board.protocol import repeat
from board.runtimes import open_runtime
from board.sensors import State, power_mode, throttling
from board.settings import LockedClocks

MOST_SPREAD = 0.15
"""Largest difference between rounds of a stable calibration, as the median over the networks (our choice)."""

QUANTILE = 25
"""Of the times: what else the board does only ever adds time, so a low one is the network's own."""


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads, 0 = all cores (default 1)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="passes over all networks (default 3)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="least time to measure, over all networks (default 30)")
    parser.add_argument("--count", type=int, default=12, metavar="N", help="least number of runs of each network (default 12)")
    parser.add_argument("--set-clocks", action="store_true", help="lock the highest clocks while measuring, then give them back (root)")
    parser.add_argument("--force-board", action="store_true", help="go on when this is not the board that the folder is for")
    parser.add_argument("--wait", type=float, default=3600.0, metavar="S", help="longest wait for another benchmark (default 3600)")
    parser.add_argument("--out", type=Path, default=HERE / "calibration.json", metavar="FILE", help="where the table goes")
    args = parser.parse_args()
    if args.rounds < 2 or args.count < args.rounds or args.seconds < 0 or args.threads < 0:
        parser.error("--rounds is 2 or more, --count at least as many, --seconds and --threads 0 or more")
    return args


def times_of(artifact: dict, bundle: dict, threads: int, seconds: float, count: int) -> tuple:
    """Open a network, warm it up, time it; (times in ms, the runtime's version). Raises DeviceError when it cannot be run here."""
    runtime = open_runtime(artifact, bundle, threads)
    try:
        own = getattr(runtime, "kernel_times", None)
        found = own(seconds, count) if own else []
        if not found:
            x = np.random.RandomState(0).random_sample((1, 3, artifact["height"], artifact["width"])).astype(np.float32)
            repeat(lambda: float(runtime.timed(x)[1]), 0, 2)
            found = repeat(lambda: float(runtime.timed(x)[1]), seconds, count)
        return found, runtime.version
    finally:
        runtime.close()


def row(rounds: list) -> dict:
    """What is kept of a network's times: the low quantile of all, that of each round, and how many there are."""
    every = [ms for times in rounds for ms in times]
    lows = [float(np.percentile(times, QUANTILE)) for times in rounds]
    return {"ms": float(np.percentile(every, QUANTILE)), "rounds_ms": lows, "count": len(every)}


def why_unstable(rows: dict, held_back: list) -> list:
    """Why the table is not to be trusted, in words; [] when it is. NaN is not to be trusted."""
    spread = float(np.median([max(r["rounds_ms"]) / min(r["rounds_ms"]) - 1 for r in rows.values()]))
    found = [f"throttled: {reason}" for reason in held_back]
    if not spread <= MOST_SPREAD:
        what = "rounds differ by {:.0%} (at most {:.0%}): close other programs, lock the clocks, cool the board"
        found.append(what.format(spread, MOST_SPREAD))
    return found


def table(args: argparse.Namespace) -> dict:
    """Time every network; everything that calibration.json holds."""
    check_manifest()
    bundle, device, started, begun = load_bundle(), device_facts(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.time()
    artifacts = bundle["artifacts"]
    device["board"] = check_board(bundle, artifacts[0], device, args.force_board)
    share, count = args.seconds / len(artifacts) / args.rounds, -(-args.count // args.rounds)
    times = {a["name"]: [] for a in artifacts}  # type: dict
    _say(f"{len(artifacts)} networks, {args.rounds} rounds of at least {args.seconds / args.rounds:.0f} s")
    before = State()
    for n in range(args.rounds):
        for artifact in artifacts:
            found, device["runtime"] = times_of(artifact, bundle, args.threads, share, count)
            times[artifact["name"]].append(found)
        _say(f"round {n + 1} of {args.rounds}: {len(artifacts)} networks timed")
    after = State()
    rows = {name: row(rounds) for name, rounds in times.items()}
    device.update(power_mode=power_mode() or None, clocks=before.clocks)
    reasons = why_unstable(rows, throttling(before, after))
    return {
        "schema": 1,
        "bundle_sha256": sha256(HERE / "MANIFEST.sha256"),
        "device": device,
        "threads": args.threads,
        "networks": rows,
        "temperatures_before": before.temperatures,
        "temperatures_after": after.temperatures,
        "stable": not reasons,
        "unstable_reason": "; ".join(reasons),
        "started": started,
        "seconds": round(time.time() - begun, 3),
    }


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def work(args: argparse.Namespace) -> int:
    """Time and write; returns the exit status."""
    with Line(args.wait), contextlib.ExitStack() as stack:
        if args.set_clocks:
            stack.enter_context(LockedClocks())
        found = table(args)
        write_json(args.out, found)
    if not found["stable"]:
        sys.stderr.write("unstable: {}\n".format(found["unstable_reason"]))
        return 3
    return 0


def stop(number: int, frame: object) -> None:
    """Leave by the ordinary way, so that a runtime's process is ended."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(work(parse()))
    except DeviceError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
