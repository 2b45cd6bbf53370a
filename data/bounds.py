"""Ranges in configurations: [least, most]."""

from __future__ import annotations


def ordered(pair: tuple[float, float]) -> tuple[float, float]:
    """``pair`` itself; ValueError where its bounds are the wrong way round."""
    if pair[0] > pair[1]:
        raise ValueError(f"the lower bound {pair[0]:g} is above the upper bound {pair[1]:g}")
    return pair
