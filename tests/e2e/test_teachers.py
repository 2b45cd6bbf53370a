"""Every architecture as the teacher of a whole run, from its own training to the bundle; nothing here names one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from models.arch import known_archs, load_arch
from tests.e2e.conftest import pipeline, report_of, short_pipeline

pytestmark = pytest.mark.slow

OWN = """
from torch import nn


class Net(nn.Module):
    size_multiple = 4

    def __init__(self, width=4):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, width, 4, 4), nn.ConvTranspose2d(width, 3, 4, 4)

    def forward(self, lq):
        return lq + self.up(self.down(lq).relu())
"""
STUDENT = {"widths": [8, 16, 16], "depths": [1, 1, 1]}


def run_with(folder: Path, teacher: dict, crop: int = 64) -> dict:
    """The report of a short run for this host whose teacher is ``teacher``."""
    path = short_pipeline(folder)
    tree = yaml.safe_load(path.read_text())
    steps = {"steps": 2, "batch": 2, "crop": crop}
    tree["stages"]["teach"]["with"] = {**teacher, "train": steps}
    tree["stages"]["distill"]["with"] |= {**STUDENT, "train": steps}
    for name in ("prune", "quantize"):
        tree["stages"][name]["with"]["recover"] = {"train": steps}
    tree["stages"]["compile"]["with"]["backends"] = ["onnxruntime"]  # the others are tested on the student as it is
    tree["stages"]["benchmark"]["gates"] = []  # a busy machine's timing is refused as unstable, and it is not what is looked at here
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    done = pipeline("run", path, "--target", "host", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return report_of(folder / ".pipeline")


def check(report: dict) -> None:
    assert [s["status"] for s in report["stages"]][:2] == ["ran", "ran"] and report["verdict"] == "passed"
    assert {s["id"] for s in report["stages"] if s["status"] in ("ran", "retreated")} == {s["id"] for s in report["stages"]}
    teach = report["stages"][0]
    assert {"psnr", "ssim", "macs", "params"} <= {m["name"] for m in teach["measurements"]}


@pytest.mark.parametrize("name", [name for name in known_archs() if name != "student"])
def test_every_architecture_teaches_through_the_whole_pipeline(name: str, tmp_path: Path):
    report = run_with(tmp_path, {"arch": name, **load_arch(name).small})
    assert report["stages"][0]["outputs"]["model"]["facts"]["arch"] == name
    check(report)


def test_a_network_of_the_user_s_own_teaches_through_the_whole_pipeline(tmp_path: Path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "my_net.py").write_text(OWN)
    report = run_with(tmp_path, {"arch": "my_package.my_net:Net", "config": {"width": 6}})
    assert report["stages"][0]["outputs"]["model"]["facts"]["config"] == {"width": 6}
    check(report)
    changed = OWN.replace("relu()", "tanh()")
    (tmp_path / "my_package" / "my_net.py").write_text(changed)
    done = pipeline("plan", tmp_path / "pipeline.yaml", "--target", "host", cwd=tmp_path)
    assert "run" in next(line for line in done.stdout.splitlines() if "teach" in line), done.stdout
