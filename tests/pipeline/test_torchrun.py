"""A run that several processes of torchrun share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from models import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
TRAIN = {"steps": 6, "batch": 2, "crop": 32, "lr": 1e-3, "clip": 0.0, "weight_decay": 0.0}
TEACHER = {"arch": "nafnet", "width": 4, "config": {"enc_blk_nums": [1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1]}, "train": TRAIN}
TRAININGS = {
    "version": 1,
    "seed": 2,
    "data": {s: {"source": "samples", "split": s, "count": n, "size": 96} for s, n in (("train", 3), ("test", 2))},
    "stages": {
        "teach": {"uses": "distill.teach", "with": TEACHER, "gates": [{"metric": "psnr", "at_least": 5}]},
        "distill": {
            "uses": "distill.student",
            "needs": {"teacher": "teach.model"},
            # a network without batch statistics, which two processes take over half a batch each
            "with": {"arch": "tests.train.toys:ToyNet", "config": {"width": 4}, "train": TRAIN, "teacher_cache": "on"},
            "gates": [{"metric": "psnr", "drop_at_most": 30, "against": "teach"}],
        },
        "alone": {"uses": "tests.pipeline.toy_alone", "needs": {"model": "distill.model"}},
    },
}
TOYS = {
    "version": 1,
    "data": {},
    "stages": {
        "first": {"uses": "tests.pipeline.toy_source"},
        "shared": {"uses": "tests.pipeline.toy_shared", "needs": {"model": "first.model"}},
        "second": {"uses": "tests.pipeline.toy_next", "needs": {"model": "shared.model"}, "gates": [{"metric": "psnr", "at_least": 25}]},
    },
}
RENDEZVOUS = (["--master-port", "29547"], ["--standalone"])  # the store is the first process's, or torchrun's own


@pytest.fixture
def start(tmp_path: Path, target_file: Path):
    """Call with a pipeline, the number of processes and options: (what ended, report.json)."""

    def call(tree: dict, processes: int, *options: str) -> tuple[subprocess.CompletedProcess[str], dict]:
        path, workspace = tmp_path / "pipeline.yaml", tmp_path / f"with-{processes}"
        path.write_text(yaml.safe_dump(tree))
        launcher = ["-m", "torch.distributed.run", *RENDEZVOUS[options != ()], "--nproc-per-node", str(processes)] if processes > 1 else []
        command = [sys.executable, *launcher, "-m", "pipeline", "run", path, "--target", target_file, "--workspace", workspace, *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        report = workspace / "runs" / "latest" / "report.json"
        return done, json.loads(report.read_text()) if report.exists() else {}

    return call


def statuses(report: dict) -> list[str]:
    return [s["status"] for s in report["stages"]]


def weights(workspace: Path, report: dict, stage: int) -> dict:
    path = workspace / "runs" / "latest" / report["stages"][stage]["outputs"]["model"]["path"]
    return checkpoint.load(path.resolve()).module.state_dict()


def test_two_processes_come_to_the_result_of_one(start, tmp_path: Path):
    import torch

    done, two = start(TRAININGS, 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("run directory: ") == 1 and len(list((tmp_path / "with-2" / "runs").iterdir())) == 2  # one, and 'latest'
    alone, one = start(TRAININGS, 1)
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert statuses(two) == statuses(one) == ["ran"] * 3 and two["verdict"] == one["verdict"] == "passed"
    assert [s["key"] for s in two["stages"][:1]] == [s["key"] for s in one["stages"][:1]]
    for stage in (0, 1):
        a, b = weights(tmp_path / "with-2", two, stage), weights(tmp_path / "with-1", one, stage)
        assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)
    assert two["stages"][2]["notes"] == one["stages"][2]["notes"] == ["sees []"]
    assert len({report["stages"][2]["outputs"]["model"]["sha256"] for report in (one, two)}) == 1, "trained by one process in both"


def test_an_error_of_another_process_ends_all_with_one_message(start):
    done, report = start(TOYS, 2, "--set", "stages.shared.with.end=error")
    assert statuses(report) == ["ran", "failed", "skipped"] and report["stages"][1]["error"].startswith(
        "stage shared: ValueError: out of luck in 1"
    )
    ours, _, of_torchrun = done.stderr.partition("torch/distributed/elastic")
    assert ours.count("stage shared: ValueError: out of luck in 1\nhint: the traceback is in ") == 1 and "Traceback" not in ours
    assert "toy_shared.py" in Path(ours.partition("the traceback is in ")[2].splitlines()[0]).read_text()
    assert "exitcode  : 5" in root_cause(of_torchrun)


def test_an_error_of_all_is_said_once(start):
    done, report = start(TOYS, 2, "--set", "stages.shared.with.end=refused by all")
    assert statuses(report) == ["ran", "failed", "skipped"] and done.stderr.count("shared: refused\nhint: try again\n") == 1
    assert "exitcode  : 2" in root_cause(done.stderr)


def test_an_error_before_the_first_stage_is_said_once(start):
    done, report = start(TOYS, 2, "--set", "stages.shared.with.ende=well")
    assert not report and done.stderr.count("hint: ") == 1 and "exitcode  : 2" in root_cause(done.stderr)


def test_a_killed_process_ends_the_others_and_the_next_run_goes_on(start):
    begin = time.monotonic()
    done, _ = start(TOYS, 2, "--set", "stages.shared.with.end=killed")
    assert done.returncode != 0 and time.monotonic() - begin < 60
    done, report = start(TOYS, 2)
    assert done.returncode == 0 and statuses(report) == ["restored", "ran", "ran"], done.stdout + done.stderr
    done, report = start(TOYS, 2, "--force", "shared", "--set", "stages.second.gates.0.at_least=40")
    assert statuses(report) == ["restored", "ran", "restored"], done.stdout + done.stderr
    assert done.stderr.count("is not met") == 1 and "exitcode  : 3" in root_cause(done.stderr)


def root_cause(of_torchrun: str) -> str:
    """What torchrun says of the process that failed first."""
    return of_torchrun.partition("Root Cause")[2]
