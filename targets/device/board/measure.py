"""One benchmark: the kernel alone, then whole frames from the encoded image to the stitched result, and the board around them."""

import argparse
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from board import images, tegrastats
from board.golden import golden_input
from board.opened import Opened
from board.protocol import repeat, statistics, timed, warm_up, why_unstable
from board.sensors import RailSampler, State, peak_rss_mb, throttling
from board.tiles import Restorer, mirrored, to_image

Json = Dict[str, Any]


def measure(args: argparse.Namespace, opened: Opened) -> Json:
    """Measure an artifact.

    Returns:
        "protocol", "kernel", "frame" (null where this board runs the artifact only through trtexec, which takes no pictures),
        "layers" (null where the runtime does not tell them apart), "samples", "stable", "unstable_reason".

    """
    lq = golden_input(opened.artifact)
    if getattr(opened.runtime, "takes_pictures", True):
        warm_up(lambda: float(opened.runtime.timed(lq)[1]), args.warmup)
    before = State()
    with tegrastats.Recorder() as log, RailSampler() as rails:
        kernel = statistics(_kernel_times(args, opened, lq))
        kernel_samples = len(rails.samples)
        frame = _frame_times(args, opened, lq)
        after = State()
    held_back = throttling(before, after)
    reasons = why_unstable(kernel, "kernel") + (why_unstable(frame, "frame") if frame else []) + [f"throttled: {r}" for r in held_back]
    power = tegrastats.mean_rails(log.lines) or _mean(rails.samples[kernel_samples:] or rails.samples)
    samples = {
        "temperatures_before": before.temperatures,
        "temperatures_after": after.temperatures,
        "clocks_before": before.clocks,
        "clocks_after": after.clocks,
        "throttled": held_back,
        "rails_mw": power or None,
        "energy_mj_per_frame": power["total"] * (frame or kernel)["mean_ms"] / 1e3 if power else None,
        "peak_rss_mb": round(peak_rss_mb(getattr(opened.runtime, "process_id", 0)), 1),
    }
    found: Json = {"protocol": _protocol(args, opened, lq, frame), "kernel": kernel, "frame": frame, "samples": samples}
    found["layers"] = _layer_times(opened, lq)
    found.update(stable=not reasons, unstable_reason="; ".join(reasons))
    return found


def _protocol(args: argparse.Namespace, opened: Opened, lq: Any, frame: Any) -> Json:
    height, width = (opened.bundle["frame"][k] for k in ("height", "width"))
    return {
        "warmup_s": args.warmup,
        "min_seconds": args.seconds,
        "min_count": args.count,
        "min_frames": args.frames,
        "threads": opened.threads,
        "set_clocks": args.set_clocks,
        "input": list(lq.shape[2:]),
        "frame": [height, width],
        "tile": opened.artifact["tile"],
        "halo": opened.artifact["halo"],
        "blend": opened.artifact.get("blend", 0),
        "decoder": frame and _suffix().lstrip("."),
    }


def _kernel_times(args: argparse.Namespace, opened: Opened, lq: Any) -> List[float]:
    """Times of the network alone: as trtexec takes them where the board has it, else around calls."""
    own = getattr(opened.runtime, "kernel_times", None)
    found: List[float] = own(args.seconds, args.count) if own else []
    return found or repeat(lambda: float(opened.runtime.timed(lq)[1]), args.seconds, args.count)


def _layer_times(opened: Opened, lq: Any) -> Any:
    """The runtime's own profile, taken after everything else: it slows the network down."""
    own = getattr(opened.runtime, "layer_times", None)
    return (own(lq) if own else None) or None


def _frame_times(args: argparse.Namespace, opened: Opened, lq: Any) -> Any:
    if not getattr(opened.runtime, "takes_pictures", True):
        return None
    restorer = Restorer(opened.runtime.run, opened.artifact, opened.bundle["network"]["size_multiple"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame" + _suffix())
        images.write_image(path, frame_of(to_image(lq), opened.bundle["frame"]["height"], opened.bundle["frame"]["width"]))
        restorer(images.read_image(path))
        return statistics(repeat(lambda: timed(lambda: restorer(images.read_image(path))), args.seconds, args.frames))


def frame_of(image: Any, height: int, width: int) -> Any:
    """A frame of the target's size: the image, mirrored as often as needed. uint8 [H, W, 3]."""
    return np.ascontiguousarray(image[mirrored(0, height, image.shape[0])[:, None], mirrored(0, width, image.shape[1])])


def _suffix() -> str:
    """PNG where something fast reads it, else raw pixels, as a camera gives them."""
    return ".ppm" if images.decoder() == "own" else ".png"


def _mean(samples: List[Dict[str, float]]) -> Dict[str, float]:
    if not samples:
        return {}
    means = {k: sum(s.get(k, 0.0) for s in samples) / len(samples) for k in samples[0]}
    means["total"] = tegrastats.total_mw(means)
    return means
