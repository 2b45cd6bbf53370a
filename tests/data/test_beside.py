"""What stands beside the images, e.g. a teacher's answers, is cut in step with the crops."""

from __future__ import annotations

import numpy as np
import pytest

from data.crops import Augment, CropDataset
from tests.data.test_crops import Numbered


class Answers:
    """The red and green of ``Numbered``'s pixels, and those of every fourth row and column."""

    align = 4

    def cut(self, index, top, left, side):
        y, x = np.mgrid[top : top + side, left : left + side].astype(np.uint8)
        whole = np.dstack([y, x, np.full_like(y, index)])
        return [whole, whole[::4, ::4]]


@pytest.mark.parametrize("k", range(16))
def test_what_stands_beside_is_cut_turned_and_mirrored_in_step(k):
    plain = np.rint(CropDataset(Numbered(), 16, 1, 16)[k][0] * 255).astype(int)
    lq, gt, whole, coarse = CropDataset(Numbered(), 16, 1, 16, beside=Answers())[k]
    lq = np.rint(lq * 255).astype(int)
    assert np.array_equal(lq, whole)
    assert lq[0].min() % 4 == lq[1].min() % 4 == 0
    assert np.array_equal(np.sort(np.unique(coarse[0])), np.arange(lq[0].min(), lq[0].max(), 4))
    rows = [np.unique(coarse[0][i]).size for i in range(4)]
    assert (rows == [1] * 4) == (len(np.unique(lq[0][0])) == 1)  # turned alike
    assert lq[0].min() == plain[0].min() // 4 * 4  # the same window, moved to the grid
    assert whole.flags["C_CONTIGUOUS"] and coarse.shape == (3, 4, 4)


@pytest.mark.parametrize("changes", [{"noise": (0.0, 0.1)}, {"scale": (0.5, 1)}, {"channel_shuffle": True}, {"jitter": {"contrast": 0.1}}])
def test_what_stands_beside_cannot_follow_more_than_turns(changes):
    with pytest.raises(ValueError, match=f"cannot follow the augmentation's {next(iter(changes))}"):
        CropDataset(Numbered(), 16, 1, 4, Augment.model_validate(changes), beside=Answers())
