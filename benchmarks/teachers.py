"""How our NAFNet and MIMO-UNet compare with the plain published formulation on this machine's CPU: time and peak memory.

    python benchmarks/teachers.py [--networks nafnet mimounet] [--sizes 256 512] [--threads 1 2] [--count 5]

Both formulations hold the same weights and see the same image, in inference mode. Times are taken in turn, ours and plain, in one
process: the ratio is the median over the rounds of ours / plain, below 1 where ours is faster. Memory is what one forward pass adds to
the resident set at its highest (VmHWM, reset before the pass; Linux): the median over five processes per formulation, one thread each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.latency import compare, speedup
from models.arch import build, load_arch

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "nafnet": ("nafnet", {}),
    "nafnet-tlc": ("nafnet", {"tlc": 256}),
    "mimounet": ("mimounet", {"num_res": 8, "dropout": 0.0}),
    "mimounet+": ("mimounet", {"num_res": 20}),
}
"""What is measured: the published sizes (NAFNet of width 32)."""

Weights = Mapping[str, Tensor]


def ours(name: str) -> nn.Module:
    """The network of a row, with weights that let every part of it count."""
    arch, config = NETWORKS[name]
    torch.manual_seed(0)
    network = build(arch, config).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith((".beta", ".gamma")):
                parameter.uniform_(-0.5, 0.5)
    return network


def plain(name: str) -> Callable[[Tensor], Tensor]:
    """The published formulation with the same weights: a function of lq, float32 [N, 3, H, W] in [0, 1]."""
    arch, config = NETWORKS[name]
    network = ours(name)
    weights = dict(load_arch(arch).official(network).state_dict())
    tlc = config.get("tlc")
    return (lambda lq: plain_nafnet(weights, lq, tlc)) if arch == "nafnet" else (lambda lq: plain_mimounet(weights, lq)[2])


def convolve(w: Weights, name: str, x: Tensor, **options: Any) -> Tensor:
    """The named convolution; padded to keep the size unless told otherwise."""
    kernel = w[f"{name}.weight"]
    return F.conv2d(x, kernel, w.get(f"{name}.bias"), **{"padding": kernel.shape[-1] // 2, **options})


def count(w: Weights, prefix: str) -> int:
    """How many numbered parts the weights name under a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in w if name.startswith(prefix)})


# NAFNet: normalisation spelled out, gates by chunk, attention by an adaptive pool or by integral images.


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Mean, variance, normalised, scaled and shifted, each a map of its own."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    normal = (x - mean) / (variance + 1e-6).sqrt()
    return w[f"{name}.weight"].view(1, -1, 1, 1) * normal + w[f"{name}.bias"].view(1, -1, 1, 1)


def gate(x: Tensor) -> Tensor:
    """One half of the channels times the other."""
    first, second = torch.chunk(x, 2, dim=1)
    return first * second


def local_mean(x: Tensor, window: int) -> Tensor:
    """Box mean from an integral image, repeated out to the size of the map."""
    height, width = x.shape[2:]
    if window >= height and window >= width:
        return F.adaptive_avg_pool2d(x, 1)
    high, wide = min(height, window), min(width, window)
    s = F.pad(x.cumsum(3).cumsum_(2), (1, 0, 1, 0))
    mean = (s[:, :, :-high, :-wide] + s[:, :, high:, wide:] - s[:, :, :-high, wide:] - s[:, :, high:, :-wide]) / (high * wide)
    rows, columns = height - mean.shape[2], width - mean.shape[3]
    return F.pad(mean, (columns // 2, (columns + 1) // 2, rows // 2, (rows + 1) // 2), mode="replicate")


def naf_block(w: Weights, name: str, x: Tensor, window: int | None) -> Tensor:
    """Gated depthwise convolution with attention, then the gated feed-forward."""
    y = convolve(w, f"{name}.conv1", layer_norm(w, f"{name}.norm1", x))
    y = gate(convolve(w, f"{name}.conv2", y, groups=y.shape[1]))
    pooled = local_mean(y, window) if window else F.adaptive_avg_pool2d(y, 1)
    y = y * convolve(w, f"{name}.sca.1", pooled)
    y = x + convolve(w, f"{name}.conv3", y) * w[f"{name}.beta"]
    z = gate(convolve(w, f"{name}.conv4", layer_norm(w, f"{name}.norm2", y)))
    return y + convolve(w, f"{name}.conv5", z) * w[f"{name}.gamma"]


def plain_nafnet(w: Weights, lq: Tensor, tlc: int | None) -> Tensor:
    """NAFNet; sides multiples of 16."""
    levels = count(w, "downs.")

    def blocks(prefix: str, x: Tensor, level: int) -> Tensor:
        window = (tlc >> level) * int(1.5 * tlc) // tlc if tlc else None
        for i in range(count(w, f"{prefix}.")):
            x = naf_block(w, f"{prefix}.{i}", x, window)
        return x

    x, skips = convolve(w, "intro", lq), []
    for level in range(levels):
        x = blocks(f"encoders.{level}", x, level)
        skips.append(x)
        x = convolve(w, f"downs.{level}", x, stride=2, padding=0)
    x = blocks("middle_blks", x, levels)
    for i in range(levels):
        x = F.pixel_shuffle(convolve(w, f"ups.{i}.0", x), 2) + skips.pop()
        x = blocks(f"decoders.{i}", x, levels - 1 - i)
    return convolve(w, "ending", x) + lq


# MIMO-UNet: concatenations, nearest resampling of whole feature maps.


def unit(w: Weights, name: str, x: Tensor, relu: bool = True, stride: int = 1) -> Tensor:
    """A convolution and, mostly, a ReLU."""
    y = convolve(w, f"{name}.main.0", x, stride=stride)
    return F.relu_(y) if relu else y


def doubled(w: Weights, name: str, x: Tensor) -> Tensor:
    """The transposed convolution that doubles the size."""
    return F.relu_(F.conv_transpose2d(x, w[f"{name}.main.0.weight"], w[f"{name}.main.0.bias"], stride=2, padding=1))


def residual_blocks(w: Weights, name: str, x: Tensor) -> Tensor:
    """One stage."""
    for i in range(count(w, f"{name}.layers.")):
        prefix = f"{name}.layers.{i}.main"
        x = unit(w, f"{prefix}.1", unit(w, f"{prefix}.0", x), relu=False) + x
    return x


def shallow(w: Weights, name: str, image: Tensor) -> Tensor:
    """Features of a smaller image, concatenated with it."""
    x = image
    for i in range(4):
        x = unit(w, f"{name}.main.{i}", x)
    return unit(w, f"{name}.conv", torch.cat([image, x], 1), relu=False)


def merged(w: Weights, name: str, x: Tensor, other: Tensor) -> Tensor:
    """The attention between scales."""
    return x + unit(w, f"{name}.merge", x * other, relu=False)


def fused(w: Weights, name: str, scales: Iterable[Tensor]) -> Tensor:
    """All scales, resampled to one size, concatenated."""
    return unit(w, f"{name}.conv.1", unit(w, f"{name}.conv.0", torch.cat(list(scales), 1)), relu=False)


def plain_mimounet(w: Weights, lq: Tensor) -> list[Tensor]:
    """MIMO-UNet or MIMO-UNet+: images at quarter, half and full size; sides multiples of 4."""
    half = F.interpolate(lq, scale_factor=0.5)
    quarter = F.interpolate(half, scale_factor=0.5)
    shallow_half, shallow_quarter = shallow(w, "SCM2", half), shallow(w, "SCM1", quarter)
    res1 = residual_blocks(w, "Encoder.0", unit(w, "feat_extract.0", lq))
    z = merged(w, "FAM2", unit(w, "feat_extract.1", res1, stride=2), shallow_half)
    res2 = residual_blocks(w, "Encoder.1", z)
    z = merged(w, "FAM1", unit(w, "feat_extract.2", res2, stride=2), shallow_quarter)
    z = residual_blocks(w, "Encoder.2", z)
    down, up = F.interpolate(res1, scale_factor=0.5), F.interpolate(res2, scale_factor=2.0)
    middle = F.interpolate(z, scale_factor=2.0)
    finest = F.interpolate(middle, scale_factor=2.0)
    res2, res1 = fused(w, "AFFs.1", (down, res2, middle)), fused(w, "AFFs.0", (res1, up, finest))
    z = residual_blocks(w, "Decoder.0", z)
    outputs = [unit(w, "ConvsOut.0", z, relu=False) + quarter]
    z = unit(w, "Convs.0", torch.cat([doubled(w, "feat_extract.3", z), res2], 1))
    z = residual_blocks(w, "Decoder.1", z)
    outputs.append(unit(w, "ConvsOut.1", z, relu=False) + half)
    z = unit(w, "Convs.1", torch.cat([doubled(w, "feat_extract.4", z), res1], 1))
    z = residual_blocks(w, "Decoder.2", z)
    return [*outputs, unit(w, "feat_extract.5", z, relu=False) + lq]


FORMULATIONS: dict[str, Callable[[str], Callable[[Tensor], Tensor]]] = {"ours": ours, "plain": plain}


def image(side: int) -> Tensor:
    """Noise, float32 [1, 3, side, side] in [0, 1]."""
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side))


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB (10**6 bytes)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / 1e6


def measure_peak(name: str, formulation: str, side: int) -> float:
    """MB that one forward pass adds to this process' resident set at its highest."""
    torch.set_num_threads(1)
    network, lq = FORMULATIONS[formulation](name), image(side)
    with torch.inference_mode():
        network(image(32))  # libraries load their kernels at the first call
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        network(lq)
    return resident("VmHWM") - before


def peak(name: str, formulation: str, side: int) -> float:
    """``measure_peak`` in a fresh process."""
    command = [sys.executable, __file__, "--peak", name, formulation, str(side)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def row(name: str, side: int, threads: Iterable[int], repeats: int) -> str:
    """A line of the table: one network at one size."""
    networks, lq = {formulation: make(name) for formulation, make in FORMULATIONS.items()}, image(side)
    cells = []
    with torch.inference_mode():
        difference = float((networks["ours"](lq) - networks["plain"](lq)).abs().max())
        for number in threads:
            torch.set_num_threads(number)
            times = compare({k: partial(run, lq) for k, run in networks.items()}, min_seconds=0, min_count=repeats, warmup=1)
            ratio = 1 / speedup(times["plain"], times["ours"])
            cells.append(f"{times['ours'].p50:8.0f} / {times['plain'].p50:6.0f} ms {ratio:5.2f}")
    peaks = [{formulation: peak(name, formulation, side) for formulation in FORMULATIONS} for _ in range(5)]
    memory = {formulation: statistics.median(p[formulation] for p in peaks) for formulation in FORMULATIONS}
    cells.append(f"{memory['ours']:6.0f} / {memory['plain']:5.0f} MB {memory['ours'] / memory['plain']:5.2f}")
    return f"{name:<11}{side:>5}" + "".join(cells) + f"{difference:10.1e}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512], help="sides of the image, multiples of 16")
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--count", type=int, default=5, help="rounds; the medians are printed")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, formulation, side = options.peak
        print(measure_peak(name, formulation, int(side)))
        return 0
    columns = "".join(f"{f'ours / plain, {n} thread(s)':>28}" for n in options.threads)
    print(f"{'network':<11}{'side':>5}{columns}{'ours / plain, peak':>23}{'max diff':>10}")
    for name in options.networks:
        for side in options.sizes:
            print(row(name, side, options.threads, options.count), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
