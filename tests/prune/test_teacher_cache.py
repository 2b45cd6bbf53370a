"""The recovery's teacher, asked once about each image instead of about every crop."""

from dataclasses import replace

import torch

from data.crops import CropDataset
from models import checkpoint
from prune.config import PruneConfig
from prune.stage import STAGE
from tests.prune.test_stage import FAST, WIDE, stage
from tests.quantize.toys import checkpoint_of, context, pairs, student, teacher
from tests.train.toys import Words
from train.teacher_cache import open_cache

STILL = {"hflip": False, "vflip": False, "rot90": False}
WHOLE = {"steps": 2, "batch": 2, "crop": 96, "augment": STILL, "lr": 1e-2}  # crops are whole images, which no turn changes
GREY = {"gt": 0, "response": 1, "feature": 0}


def recovered(tmp_path, mode, **changes):
    recovery = {"train": WHOLE, "loss_weights": GREY, "teacher_cache": mode}
    ctx, result = stage(tmp_path, {"recover": {**recovery, **changes}, "recentre": 0})
    return ctx, checkpoint.load(result.outputs["model"].path).module


def test_a_crop_s_target_is_what_the_teacher_answers_online_to_half_precision(tmp_path):
    taught = checkpoint.load(teacher(tmp_path / "teacher.safetensors").path).module
    settings = PruneConfig.model_validate({"recover": {"train": WHOLE, "teacher_cache": "on"}}).recover
    cache = open_cache(taught, pairs("train", 3), settings, settings.train.seeded(1), (True, ()), tmp_path, Words(), "prune")
    crops = CropDataset(pairs("train", 3), 96, 1, 6, settings.train.augment, beside=cache)
    for k in range(6):
        lq, _, kept = (torch.as_tensor(a) for a in crops[k])
        with torch.no_grad():
            online = taught(lq[None])[0]
        assert kept.dtype == torch.float16
        assert torch.allclose(kept.float(), online, rtol=2**-10, atol=2**-14)


def test_the_recovery_is_the_same_with_kept_answers_as_online(tmp_path):
    x = torch.rand(1, 3, 64, 64)
    kept, online, untaught = (recovered(tmp_path / n, m, **c)[1] for n, m, c in (("a", "on", {}), ("b", "off", {}), ("c", "off", FREE)))
    with torch.no_grad():
        assert torch.allclose(kept(x), online(x), atol=1e-3)
        assert not torch.allclose(kept(x), untaught(x), atol=1e-2)


FREE = {"loss_weights": {"gt": 1, "response": 0, "feature": 0}}


def test_all_rungs_and_rounds_share_the_answers(tmp_path, monkeypatch):
    asked = iter([", more than 1 dB lost", ""])
    monkeypatch.setattr("prune.ladder.complaint", lambda *_: next(asked))
    recovery = {"train": {"steps": 2, "batch": 2, "crop": 32}, "teacher_cache": "on"}
    words = Words()
    ctx, _ = stage(
        tmp_path, {"rounds": 2, "recover": recovery}, student(widths=[24, 32], depths=[1, 1], decoder_depths=[0]), progress=words
    )
    (folder,) = [p for p in (ctx.workdir / "teacher-cache").iterdir() if p.is_dir()]
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert not list(ctx.workdir.glob("ratio-*/**/teacher-cache"))


def test_another_rung_s_and_another_stage_s_answers_are_found(tmp_path):
    taught = checkpoint.load(teacher(tmp_path / "teacher.safetensors").path).module
    settings = PruneConfig.model_validate({"recover": {"train": WHOLE, "teacher_cache": "on"}}).recover
    root = tmp_path / "shared" / "teacher-cache"
    other = open_cache(taught, pairs("train", 3), settings, settings.train.seeded(5), (True, (0, 1)), root, Words(), "distill")
    before = {p: p.stat().st_mtime_ns for p in other.folder.glob("*.safetensors")}
    inputs = {"model": checkpoint_of(student(**WIDE), tmp_path / "input.safetensors"), "teacher": teacher(tmp_path / "teacher.safetensors")}
    recovery = {"recover": {"train": {"steps": 2, "batch": 2, "crop": 32}, "teacher_cache": "on"}}
    ctx = replace(context(STAGE, tmp_path / "work", {**FAST, **recovery}, inputs), shared=tmp_path / "shared")
    STAGE.run(ctx)
    assert {p: p.stat().st_mtime_ns for p in root.glob("*/*.safetensors")} == before and len(before) == 3
    assert not (ctx.workdir / "teacher-cache").exists()


def test_the_default_decides_by_the_work():
    assert PruneConfig().recover.teacher_cache == "auto"
