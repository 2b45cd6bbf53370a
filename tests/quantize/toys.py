"""Small students that do something, photographs, and contexts in which the stage runs on them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from data.readers.samples import READER
from eval.quality import to_batch, torch_restorer
from models import checkpoint
from models.arch import build, load_arch
from models.fold import fold_batchnorm
from pipeline.contract import Artifact, Kind, Pair, StageContext
from pipeline.target import TargetView, load_target
from quantize.calibrate import observe, set_scales
from quantize.insert import prepare
from tests.train.toys import Words

SMALL = {"widths": [8, 16, 24], "depths": [1, 1, 1], "decoder_depths": [1, 1], "se_from": 3}
PATTERNS = {
    "dense convolutions, added skips, bilinear": SMALL,
    "depthwise and residual sums": {**SMALL, "high_scales": 0, "depths": [1, 2, 2]},
    "concatenated skips": {**SMALL, "skip": "concat"},
    "squeeze-and-excite": {**SMALL, "se_from": 0, "high_scales": 0},
    "nearest": {**SMALL, "upsample": "nearest", "skip": "concat"},
    "deconvolution": {**SMALL, "upsample": "deconv"},
    "relu6": {**SMALL, "activation": "relu6"},
    "hardswish": {**SMALL, "activation": "hardswish", "se_from": 2},
    "no unshuffle": {**SMALL, "unshuffle": 1},
    "unshuffle by 4": {**SMALL, "unshuffle": 4},
}


def student(seed=0, **config):
    """A student with random weights and running statistics that changes its input visibly, in eval mode."""
    torch.manual_seed(seed)
    network = build("student", config or SMALL).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 3, 64, 64))
        network.head.weight.normal_(0, 0.02)
    return network.eval()


def pairs(split, count=3, size=96):
    return READER.open(READER.config(split=split, count=count, size=size), Path(), 1)


def photos(count=3, size=96):
    """float32 [1, 3, size, size] in [0, 1]."""
    source = pairs("calibrate", count, size)
    return [torch.from_numpy(to_batch(source[i].lq)) for i in range(count)]


def quantized(network, images=None, method="percentile", unsigned=False):
    """The network folded, prepared and calibrated: (float, fake-quantized)."""
    folded = fold_batchnorm(network)
    ready = prepare(folded, unsigned)
    set_scales(ready, observe(ready, images or photos()), method)
    return folded, ready


def db(a, b):
    """PSNR between two float images of range 1."""
    return float(-10 * torch.log10((torch.as_tensor(a) - torch.as_tensor(b)).square().mean() + 1e-20))


def artifact(path, kind=Kind.CHECKPOINT):
    content = path.read_bytes()
    return Artifact(kind, path, hashlib.sha256(content).hexdigest(), len(content))


def checkpoint_of(network, path):
    checkpoint.save(path, network, "student", history=[{"stage": "toy"}])
    return artifact(path)


def teacher(path):
    torch.manual_seed(7)
    network = build("nafnet", {"width": 4, "enc_blk_nums": [1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1]})
    checkpoint.save(path, network, "nafnet", load_arch("nafnet").config_of(network))
    return artifact(path)


class Echo:
    """Pairs whose sharp image is what a network makes of the blurred one, with noise of 30 dB: int8 can only lose."""

    def __init__(self, network, split, count):
        self.restore, self.source = torch_restorer(network), pairs(split, count)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        pair = self.source[index]
        noise = np.random.default_rng(index).normal(0, 8, pair.lq.shape)
        gt = np.clip(self.restore(pair.lq) + noise, 0, 255).astype(np.uint8)
        return Pair(pair.lq, gt, pair.name, pair.scene)

    def digest(self):
        return self.source.digest()

    def scenes(self):
        return self.source.scenes()


def context(spec, workdir, config, inputs, target="jetson-xavier", progress=None, make=pairs):
    workdir.mkdir(parents=True, exist_ok=True)
    data = {"train": pairs("train", 3), "calibrate": make("calibrate", 3), "test": make("test", 2)}
    return StageContext(
        config=spec.config.model_validate(config),
        inputs=inputs,
        workdir=workdir,
        target=TargetView(load_target(target), spec.reads_target),
        data={role: data[role] for role in spec.data},
        seed=1,
        progress=progress or Words(),
    )
