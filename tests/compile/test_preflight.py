from __future__ import annotations

import pytest

from compile.preflight import backends
from pipeline.errors import ToolchainMissing, UsageError
from pipeline.target import BackendChoice, Target


def with_backends(target: Target, *choices: BackendChoice) -> Target:
    return target.model_copy(update={"backends": choices})


def choice(use: str, **changes: object) -> BackendChoice:
    return BackendChoice.model_validate({"use": use, "runs_on": "cpu", "precisions": ["fp32"], **changes})


def test_installed_backends_are_no_problem(jetson: Target):
    assert backends(jetson) == []


def test_one_that_is_missing_is_told_with_its_install_line(jetson: Target):
    (problem,) = backends(with_backends(jetson, choice("onnxruntime"), choice("nowhere")))
    assert problem.where == "target jetson-xavier: backends.nowhere"
    assert problem.what == 'is not installed, so it is no candidate: pip install -e ".[all]"'


def test_none_at_all_is_a_missing_toolchain(jetson: Target):
    with pytest.raises(ToolchainMissing, match=r"none of its backends is installed \(nowhere\)\nhint: pip install"):
        backends(with_backends(jetson, choice("nowhere")))
    with pytest.raises(ToolchainMissing, match=r"it has none\)\nhint: name a backend in the target file"):
        backends(with_backends(jetson))


def test_only_those_that_the_stage_is_kept_to_are_asked(jetson: Target):
    target = with_backends(jetson, choice("onnxruntime"), choice("nowhere"))
    assert backends(target, ["onnxruntime"]) == []
    with pytest.raises(ToolchainMissing, match=r"none of its backends is installed \(nowhere\)"):
        backends(target, ["nowhere"])


def test_a_name_that_the_target_does_not_have_is_refused_as_the_stage_refuses_it(jetson: Target):
    with pytest.raises(UsageError, match=r"with.backends: target 'jetson-xavier' names no backend 'onnxruntim'\nhint: did you mean"):
        backends(jetson, ["onnxruntim"])


TRT = {"runs_on": "gpu", "precisions": ["fp16"], "version": "8.5.2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"dla": True}}, "its DLA takes no SpaceToDepth, DepthToSpace, hard-swish or pooling of the whole image"),
        ({"options": {"dla": True}, "precisions": ["int8"]}, "a DLA takes no Q/DQ nodes"),
        ({"options": {"workspace": 3}}, "unknown key"),
        ({"version": "8.6.1"}, "no commands for TensorRT '8.6.1'"),
        ({"version": ""}, "no commands for TensorRT ''"),
        ({"precisions": ["bf16"]}, "has no bf16"),
    ],
)
def test_what_tensorrt_refuses_is_known_before_training(jetson: Target, changes: dict, message: str):
    with pytest.raises(UsageError, match=message):
        backends(with_backends(jetson, choice("tensorrt", **{**TRT, **changes})))
