from __future__ import annotations

import pytest

from pipeline.target import load_target
from targets.published import PUBLISHED, espcn, frames_per_second, unet, vgg19


def gmacs(layers) -> float:
    return sum(x.macs for x in layers) / 1e9


def test_the_layer_lists_are_the_networks():
    assert gmacs(vgg19()) == pytest.approx(19.63, abs=0.02)  # Simonyan and Zisserman; 143.7 M parameters
    assert sum(x.weight_elements for x in vgg19()) / 1e6 == pytest.approx(143.65, abs=0.1)
    assert gmacs(unet(512)) / gmacs(unet(256)) == pytest.approx(4, abs=1e-6)
    assert sum(x.weight_elements for x in unet(512)) / 1e6 == pytest.approx(31.0, abs=0.1)
    assert gmacs(espcn()) == pytest.approx(481 * 321 * (1600 + 36864 + 18432 + 2592) / 1e9)


@pytest.mark.parametrize("network", PUBLISHED, ids=lambda n: n.name)
def test_the_estimate_for_the_xavier_nx_is_within_a_factor_of_two_of_the_published_throughput(network):
    assert 0.5 < frames_per_second(network, load_target("jetson-xavier-nx")) / network.fps < 2
