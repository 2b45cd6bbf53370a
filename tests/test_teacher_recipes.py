"""Every teacher's recipe plans, builds the published network, states the published numbers, and trains."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from distill import teach  # noqa: E402
from models import checkpoint  # noqa: E402
from models.arch import build, load_arch  # noqa: E402
from models.spec import size_multiple  # noqa: E402
from pipeline.config import load_pipeline  # noqa: E402
from pipeline.contract import StageContext  # noqa: E402
from pipeline.errors import UsageError  # noqa: E402
from pipeline.plan import make_plan  # noqa: E402
from pipeline.target import TargetView, load_target  # noqa: E402
from tests.threads import one_thread  # noqa: E402
from tests.train.toys import Words  # noqa: E402
from tests.train.vgg import write_vgg  # noqa: E402
from train.determinism import seeded  # noqa: E402
from train.recover import training_crops  # noqa: E402
from train.schedule import learning_rate  # noqa: E402
from train.terms import TermsLoss  # noqa: E402

__all__ = ["one_thread"]

RECIPES = sorted((Path(__file__).resolve().parent.parent / "recipes").glob("teach-*.yaml"))
EVERY_RECIPE = pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
SAMPLES = (
    "data.train={source: samples, split: train, count: 4, size: 192}",
    "data.test={source: samples, split: test, count: 1, size: 64}",
)
SETTING = "stages.teach.with"


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    return write_vgg(tmp_path_factory.mktemp("vgg") / "vgg19-dcbb9e9d.pth")


@pytest.fixture(scope="module")
def gopro(tmp_path_factory):
    """A folder laid out like GOPRO_Large, with one small pair per split."""
    root, rng = tmp_path_factory.mktemp("GOPRO_Large"), np.random.default_rng(0)
    for split, scene in (("train", "GOPR0372_07_00"), ("test", "GOPR0384_11_00")):
        for kind in ("blur", "blur_gamma", "sharp"):
            folder = root / split / scene / kind
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "000047.png"), rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return root


def with_vgg(path, vgg):
    loss = load_pipeline(path).stages["teach"].config["loss"]
    terms = enumerate(loss if isinstance(loss, list) else [])
    return tuple(f"{SETTING}.loss.{i}.weights={vgg}" for i, term in terms if term["name"] == "perceptual")


def planned(path, *overrides):
    return make_plan(path, load_pipeline(path, overrides), load_target("jetson-xavier"))


def of_paper(name, vgg):
    path = next(p for p in RECIPES if p.stem == f"teach-{name}")
    return planned(path, *SAMPLES, *with_vgg(path, vgg)).stages[0].config


def test_every_teacher_has_a_recipe():
    archs = {load_pipeline(path).stages["teach"].config["arch"] for path in RECIPES}
    assert {"nafnet", "mimounet", "srn", "deblurgan", "dmcnn"} <= archs


@EVERY_RECIPE
def test_it_plans_on_a_folder_laid_out_like_gopro(path, gopro, vgg):
    plan = planned(path, f"data.train.path={gopro}", f"data.test.path={gopro}", *with_vgg(path, vgg))
    assert [s.uses for s in plan.stages] == ["distill.teach"] and plan.stages[0].gates
    assert {role: len(source) for role, source in plan.data.items()} == {"train": 1, "test": 1}
    assert plan.stages[0].config.loss != "mse"  # the default of the stage


@pytest.mark.parametrize("name", ["deblurgan", "deblurgan-fpn", "dmcnn"])
def test_without_vgg19_the_file_is_named_and_its_source_stands_in_the_recipe(name):
    path = next(p for p in RECIPES if p.stem == f"teach-{name}")
    index = len(load_pipeline(path).stages["teach"].config["loss"]) - 1
    with pytest.raises(UsageError) as e:
        planned(path, *SAMPLES)
    place = f"{path.name}: {SETTING}.loss.{index}.weights"
    assert str(e.value).startswith(f"{place}: no such file 'vgg19-dcbb9e9d.pth'\nhint: ")
    assert "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth" in path.read_text()


@pytest.mark.parametrize(
    ("name", "millions"),
    [("nafnet-gopro", 17.111907), ("nafnet-progressive", 17.111907), ("mimounet", 16.107651), ("srn", 10.250723), ("deblurgan", 11.378179)],
)
def test_the_teacher_is_the_published_network(name, millions, vgg):
    config = of_paper(name, vgg)
    with torch.device("meta"):
        network = build(config.arch, config.config)
    assert sum(p.numel() for p in network.parameters()) == round(millions * 1e6)


@pytest.mark.parametrize(
    ("name", "epochs", "steps_per_epoch", "rates"),
    [
        ("mimounet", 3000, math.ceil(2103 / 4), {0: 1e-4, 499: 1e-4, 500: 5e-5, 2999: 1e-4 / 32}),
        ("srn", 2000, 2103 // 16, {0: 1e-4, 499: 1e-4, 500: 3e-5, 1999: 2.7e-6}),
        ("deblurgan", 300, 2103, {0: 1e-4, 149: 1e-4, 225: 5e-5}),
        ("deblurgan-fpn", 200, math.ceil(2103 / 8), {0: 2e-4, 49: 2e-4, 50: 1e-4, 199: 2.5e-5}),
    ],
)
def test_steps_and_rates_are_those_of_the_published_epochs(name, epochs, steps_per_epoch, rates, vgg):
    train = of_paper(name, vgg).train
    assert train.steps == epochs * steps_per_epoch
    assert {epoch: pytest.approx(learning_rate(epoch * steps_per_epoch, train)) for epoch in rates} == rates


def test_nafnet_s_rate_is_one_cosine(vgg):
    train = of_paper("nafnet-gopro", vgg).train
    assert [learning_rate(step, train) for step in (0, 100_000, 199_999)] == pytest.approx([1e-3, 5e-4, 1e-7], rel=1e-4)


def tiny(path, vgg):
    """The recipe with its own losses, optimizer, schedule and augmentation, on small networks, small crops and few steps."""
    entry = load_pipeline(path).stages["teach"].config
    spec, train = load_arch(entry["arch"]), entry["train"]
    sizes = {key: value for key, value in spec.small.items() if key not in ("use_dropout", "dropout", "variant")}
    keys = {**{key: entry[key] for key in entry if key in spec.config.model_fields}, **sizes}
    multiple = size_multiple(build(entry["arch"], keys))
    crop = multiple * math.ceil(32 / multiple)
    changes = {f"{SETTING}.{key}": value for key, value in sizes.items()}
    settings = {
        "steps": 40 if crop == 32 else 10,
        "batch": min(train["batch"], max(2, train.get("accumulate", 1))),
        "crop": crop,
        "lr": 4e-3,
    }
    changes |= {f"{SETTING}.train.{key}": value for key, value in settings.items()}
    if "patches" in train:
        sides = (32, 48, 64)
        changes[f"{SETTING}.train.patches"] = [{**patch, "crop": side} for patch, side in zip(train["patches"], sides, strict=True)]
    if "adversarial" in entry:
        changes[f"{SETTING}.adversarial.channels"] = 4
    return planned(path, *SAMPLES, *with_vgg(path, vgg), *(f"{key}={json.dumps(value)}" for key, value in changes.items()))


def content_loss(config, plan, network):
    """The recipe's loss but for the critic, in training mode, on the first eight crops of the training."""
    crops = training_crops(plan.data["train"], config.train.model_copy(update={"steps": 100, "batch": 8, "patches": ()}))
    lq, gt = (torch.from_numpy(np.stack(images)) for images in zip(*(crops[k] for k in range(8)), strict=True))
    with seeded("judge"), torch.no_grad():
        return TermsLoss(config.terms())(network.train(), lq, gt)[0].item()


@pytest.mark.slow
@EVERY_RECIPE
def test_it_trains_and_its_loss_falls(path, vgg, tmp_path):
    plan = tiny(path, vgg)
    stage, words = plan.stages[0], Words()
    config = stage.config
    with seeded(plan.seed, "teach"):
        before = content_loss(config, plan, build(config.arch, config.config))
    result = teach.run(StageContext(config, {}, tmp_path, TargetView(None, ()), plan.data, plan.seed, words))
    trained = checkpoint.load(result.outputs["model"].path)
    assert trained.history[0]["steps"] == config.train.steps
    after = content_loss(config, plan, trained.module)
    assert after < (before - 0.2 if config.loss == "psnr" else 0.97 * before), f"{before:.4f} -> {after:.4f}"
    logged = set(words.updates[-1][3])
    assert (config.adversarial is None) == ("critic_loss" not in logged)
