"""Contexts in which the stages run on a few small synthesized photographs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data.readers.samples import READER
from pipeline.contract import Artifact, StageContext
from pipeline.target import TargetView
from tests.train.toys import Words

TINY_TEACHER = {"width": 4, "enc_blk_nums": [1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1]}
TINY_STUDENT = {"widths": [8, 16], "depths": [1, 1], "decoder_depths": [1], "expand": 2, "kernels": 3}
TRAIN = {"steps": 6, "batch": 2, "crop": 32, "lr": 1e-3}


def pairs(split, count):
    return READER.open(READER.config(split=split, count=count, size=96), Path(), 1)


def context(spec, workdir, config, inputs=None, seed=1, progress=None):
    workdir.mkdir(parents=True, exist_ok=True)
    data = {"train": pairs("train", 3), "test": pairs("test", 2)}
    return StageContext(
        config=spec.config.model_validate(config),
        inputs=inputs or {},
        workdir=workdir,
        target=TargetView(None, ()),
        data={role: data[role] for role in spec.data},
        seed=seed,
        progress=progress or Words(),
    )


def artifact(output):
    content = output.path.read_bytes()
    return Artifact(output.kind, output.path, hashlib.sha256(content).hexdigest(), len(content), output.facts)
