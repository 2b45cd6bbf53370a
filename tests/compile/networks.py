"""A small student with real weights shapes, as the quantize stage hands it on, and photographs to judge it on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.contract import Pair

SMALL = {"widths": (16, 24, 32), "depths": (1, 1, 1), "se_from": 3}
GATED = {"widths": (16, 24, 32), "depths": (0, 1, 2), "se_from": 1, "activation": "hardswish", "high_scales": 0, "skip": "concat"}


class Photos:
    """Blurred crops of a photograph from scikit-image's wheel."""

    def __init__(self, count: int = 3, height: int = 144, width: int = 176, first: int = 0) -> None:
        from skimage import data
        from skimage.filters import gaussian

        image = data.astronaut()
        self.pairs = []
        for k in range(first, first + count):
            gt = np.ascontiguousarray(image[60 * k : 60 * k + height, 40 * k : 40 * k + width])
            lq = np.rint(gaussian(gt, 1.0, channel_axis=2, preserve_range=True)).astype(np.uint8)
            self.pairs.append(Pair(lq, gt, f"crop{k}", "astronaut"))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        return self.pairs[index]

    def digest(self) -> str:
        return hashlib.sha256(b"".join(p.lq.tobytes() for p in self.pairs)).hexdigest()

    def scenes(self) -> Mapping[str, str]:
        return {"astronaut": self.digest()}


def write_model_folder(path: Path, config: Mapping[str, object], seed: int = 0, int8: bool = True, unsigned: bool = False) -> Path:
    """A student with random weights that barely changes its input, quantized by calibration, as a model folder."""
    import torch

    from eval.quality import to_batch
    from models.checkpoint import save
    from models.export import export_onnx
    from models.fold import fold_batchnorm
    from models.student.arch import ARCH
    from quantize.artifact import ModelFacts, write_facts, write_scales
    from quantize.calibrate import observe, set_scales
    from quantize.emit import emit
    from quantize.insert import prepare
    from quantize.scales import collect

    torch.manual_seed(seed)
    module = ARCH.build(ARCH.config(**config)).train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.rand(2, 3, 64, 64))
        module.head.weight.mul_(20)
    folded = fold_batchnorm(module.eval())
    path.mkdir(parents=True)
    export_onnx(folded, path / "float.onnx")
    save(path / "checkpoint.safetensors", folded, "student", ARCH.config_of(folded))
    multiple = int(folded.size_multiple)
    if int8:
        ready = prepare(folded, unsigned)
        set_scales(ready, observe(ready, [torch.from_numpy(to_batch(p.lq)) for p in Photos()]), "mse")
        parameters = collect(ready)
        emit(ready, parameters, path, 17)
        write_scales(path, parameters.to_json())
    precisions = ("fp32", "int8") if int8 else ("fp32",)
    facts = {"arch": "student", "size_multiple": multiple, "opset": 17, "precisions": precisions, "unsigned": unsigned}
    write_facts(path, ModelFacts.model_validate(facts))
    return path
