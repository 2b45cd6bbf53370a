"""Every shipped YAML loads and plans; the README's own commands are those that work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.exceptions import TyperException

from pipeline.cli import build_app
from pipeline.config import load_pipeline
from pipeline.plan import make_plan
from pipeline.target import known_targets, load_target

ROOT = Path(__file__).resolve().parent.parent


def write_pairs(folder: Path, scenes: tuple[str, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for scene in scenes:
        for kind in ("blur", "sharp"):
            path = folder / scene / kind / "000001.png"
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("target", known_targets())
def test_the_default_pipeline_plans_for_every_target(target: str):
    path = ROOT / "pipeline.yaml"
    plan = make_plan(path, load_pipeline(path), load_target(target))
    assert [s.id for s in plan.stages] == ["teach", "distill", "prune", "quantize", "compile", "benchmark"]


def test_the_gopro_recipe_plans_on_a_folder_laid_out_like_gopro(tmp_path: Path):
    write_pairs(tmp_path / "train", ("GOPR0372_07_00", "GOPR0374_11_00"), 0)
    write_pairs(tmp_path / "test", ("GOPR0384_11_00",), 1)
    path = ROOT / "recipes" / "gopro.yaml"
    overrides = [f"data.{role}.path={tmp_path}" for role in ("train", "calibrate", "test")]
    plan = make_plan(path, load_pipeline(path, tuple(overrides)), load_target("jetson-xavier"))
    assert plan.stages[0].config.train.steps == 200_000 and len(plan.data["test"]) == 1


def test_the_gopro_recipe_s_teacher_is_the_published_one():
    from models.arch import build

    torch = pytest.importorskip("torch")
    path = ROOT / "recipes" / "gopro.yaml"
    settings = load_pipeline(path).stages["teach"].config
    with torch.device("meta"):
        network = build("nafnet", {k: settings[k] for k in ("width", "enc_blk_nums", "middle_blk_num", "dec_blk_nums")})
    assert sum(p.numel() for p in network.parameters()) == 17_111_907


def readme_commands() -> list[list[str]]:
    """Every ``python -m pipeline …`` that the README shows, as words after ``pipeline``; placeholders (…) are left out."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"python -m pipeline ([^`\n]*)", text)
    return [shlex.split(re.split(r"\s+(?:>|&&)\s", line)[0], comments=True) for line in found if "…" not in line]


def parsed(words: list[str]) -> None:
    """Let the command line read ``words``, and do nothing; raises where a verb, an option or an argument is not what it knows."""
    command, name = typer.main.get_command(build_app()), "pipeline"
    context = command.make_context(name, list(words), resilient_parsing=True)
    while hasattr(command, "get_command"):
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, name
        context = command.make_context(name, list(words), parent=context, resilient_parsing=hasattr(command, "get_command"))


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_the_readme_s_commands_are_understood(words: list[str]):
    parsed(words)


def test_every_verb_is_in_the_readme():
    verbs = {p.stem for p in (ROOT / "pipeline" / "verbs").glob("[a-z]*.py")}
    assert {words[0] for words in readme_commands()} == verbs


def test_a_command_with_an_unknown_option_is_not_understood():
    for words in (["runn"], ["run", "pipeline.yaml", "--target", "host", "--wat"], ["run", "pipeline.yaml"], ["dataset", "pakc"]):
        with pytest.raises((AssertionError, TyperException)):
            parsed(words)


def test_the_files_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for file in re.findall(r"\b((?:recipes|docs|benchmarks|targets|weights)/[\w./-]+\.\w+)", text):
        assert (ROOT / file).exists(), file


def test_the_recipe_that_starts_from_weights_plans_and_its_student_restores():
    from eval.quality import psnr, torch_restorer
    from models import checkpoint

    path = ROOT / "recipes" / "from-weights.yaml"
    plan = make_plan(path, load_pipeline(path), load_target("jetson-xavier"))
    assert [s.id for s in plan.stages] == ["student", "prune", "quantize", "compile", "benchmark"]
    files = [p for p in (ROOT / "weights").iterdir() if p.suffix == ".safetensors"]
    assert sum(p.stat().st_size for p in files) < 12e6 and all(p.name in (ROOT / "weights" / "README.md").read_text() for p in files)
    restore = torch_restorer(checkpoint.load(ROOT / "weights" / "student-photographs.safetensors").module)
    pairs = [plan.data["test"][i] for i in range(0, 24, 8)]
    assert sum(psnr(restore(p.lq), p.gt) - psnr(p.lq, p.gt) for p in pairs) / len(pairs) > 0.8


def test_the_recipe_for_photographs_plans_on_what_synthesize_writes(tmp_path: Path):
    write_pairs(tmp_path / "train", ("a", "b"), 0)
    write_pairs(tmp_path / "val", ("c",), 1)
    path = ROOT / "recipes" / "photographs.yaml"
    overrides = [f"data.{role}.path={tmp_path / part}" for role, part in (("train", "train"), ("calibrate", "train"), ("test", "val"))]
    plan = make_plan(path, load_pipeline(path, tuple(overrides)), load_target("host"))
    assert plan.stages[0].config.train.steps == 9000 and len(plan.data["test"]) == 1
