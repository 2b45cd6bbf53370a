"""What the rounds of a rung share, and what they do not."""

import pytest
import torch

from prune.config import PruneConfig, Recovery
from prune.importance import BATCHES, ranking
from prune.ladder import share_of
from tests.quantize.toys import pairs, student


def recovery(**train):
    return Recovery.model_validate({"train": train})


@pytest.mark.parametrize(("steps", "rounds", "shares"), [(7, 3, [2, 2, 3]), (300, 1, [300]), (6, 6, [1] * 6), (1, 2, [1, 1])])
def test_the_rounds_share_all_steps(steps, rounds, shares):
    found = [share_of(recovery(steps=steps), r, rounds, 5).train for r in range(1, rounds + 1)]
    assert [t.steps for t in found] == shares
    assert [t.seed for t in found] == [5 + r for r in range(rounds)], "each sees crops that the others did not"
    assert share_of(recovery(steps=steps, seed=9), rounds, rounds, 5).train.seed == 8 + rounds


def test_more_rounds_than_steps_are_refused():
    with pytest.raises(ValueError, match=r"rounds 4 cannot share recover\.train\.steps 3"):
        PruneConfig.model_validate({"rounds": 4, "recover": {"train": {"steps": 3}}})


@pytest.mark.parametrize("steps", [2, BATCHES])
def test_taylor_takes_the_crops_of_the_first_phase(steps):
    patches = [{"from": 0, "crop": 32, "batch": 2}, {"from": 0.5, "crop": 64, "batch": 1}]
    scores = [
        ranking("taylor", pairs("train", 3), None, recovery(steps=steps, **train), 1)(student())
        for train in ({"patches": patches}, {"crop": 32, "batch": 2})
    ]
    assert scores[0].keys() == scores[1].keys() and all(torch.equal(scores[0][g], scores[1][g]) for g in scores[0])
