"""What tiles cost: how far a network sees, and the seams of its tiles by every way of treating global pooling.

    python benchmarks/tiles.py [--checkpoint student.safetensors] [--test DIR] [--train DIR] [--images 4] [--tiles 256 512]

DIR holds ``blur/`` and ``sharp/``. Without arguments: an untrained default student and the embedded photographs. Every picture is four
photographs side by side, so that the statistics of one tile are not those of the image. Everything runs in ONNX Runtime, fp32, one
thread; a halo that would take more than half of a tile is cut off there, and neighbours are mixed. The ways:

    tile            each tile pools over itself, cuts are hard
    tile, mixed     the same, neighbours mixed over half of the overlap
    window N        every global pooling replaced by the mean over N x N image pixels (Chu et al., ECCV 2022): the same in tile and image,
                    as long as the halo covers the window too; "sees" is the halo that this takes
    constant        every global pooling replaced by its mean over the training pictures

Against: the network itself over the whole picture. What a frame of 3840x2160 takes in memory: ``benchmarks/frame.py``.
"""

# ruff: noqa: E402 - the search path is set before the packages are imported
from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would hide the package of its name

import numpy as np
import torch
from torch import Tensor, nn

from compile.onnxruntime.backend import OnnxSession
from data.readers import folder, samples
from eval.quality import Image, psnr
from eval.receptive import Receptive, receptive_field
from eval.seams import seams_of, whole_plan
from eval.tiling import Overlap, Run, overlap_for, restore_tiled, tile_plan
from models import load_checkpoint
from models.arch import build
from models.export import export_onnx
from models.fold import fold_batchnorm
from models.spec import size_multiple
from pipeline.contract import PairSource

SEED = 2026


class Window(nn.Module):
    """Mean over a window of odd side, of what of it lies in the map: [N, C, H, W] -> the same shape."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side | 1
        self.across = nn.AvgPool2d((1, self.side), 1, (0, self.side // 2), count_include_pad=False)
        self.down = nn.AvgPool2d((self.side, 1), 1, (self.side // 2, 0), count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        out: Tensor = self.down(self.across(x))
        return out


class Constant(nn.Module):
    """The same statistics for every image."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Buffer(value)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [1, C, 1, 1]."""
        return self.value


def pools(module: nn.Module) -> list[str]:
    """Names of the global poolings."""
    return [name for name, part in module.named_modules() if isinstance(part, nn.AdaptiveAvgPool2d)]


def replaced(module: nn.Module, make: Callable[[str], nn.Module]) -> nn.Module:
    """A copy with every global pooling replaced."""
    out = copy.deepcopy(module)
    for name in pools(out):
        out.set_submodule(name, make(name))
    return out


def scales(module: nn.Module) -> dict[str, int]:
    """Image pixels per element of the map that each pooling sees."""
    found: dict[str, int] = {}
    hooks = [
        module.get_submodule(n).register_forward_pre_hook(lambda m, x, n=n: found.update({n: 256 // x[0].shape[-1]})) for n in pools(module)
    ]
    with torch.inference_mode():
        module(torch.zeros(1, 3, 256, 256))
    for hook in hooks:
        hook.remove()
    return found


def means(module: nn.Module, pictures: list[Image]) -> dict[str, Tensor]:
    """Mean statistics of every pooling over pictures."""
    seen: dict[str, list[Tensor]] = {name: [] for name in pools(module)}
    hooks = [module.get_submodule(n).register_forward_hook(lambda m, x, y, n=n: seen[n].append(y.clone())) for n in seen]
    with torch.inference_mode():
        for picture in pictures:
            module(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255))
    for hook in hooks:
        hook.remove()
    return {name: torch.stack(values).mean(0) for name, values in seen.items()}


def pictures(source: PairSource, count: int) -> list[tuple[Image, Image]]:
    """Blurred and sharp pictures of 2 x 2 photographs each."""
    out = []
    for k in range(count):
        four = [source[(4 * k + i) % len(source)] for i in range(4)]
        high, wide = (min(p.lq.shape[axis] for p in four) for axis in (0, 1))
        both = []
        for kind in ("lq", "gt"):
            a, b, c, d = (getattr(p, kind)[:high, :wide] for p in four)
            both.append(np.vstack([np.hstack([a, b]), np.hstack([c, d])]))
        out.append((both[0], both[1]))
    return out


def ways(network: nn.Module, train: list[Image]) -> Iterator[tuple[str, nn.Module]]:
    """The network, and with its poolings replaced."""
    yield "tile", network
    if pools(network):
        by, mean = scales(network), means(network, train)
        for pixels in (64, 128, 256):
            yield f"window {pixels}", replaced(network, lambda n, pixels=pixels: Window(pixels // by[n]))
        yield "constant", replaced(network, lambda n: Constant(mean[n]))


def seams_table(files: Mapping[str, Path], multiple: int, test: list[tuple[Image, Image]], tiles: list[int]) -> None:
    """Print what each way changes and costs against the network over the whole picture."""
    base = OnnxSession(files["tile"])
    whole = [restore_tiled(lq, base.run, whole_plan(*lq.shape[:2], (multiple, multiple), multiple)) for lq, _ in test]
    sharp = [gt for _, gt in test]
    size = f"{test[0][0].shape[1]}x{test[0][0].shape[0]}"
    print(f"\n{len(test)} pictures of {size}; whole picture: {np.mean([psnr(a, b) for a, b in zip(whole, sharp, strict=True)]):.3f} dB")
    print("max, mean, step at cuts: LSB, against the same network over the whole picture. dB: less the network itself, whole. CPU seconds.")
    print("way            sees  tile  halo blend tiles     max    mean    step       dB   s/MP")
    for name, file in files.items():
        receptive, session = receptive_field(file, multiple), OnnxSession(file)
        for side in tiles:
            made = overlap_for(receptive, side)
            for overlap in [Overlap(made.halo, 0)] * (name == "tile" and made.blend > 0) + [made]:
                row(name, receptive, session.run, side, overlap, multiple, test, whole)


def row(
    name: str,
    receptive: Receptive,
    run: Run,
    side: int,
    overlap: Overlap,
    multiple: int,
    test: list[tuple[Image, Image]],
    whole: list[Image],
) -> None:
    """Measure one way with one tile size and print it."""
    found = [seams_of(lq, run, (side, side), overlap, multiple) for lq, _ in test]
    losses, seconds = [], 0.0
    for (lq, gt), reference in zip(test, whole, strict=True):
        plan = tile_plan(*lq.shape[:2], side, overlap.halo, multiple, overlap.blend)
        start = time.process_time()
        out = restore_tiled(lq, run, plan)
        seconds += time.process_time() - start
        losses.append(psnr(out, gt) - psnr(reference, gt))
    largest, mean, step = max(s.largest for s in found), np.mean([s.mean for s in found]), np.mean([s.step for s in found])
    speed = seconds / sum(lq.shape[0] * lq.shape[1] for lq, _ in test) * 1e6
    label = f"{name}, mixed" if overlap.blend and name == "tile" else name
    print(
        f"{label:13} {receptive.halo:5} {side:5} {overlap.halo:5} {overlap.blend:5} {found[0].tiles:5} {largest:7} {mean:7.4f} {step:7.4f} "
        f"{np.mean(losses):+8.4f} {speed:6.2f}",
        flush=True,
    )


def pairs(path: Path | None, split: str) -> PairSource:
    """Pairs of a folder, or a split of the embedded photographs."""
    if path is None:
        return samples.READER.open(samples.READER.config(split=split), Path(), SEED)
    return folder.READER.open(folder.READER.config(path=path.resolve()), Path(), SEED)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--train", type=Path, help="pictures that the constant statistics come from")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    network = load_checkpoint(args.checkpoint).network if args.checkpoint else build("student", {})
    network, multiple = fold_batchnorm(network), size_multiple(network)
    test = pictures(pairs(args.test, "test"), args.images)
    calibration = pairs(args.train, "calibrate")
    train = [calibration[i].lq for i in range(min(16, len(calibration)))]
    cropped = [t[: t.shape[0] // multiple * multiple, : t.shape[1] // multiple * multiple] for t in train]
    with tempfile.TemporaryDirectory() as workdir:
        files = {}
        for index, (name, module) in enumerate(ways(network, cropped)):
            files[name] = Path(workdir) / f"{index}.onnx"
            export_onnx(module, files[name])
        found = receptive_field(files["tile"], multiple)
        print(f"{found}; up, down, left, right: {found.reach}")
        seams_table(files, multiple, test, args.tiles)


if __name__ == "__main__":
    main()
