"""Networks with published speeds on a board, to hold an estimate against: a sanity check, since throughput is not latency.

Source of the speeds: NVIDIA-AI-IOT/jetson_benchmarks, README, Jetson Xavier NX (JetPack 4.4, TensorRT 7, int8). The batches are those of
its AGX Xavier list. Networks that ran on the GPU alone; layers from the papers, every one in int8 with its activation fused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.target import Target
from targets.estimator import estimate
from targets.layers import LayerCost


@dataclass(frozen=True, slots=True)
class PublishedNetwork:
    """A network, frames per second as published, and what to keep in mind when comparing."""

    name: str
    fps: float
    batch: int
    layers: tuple[LayerCost, ...]
    remark: str = ""


def frames_per_second(network: PublishedNetwork, target: Target) -> float:
    """Estimated throughput of the target's GPU: batch over the estimated time of a batch."""
    found = estimate(batched(network.layers, network.batch), target.rates["gpu"])
    return network.batch / found.ms * 1e3


def batched(layers: tuple[LayerCost, ...], batch: int) -> list[LayerCost]:
    """The layers for a batch: activations and arithmetic grow, weights do not."""
    return [replace(x, macs=x.macs * batch, read_elements=x.read_elements * batch, write_elements=x.write_elements * batch) for x in layers]


def _conv(name: str, incoming: int, width: int, kernel: int, height: int, columns: int) -> LayerCost:
    """A convolution with padding; height and columns of its output."""
    pixels, weights = height * columns, incoming * width * kernel * kernel
    return LayerCost(name, "Conv", False, pixels * weights, pixels * incoming, pixels * width, weights, "int8")


def _up(name: str, channels_in: int, channels_out: int, height: int, columns: int) -> LayerCost:
    """A transposed 2x2 convolution; height and columns of its output."""
    pixels, weights = height * columns // 4, channels_in * channels_out * 4
    return LayerCost(name, "ConvTranspose", False, pixels * weights, pixels * channels_in, 4 * pixels * channels_out, weights, "int8")


def _pool(name: str, channels: int, height: int, columns: int) -> LayerCost:
    """2x2 pooling; height and columns of its output."""
    pixels = height * columns
    return LayerCost(name, "MaxPool", False, 0, 4 * pixels * channels, pixels * channels, 0, "int8")


def vgg19() -> tuple[LayerCost, ...]:
    """VGG-19 at 224x224 (Simonyan and Zisserman, 2014, table 1, column E)."""
    layers, incoming, side = [], 3, 224
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)), 1):
        for n in range(1, depth + 1):
            layers.append(_conv(f"conv{stage}_{n}", incoming, width, 3, side, side))
            incoming = width
        side //= 2
        layers.append(_pool(f"pool{stage}", width, side, side))
    sizes = ((512 * 49, 4096), (4096, 4096), (4096, 1000))
    return (*layers, *(LayerCost(f"fc{n}", "Gemm", False, a * b, a, b, a * b, "int8") for n, (a, b) in enumerate(sizes, 6)))


def espcn(height: int = 321, columns: int = 481, scale: int = 3) -> tuple[LayerCost, ...]:
    """Sub-pixel super-resolution as in PyTorch's example on BSD500: 5x5x64, 3x3x64, 3x3x32, 3x3 to scale² channels, on luminance."""
    widths = ((1, 64, 5), (64, 64, 3), (64, 32, 3), (32, scale * scale, 3))
    layers = [_conv(f"conv{n}", a, b, k, height, columns) for n, (a, b, k) in enumerate(widths, 1)]
    elements = height * columns * scale * scale
    return (*layers, LayerCost("shuffle", "DepthToSpace", False, 0, elements, elements, 0, "int8"))


def unet(side: int, base: int = 64) -> tuple[LayerCost, ...]:
    """U-Net (Ronneberger et al., 2015, figure 1) with padded convolutions."""
    widths = [base << n for n in range(5)]
    layers, incoming = [], 3
    for n, width in enumerate(widths):
        at = side >> n
        layers += [_conv(f"down{n}_1", incoming, width, 3, at, at), _conv(f"down{n}_2", width, width, 3, at, at)]
        incoming = width
        if n < 4:
            layers.append(_pool(f"pool{n}", width, at // 2, at // 2))
    for n in reversed(range(4)):
        width, at = widths[n], side >> n
        layers += [_up(f"up{n}", 2 * width, width, at, at), _conv(f"up{n}_1", 2 * width, width, 3, at, at)]
        layers.append(_conv(f"up{n}_2", width, width, 3, at, at))
    return (*layers, _conv("out", base, 1, 1, side, side))


PUBLISHED = (
    PublishedNetwork("VGG-19 224x224", 66.4, 4, vgg19(), "the network behind the board's compute_efficiency"),
    PublishedNetwork("super-resolution 481x321", 150.5, 4, espcn(), "widths not stated: 64-64-32 assumed"),
    PublishedNetwork("U-Net 256x256, base 32", 145.4, 2, unet(256, 32), "width not stated: twice as wide would exceed the GPU's peak"),
)
