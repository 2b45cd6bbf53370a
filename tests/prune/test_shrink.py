import pytest

from prune.groups import Graph, Group
from prune.shrink import partway, rounded, table, uniform, widths
from tests.quantize.toys import student


@pytest.mark.parametrize("multiple", [4, 8, 16])
def test_widths_are_multiples_of_what_the_target_asks_for(multiple):
    groups = Graph(student(widths=[32, 48, 64], depths=[1, 2, 2], decoder_depths=[1, 1])).groups
    plan = uniform(groups, 0.3, multiple)
    assert all(w % multiple == 0 for w in plan.values())
    assert all(1 - plan[g.name] / g.width >= 0.3 for g in groups if g.width > multiple)


@pytest.mark.parametrize(
    ("width", "surplus", "left"),
    [(32, 6.4, 24), (192, 38.4, 152), (96, 24, 72), (8, 4, 8), (12, 6, 8), (32, 0, 32), (20, 0, 20), (32, 31, 8)],
)
def test_what_is_left_is_rounded_down_to_a_multiple_but_never_to_nothing(width, surplus, left):
    assert rounded(width, surplus, 8) == left


def test_rounds_approach_the_plan_and_end_on_it():
    groups = [Group("a", 96, ("a",)), Group("b", 20, ("b",)), Group("c", 16, ("c",))]
    plan = {"a": 40, "b": 8, "c": 16}
    steps = [partway(groups, plan, share, 8) for share in (1 / 3, 2 / 3, 1.0)]
    assert [s["a"] for s in steps] == [80, 64, 40]
    assert [s["b"] for s in steps] == [16, 16, 8], "no round removes more than its share"
    assert {s["c"] for s in steps} == {16}


def test_the_table_names_every_layer():
    assert table({"a": 24, "b": 8}, {"a": 16, "b": 8}) == "channels a 24→16, b 8"


def test_widths_are_those_of_every_convolution():
    assert widths(student())["head"] == 12
