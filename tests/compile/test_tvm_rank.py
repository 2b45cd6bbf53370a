"""Tile sizes ranked by instructions that an emulated core executes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compile.tvm import rank
from compile.tvm.cpu import IN_ORDER, Cpu, cpu_of
from compile.tvm.kernels.conv import Conv, Tile
from compile.tvm.kernels.depthwise import Depthwise
from compile.tvm.tiles import SHIPPED, Tiles, class_of, shape_of
from targets.emulate.counting import missing
from tests.compile.emulated import target

ARM = Cpu("cortex-a76", "sdot", 4, 32, "int8", by_lane=True, half=True)


def dense(cpu: Cpu, kernel: int, vectors: int) -> Conv:
    return next(s for s in rank.specs(cpu) if isinstance(s, Conv) and (s.kernel, s.outputs) == (kernel, vectors * 4))


def test_every_class_has_a_shape_and_tiles_that_fit():
    found = {class_of(s, ARM): rank.candidates(ARM, s) for s in rank.specs(ARM)}
    assert len(found) == 3 * (2 * len(rank.VECTORS) + 1)
    assert {"int8 1x1 of 4", "float16 kxk of 12", "float32 depthwise"} <= set(found)
    assert all(len(tiles) > 3 for tiles in found.values())
    assert all(t.pixels * t.vectors < ARM.registers for tiles in found.values() for t in tiles)
    assert "float16 1x1 of 4" not in {class_of(s, replace(ARM, half=False)) for s in rank.specs(replace(ARM, half=False))}


def test_a_shape_comes_before_its_class_and_the_rule_after_it():
    conv = dense(ARM, 3, 4)
    rule, counted, measured = Tiles(ARM).dense(conv), Tile(5, 1), Tile(7, 1)
    assert Tiles(ARM, {class_of(conv, ARM): counted}).dense(conv) == counted
    assert Tiles(ARM, {class_of(conv, ARM): counted, shape_of(conv): measured}).dense(conv) == measured
    assert Tiles(ARM, {"int8 1x1 of 4": counted}).dense(conv) == rule
    widths = {w: replace(conv, finish=replace(conv.finish, out=replace(conv.finish.out, width=w))) for w in (4, 10, 16, 36)}
    chosen = {w: Tiles(ARM, {class_of(conv, ARM): counted}).dense(narrow) for w, narrow in widths.items()}
    assert chosen == {4: Tiles(ARM).dense(widths[4]), 10: counted, 16: rule, 36: counted}


def test_of_equals_the_tile_of_most_sums_is_taken():
    assert rank.fewest({Tile(4, 2): 1.0, Tile(4, 4): 1.01, Tile(8, 2): 1.015, Tile(6, 4): 1.03}) == Tile(4, 4)
    assert rank.fewest({Tile(4, 2): 1.0, Tile(6, 4): 1.03}) == Tile(4, 2)


def test_shipping_keeps_what_was_measured_and_says_what_was_counted(tmp_path: Path):
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"a": {"int8 1x1s1 8-8 w4": [1, 2], "int8 1x1 of 2": [9, 9]}, "evidence": {"z": "time"}}))
    rank.ship(path, "a", {"int8 kxk of 4": Tile(4, 4)}, ["b"])
    assert json.loads(path.read_text()) == {
        "a": {"int8 1x1s1 8-8 w4": [1, 2], "int8 kxk of 4": [4, 4]},
        "b": {"int8 kxk of 4": [4, 4]},
        "evidence": {"a": "instructions, emulated", "b": "instructions, emulated, of a", "z": "time"},
    }


def test_of_a_core_that_executes_in_order_a_count_is_said_to_say_less(tmp_path: Path):
    rank.ship(tmp_path / "tiles.json", "cortex-a53", {"int8 kxk of 4": Tile(4, 4)}, ["cortex-a35", "cortex-a72"])
    evidence = json.loads((tmp_path / "tiles.json").read_text())["evidence"]
    assert evidence["cortex-a53"] == f"instructions, emulated; {rank.ORDER_MATTERS}"
    assert evidence["cortex-a35"] == f"instructions, emulated, of cortex-a53; {rank.ORDER_MATTERS}"
    assert evidence["cortex-a72"] == "instructions, emulated, of cortex-a53"


def test_every_board_with_an_arm_core_has_counted_tiles():
    content = json.loads(SHIPPED.read_text())
    for core in ("cortex-a53", "cortex-a55", "cortex-a57", "cortex-a72", "cortex-a76", "cortex-a78", "cortex-a78ae", "carmel"):
        assert content["evidence"][core].startswith(rank.EVIDENCE)
        assert (rank.ORDER_MATTERS in content["evidence"][core]) is (core in IN_ORDER)
        assert {"int8 1x1 of 4", "int8 kxk of 12", "float32 1x1 of 3", "int8 depthwise"} <= set(content[core])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "features", "multiply", "each", "most"),
    [("cortex-a76", ("+dotprod",), "dot", 16, 0.12), ("carmel", (), "widening", 8, 0.25), ("cortex-a72", (), "widening", 8, 0.25)],
)
def test_a_shipped_tile_executes_little_more_than_it_must(core: str, features: tuple[str, ...], multiply: str, each: int, most: float):
    if missing():
        pytest.skip(f"needs counting: {missing()}")
    built_for: Any = target(core, *features)
    cpu = cpu_of(built_for)
    spec = dense(cpu, 3, 4)
    found = rank.count(spec, cpu, built_for, Tiles.shipped(cpu).dense(spec))
    assert found[multiply] == pytest.approx(1 / each, rel=0.01)
    assert sum(found.values()) < most, found
    spilling = rank.count(spec, cpu, built_for, Tile(10, 4))  # more sums than registers
    assert sum(spilling.values()) > 1.1 * sum(found.values())


@pytest.mark.slow
def test_a_depthwise_convolution_can_be_counted():
    if missing():
        pytest.skip(f"needs counting: {missing()}")
    built_for: Any = target("cortex-a76", "+dotprod")
    cpu = cpu_of(built_for)
    spec = next(s for s in rank.specs(cpu) if isinstance(s, Depthwise))
    found = rank.count(spec, cpu, built_for, Tile(2, 1))
    assert found["dot"] == pytest.approx(3 / 4 / 9, rel=0.01)  # of 9 taps: 3 columns, each a word for 4 channels
