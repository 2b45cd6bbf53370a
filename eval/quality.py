"""Image quality of a restorer over a data set: PSNR and SSIM by one protocol, per image.

PSNR: RGB, rounded to uint8, whole image, no border crop, mean over images of per-image dB.
SSIM: Wang et al. 2004, 2-D Gaussian window 11, sigma 1.5, per channel, mean over pixels and channels; ``official-3d`` is the variant
behind NAFNet's and HINet's published tables (an 11x11x11 Gaussian that also runs across the colour axis, replicate padding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contract import Better, Evidence, Measurement, PairSource
from pipeline.errors import StageFailed

if TYPE_CHECKING:
    import torch

    from eval.session import Session

Image = NDArray[np.uint8]
Restorer = Callable[[Image], Image]

IDENTICAL_DB = 100.0
"""PSNR given to an image equal to its reference, so that means stay finite; how many there were is said in the conditions."""


SSIM_WINDOW = 11
"""Side in pixels of SSIM's Gaussian window."""


def psnr(a: Image, b: Image) -> float:
    """Peak signal-to-noise ratio of two uint8 images of equal shape, in dB; ``IDENTICAL_DB`` when they are equal."""
    _check(a, b)
    mse = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    return IDENTICAL_DB if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def ssim(a: Image, b: Image, variant: str = "2d") -> float:
    """Structural similarity of two uint8 RGB images [H, W, 3], at least 11 pixels a side; variant "2d" or "official-3d"."""
    _check(a, b)
    if variant == "official-3d":
        return _ssim_3d(a, b)
    if min(a.shape[:2]) < SSIM_WINDOW:
        what = f"an image is {a.shape[1]}x{a.shape[0]} pixels, and SSIM needs {SSIM_WINDOW} a side"
        raise StageFailed("eval.quality", what, "leave it out of the data set, or give larger crops")
    from skimage.metrics import structural_similarity

    options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, channel_axis=2, data_range=255, **options))


def _ssim_3d(a: Image, b: Image) -> float:
    from scipy.ndimage import correlate1d

    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis in range(3):
            x = correlate1d(x, taps, axis=axis, mode="nearest")
        return x

    x, y = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))))


def _check(a: Image, b: Image) -> None:
    if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise StageFailed("eval.quality", f"images are {a.dtype} {a.shape} and {b.dtype} {b.shape}", "compare uint8 images of one size")


@dataclass(frozen=True, slots=True)
class QualityResult:
    """Per-image figures over a data set, in its order."""

    names: tuple[str, ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    psnr_input: tuple[float, ...]
    ssim_variant: str = "2d"

    @property
    def mean_psnr(self) -> float:
        """Mean over images of per-image PSNR, in dB."""
        return float(np.mean(self.psnr))

    def measurements(self, evidence: Evidence = Evidence.HOST, **conditions: Any) -> list[Measurement]:
        """psnr, ssim, psnr_worst5 (mean of the five lowest) and psnr_gain (over the blurred input), with the per-image values."""
        gain = tuple(p - q for p, q in zip(self.psnr, self.psnr_input, strict=True))
        base = dict(conditions)
        identical = sum(p == IDENTICAL_DB for p in self.psnr)
        if identical:
            base["identical"] = identical
        n = len(self.psnr)

        def make(name: str, values: Sequence[float], unit: str, samples: int, **extra: Any) -> Measurement:
            value = float(np.mean(values))
            return Measurement(name, value, unit, Better.HIGHER, samples, evidence, {**base, **extra}, tuple(values))

        return [
            make("psnr", self.psnr, "dB", n),
            make("ssim", self.ssim, "", n, variant=self.ssim_variant),
            make("psnr_worst5", sorted(self.psnr)[:5], "dB", min(5, n)),
            make("psnr_gain", gain, "dB", n),
        ]


def evaluate(restore: Restorer, source: PairSource, samples_dir: Path | None = None, ssim_variant: str = "2d") -> QualityResult:
    """Restore every image of ``source`` and compare it with its sharp original.

    Args:
        restore: uint8 [H, W, 3] RGB -> the same.
        source: at least one pair.
        samples_dir: where the restored images are written as ``<name>.png``, when given.
        ssim_variant: "2d" or "official-3d".

    Raises:
        StageFailed: empty source, or a restorer that changes the size or the dtype.

    """
    if len(source) == 0:
        raise StageFailed("eval.quality", "the data set has no pairs", "give a data set with at least one pair")
    names, rows = [], []
    for i in range(len(source)):
        pair = source[i]
        out = restore(pair.lq)
        rows.append((psnr(out, pair.gt), ssim(out, pair.gt, ssim_variant), psnr(pair.lq, pair.gt)))
        names.append(pair.name)
        if samples_dir is not None:
            _write_sample(samples_dir, pair.name, out)
    p, s, q = (tuple(column) for column in zip(*rows, strict=True))
    return QualityResult(tuple(names), p, s, q, ssim_variant)


def _write_sample(folder: Path, name: str, image: Image) -> None:
    from data.images import write_image

    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


def to_batch(image: Image) -> NDArray[np.float32]:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [0, 1]."""
    scaled: NDArray[np.float32] = image.astype(np.float32) * np.float32(1 / 255)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def to_image(batch: NDArray[np.float32]) -> Image:
    """float32 [1, 3, H, W] -> uint8 [H, W, 3], clamped to [0, 1] and rounded; a NaN raises, it is never painted black."""
    if not np.isfinite(batch).all():
        raise StageFailed(
            "eval.quality", "the network returned NaN or infinity", "look at the stage before: its weights or scales are broken"
        )
    out: Image = np.rint(np.clip(batch[0], 0.0, 1.0).transpose(1, 2, 0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(out)


def pad_to_multiple(image: Image, multiple: int) -> Image:
    """Reflect-pad right and bottom so that both sides are multiples of ``multiple`` (edge-pad where the image is too small)."""
    h, w = image.shape[:2]
    bottom, right = -h % multiple, -w % multiple
    mode: Any = "reflect" if bottom < h and right < w else "edge"
    return np.pad(image, ((0, bottom), (0, right), (0, 0)), mode=mode) if bottom or right else image


def torch_restorer(module: torch.nn.Module) -> Restorer:
    """A restorer over a network of ``models``: pads to its size multiple, crops back, rounds to uint8."""
    import torch

    from models.restore import restore

    device = next(module.parameters()).device

    def run(image: Image) -> Image:
        with torch.inference_mode():
            out = restore(module, torch.from_numpy(to_batch(image)).to(device))
        return to_image(out.float().cpu().numpy())

    return run


@contextmanager
def placed_restorer(network: torch.nn.Module) -> Iterator[Restorer]:
    """A restorer over ``network``, on the GPU where there is one; the network is on the CPU again afterwards."""
    import torch

    try:
        yield torch_restorer(network.to("cuda" if torch.cuda.is_available() else "cpu"))
    finally:
        network.to("cpu")


def session_restorer(session: Session, multiple: int) -> Restorer:
    """A restorer over a compiled artifact whose input size is free or equals that of the (padded) images."""

    def run(image: Image) -> Image:
        h, w = image.shape[:2]
        padded = pad_to_multiple(image, multiple)
        return to_image(session.run(to_batch(padded))[:, :, :h, :w])

    return run
