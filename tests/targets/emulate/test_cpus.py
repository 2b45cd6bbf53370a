from __future__ import annotations

import pytest

from pipeline.errors import UsageError
from pipeline.target import known_targets, load_target
from targets.emulate.cpus import MODELS, STAND_INS, cpu_model


def test_cores_without_a_model_get_the_nearest():
    assert cpu_model("cortex-a76").name == cpu_model("carmel").name == "cortex-a76"
    assert cpu_model("cortex-a72").name == "cortex-a72"
    assert set(STAND_INS.values()) <= set(MODELS)
    assert not set(STAND_INS) & set(MODELS)


def test_the_dot_product_is_where_the_core_has_it():
    assert cpu_model("cortex-a76").dotprod
    assert not cpu_model("cortex-a72").dotprod


def test_an_unknown_core_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"emulate: no emulated CPU stands for 'cortex-a67'\nhint: did you mean 'cortex-a"):
        cpu_model("cortex-a67")


@pytest.mark.parametrize("name", known_targets())
def test_every_arm_target_has_one(name: str):
    cpu = load_target(name).cpu
    if cpu.triple.startswith("aarch64"):
        model = cpu_model(cpu.mcpu)
        assert model.dotprod or "+dotprod" not in cpu.features


def test_what_the_guest_reads():
    text = cpu_model("cortex-a72").cpuinfo(cores=3)
    assert text.count("processor\t:") == 3
    assert "CPU part\t: 0xd08" in text
    assert "asimddp" not in text
