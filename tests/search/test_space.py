from __future__ import annotations

import pytest
from optuna.trial import FixedTrial

from models.student.config import StudentConfig
from pipeline.errors import UsageError
from pipeline.target import load_target
from pipeline.yamlfile import validate
from search.space import SearchSpace, in_short, student_keys, suggest

KINDS = ("fused", "inverted_residual")


def exact(params: dict, **kept) -> dict:
    return StudentConfig.model_validate(student_keys(params, kept, 8)).exact().model_dump()


def params(growth: str, kinds: list[str], **changes) -> dict:
    found = {"width": 16, "growth": growth, "decoder_depth": 1, "unshuffle": 2, "kernel": 3, "se": 1, "activation": "relu"}
    for scale, kind in enumerate(kinds):
        found |= {f"depth_{scale}": 1, f"block_{scale}": kind}
    return found | {"prune": 0.2, "precision": "int8"} | changes


@pytest.mark.parametrize("kinds", [[a, b, c] for a in KINDS for b in KINDS for c in KINDS], ids="-".join)
def test_every_scale_gets_the_kind_that_was_picked_for_it(kinds: list[str]):
    network = exact(params("1-2-3", kinds))
    assert [scale[0]["kind"] for scale in network["encoder"]] == kinds
    assert [scale["blocks"][0]["kind"] for scale in network["decoder"]] == [kinds[1], kinds[0]]
    assert [scale[0]["width"] for scale in network["encoder"]] == [16, 32, 48]
    assert [scale[0]["hidden"] for scale in network["encoder"]] == [
        16 * (1 + (kinds[0] != "fused")),
        16 * (1 + (kinds[1] != "fused")),
        32 * (1 + (kinds[2] != "fused")),
    ]


def test_the_short_form_is_used_where_it_can_say_it():
    assert "network" not in student_keys(params("1-2-3", ["fused", "fused", "inverted_residual"]), {}, 8)
    assert list(student_keys(params("1-2-3", ["fused", "inverted_residual", "fused"]), {}, 8)) == ["network"]


@pytest.mark.parametrize("kinds", [["fused", "inverted_residual", "inverted_residual"], ["fused", "inverted_residual", "fused"]])
def test_keys_that_are_not_searched_stay(kinds: list[str]):
    network = exact(params("1-2-3", kinds, kernel=5), upsample="nearest", skip="concat")
    assert {scale["upsample"] for scale in network["decoder"]} == {"nearest"} and network["decoder"][0]["merge"] == 32
    assert {block["kernel"] for scale in network["encoder"] for block in scale} == {5}


@pytest.mark.parametrize(("se", "wanted"), [(0, [False, False]), (1, [False, True]), (2, [True, True]), (9, [True, True])])
def test_squeeze_and_excite_counts_from_the_coarsest_scale(se: int, wanted: list[bool]):
    network = exact(params("1-2", ["fused", "fused"], se=se))
    assert [bool(scale[0]["se"]) for scale in network["encoder"]] == wanted


@pytest.mark.parametrize(("width", "multiple", "wanted"), [(10, 8, [8, 16]), (3, 8, [8, 8]), (24, 32, [32, 32]), (17, 1, [17, 26])])
def test_widths_are_rounded_to_the_target_s_multiple(width: int, multiple: int, wanted: list[int]):
    assert student_keys(params("1-1.5", ["fused", "fused"], width=width), {}, multiple)["widths"] == wanted


def test_what_the_space_leaves_open_comes_from_the_target():
    target = load_target("jetson-xavier")
    space = SearchSpace().on(target, prune=True, quantize=True)
    assert (space.blocks, space.activation, space.precision) == (target.pays.blocks, target.pays.activation, ("int8", "float"))
    bare = SearchSpace(activation=("hardswish",)).on(target, prune=False, quantize=False)
    assert (bare.activation, bare.prune, bare.precision) == (("hardswish",), (0.0,), ("float",))
    floats = target.model_copy(update={"backends": (target.backends[0].model_copy(update={"precisions": ("fp16",)}),)})
    assert SearchSpace(precision=("int8",)).on(floats, prune=True, quantize=True).precision == ("float",)
    assert space.on(target, prune=True, quantize=True) == space


def test_a_trial_picks_every_dimension_and_says_so_in_one_line():
    space = SearchSpace().on(load_target("host"), prune=True, quantize=True)
    wanted = params("1-2-3", ["fused", "fused", "inverted_residual"])
    assert suggest(space, FixedTrial(wanted)) == wanted
    assert in_short(wanted) == "16x(1,2,3) depth 1,1,1+1 fused,fused,inverted k3 se1 relu unshuffle2 prune0.2 int8"
    assert in_short(wanted | {"prune": 0.0}).endswith("unshuffle2 unpruned int8")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"widht": [8]}, "space.yaml: widht: unknown key\nhint: did you mean 'width'?"),
        ({"width": []}, "space.yaml: width: tuple should have at least 1 item after validation, not 0 (got [])"),
        ({"kernel": [3, 4]}, "space.yaml: kernel.1: input should be 1, 3, 5 or 7 (got 4)"),
        ({"width": [8, 8]}, "width names a choice twice"),
        ({"prune": [1.0]}, "space.yaml: prune.0: input should be less than 1 (got 1.0)"),
        ({"growth": [[1]]}, "space.yaml: growth.0: tuple should have at least 2 items"),
        ({"latency_factor": float("nan")}, "space.yaml: latency_factor: input should be a finite number (got nan)"),
    ],
)
def test_a_wrong_space_is_refused_by_name(value: dict, message: str):
    with pytest.raises(UsageError) as e:
        validate(SearchSpace, value, "space.yaml")
    assert message in str(e.value)
