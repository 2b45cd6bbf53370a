"""A pipeline with everything that is searched, small enough to train in seconds."""

from __future__ import annotations

import yaml

TRAIN = {"steps": 4, "batch": 2, "crop": 64, "warmup": 0.0}

SPACE = {
    "width": [8, 16],
    "growth": [[1, 2], [1, 2, 2]],
    "depth_fine": [0],
    "depth": [1],
    "decoder_depth": [0],
    "unshuffle": [4],
    "kernel": [3],
    "prune": [0, 0.4],
}

PICKED = {
    "width": 16,
    "growth": "1-2",
    "depth_0": 1,
    "block_0": "fused",
    "depth_1": 1,
    "block_1": "inverted_residual",
    "decoder_depth": 1,
    "unshuffle": 2,
    "kernel": 3,
    "se": 1,
    "activation": "relu",
    "prune": 0.4,
    "precision": "int8",
}


class Quiet:
    """A Progress that says nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def log(self, text):
        pass

    def update(self, label, done, total, **scalars):
        pass


def pipeline_tree() -> dict:
    data = {role: {"source": "samples", "split": role, "count": n, "size": 96} for role, n in (("train", 3), ("calibrate", 2), ("test", 2))}
    teacher = {"arch": "nafnet", "width": 4, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1], "train": TRAIN}
    recover = {"train": TRAIN}
    stages = {
        "guide": {"uses": "distill.teach", "with": teacher},
        "student": {"uses": "distill.student", "needs": {"teacher": "guide.model"}, "with": {"train": TRAIN}},
        "thin": {
            "uses": "prune.stage",
            "needs": {"model": "student.model", "teacher": "guide.model"},
            "with": {"ratio": 0.3, "recover": recover, "min_speedup": 0.0, "max_drop": 50.0, "seconds": 0.05},
            "gates": [{"metric": "psnr", "drop_at_most": 50.0, "against": "student"}],
        },
        "small": {
            "uses": "quantize.stage",
            "needs": {"model": "thin.model"},
            "with": {"recover": recover, "images": 2, "min_speedup": 0.0, "max_drop": 50.0, "tile": 64, "seconds": 0.05},
            "gates": [{"metric": "psnr", "drop_at_most": 50.0, "against": "thin"}, {"metric": "speedup", "at_least": 0.01}],
        },
        "compile": {
            "needs": {"model": "small.model"},
            "with": {"tile": 64, "seconds": 0.05, "images": 1, "max_drop": 50.0},
            "gates": [{"metric": "size", "at_most": 3.2, "unit": "MB"}],
        },
    }
    return {"version": 1, "seed": 7, "data": data, "stages": stages}


def pipeline_text(tree: dict | None = None) -> str:
    return yaml.safe_dump(tree or pipeline_tree(), sort_keys=False)
