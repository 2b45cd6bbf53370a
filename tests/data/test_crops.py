import pickle
import threading

import numpy as np
import pytest

from data.crops import CACHE_BYTES, Augment, CropDataset, PairCache, Visits, fixed_batch
from data.readers.samples import SamplesConfig, SamplesSource
from pipeline.contract import Pair
from pipeline.errors import UsageError


class Numbered:
    """Pairs whose every pixel says where it is: red = row, green = column, blue = pair in lq, pair + 100 in gt."""

    def __init__(self, count=5, height=40, width=52):
        self.count, self.height, self.width = count, height, width
        self.reads = 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads += 1
        y, x = np.mgrid[: self.height, : self.width].astype(np.uint8)
        lq = np.dstack([y, x, np.full_like(y, index)])
        gt = np.dstack([y, x, np.full_like(y, index + 100)])
        return Pair(lq, gt, f"pair{index}", f"pair{index}")

    def digest(self):
        return "0" * 64

    def scenes(self):
        return {}


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def numbers(item):
    return [np.rint(x * 255).astype(int) for x in item]


def test_shape_type_and_range():
    lq, gt = CropDataset(Numbered(), 16, 1, 10)[3]
    for x in (lq, gt):
        assert (x.shape, x.dtype, x.flags["C_CONTIGUOUS"]) == ((3, 16, 16), np.float32, True)
        assert 0 <= x.min() <= x.max() <= 1


@pytest.mark.parametrize("k", range(12))
def test_pair_stays_aligned(k):
    lq, gt = numbers(CropDataset(Numbered(), 16, 1, 12)[k])
    assert np.array_equal(lq[:2], gt[:2])
    assert (gt[2] - lq[2] == 100).all()
    assert len(np.unique(lq[0])) == len(np.unique(lq[1])) == 16


def test_all_eight_orientations_appear():
    dataset = CropDataset(Numbered(), 16, 1, 200)
    seen = {
        (*np.sign(lq[:2, 0, 0] - lq[:2, 15, 15]), lq[0, 0, 0] == lq[0, 0, 1]) for lq, _ in map(numbers, (dataset[k] for k in range(200)))
    }
    assert len(seen) == 8


def test_without_augmentation_the_crop_is_upright():
    dataset = CropDataset(Numbered(), 16, 1, 20, Augment(hflip=False, vflip=False, rot90=False))
    for k in range(20):
        lq, _ = numbers(dataset[k])
        assert (np.diff(lq[0], axis=0) == 1).all()
        assert (np.diff(lq[1], axis=1) == 1).all()


def test_seed_and_k_decide_everything():
    dataset = CropDataset(Numbered(), 16, 1, 50)
    forward = [dataset[k] for k in range(50)]
    longer = CropDataset(Numbered(), 16, 1, 90)
    assert all(same(longer[k], forward[k]) for k in reversed(range(50)))
    assert not all(same(CropDataset(Numbered(), 16, 2, 50)[k], forward[k]) for k in range(50))
    assert not same(forward[0], forward[1])


def test_every_pair_comes_once_per_round():
    dataset = CropDataset(Numbered(), 16, 1, 20)
    rounds = [[numbers(dataset[k])[0][2, 0, 0] for k in range(r, r + 5)] for r in range(0, 20, 5)]
    assert all(sorted(r) == [0, 1, 2, 3, 4] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1


def test_crop_may_be_the_whole_image():
    assert CropDataset(Numbered(height=16, width=16), 16, 1, 1)[0][0].shape == (3, 16, 16)


def test_image_smaller_than_the_crop():
    with pytest.raises(UsageError) as caught:
        CropDataset(Numbered(count=1), 64, 1, 1)[0]
    what = "image 'pair0': is 52x40 pixels, smaller than the training crop of 64"
    assert str(caught.value) == f"{what}\nhint: set the crop to at most 40, or leave the image out"


def test_outside_the_length():
    dataset = CropDataset(Numbered(), 16, 1, 3)
    assert len(dataset) == 3
    for k in (-1, 3):
        with pytest.raises(IndexError, match=f"crop {k} of 3"):
            dataset[k]


def test_no_pairs():
    with pytest.raises(ValueError, match="no crops of 16 pixels from 0 pairs"):
        CropDataset(Numbered(count=0), 16, 1, 3)


def test_another_side_from_an_item_on():
    plain = CropDataset(Numbered(), 16, 1, 12)
    dataset = CropDataset(Numbered(), 16, 1, 12, crops=[(4, 24), (9, 32)])
    assert [dataset[k][0].shape[1] for k in range(12)] == [16] * 4 + [24] * 5 + [32] * 3
    assert [dataset.side(k) for k in (0, 3, 4, 8, 9, 11)] == [16, 16, 24, 24, 32, 32]
    assert all(same(dataset[k], plain[k]) for k in range(4))
    assert same(dataset[9], CropDataset(Numbered(), 32, 1, 12)[9])


def test_a_later_side_may_be_too_large_for_an_image():
    dataset = CropDataset(Numbered(), 16, 1, 4, crops=[(2, 64)])
    dataset[1]
    with pytest.raises(UsageError, match="smaller than the training crop of 64"):
        dataset[2]


@pytest.mark.parametrize(("crops", "said"), [([(4, 24), (2, 32)], "not in the order of k"), ([(4, 0)], "no crops of")])
def test_wrong_sides(crops, said):
    with pytest.raises(ValueError, match=said):
        CropDataset(Numbered(), 16, 1, 12, crops=crops)


def test_a_set_that_fits_into_memory_is_visited_once_a_round():
    assert Visits.of(100, CACHE_BYTES // 100, 99) == Visits(1, 0)
    assert Visits.of(101, CACHE_BYTES // 100, 99) == Visits(16, 4)
    assert [Visits(1, 0).place(k) for k in range(5)] == list(range(5))
    assert CropDataset(Numbered(), 16, 1, 1, cache_bytes=10).visits == Visits(1, 0)  # the items do not depend on the memory given


@pytest.mark.parametrize(
    ("height", "width", "side", "visits"),
    [
        (256, 256, 64, (16, 32)),
        (512, 512, 64, (16, 8)),
        (512, 512, 256, (4, 32)),
        (512, 512, 384, (1, 0)),
        (720, 1280, 64, (16, 4)),
        (720, 1280, 256, (8, 8)),
        (1080, 1920, 64, (16, 1)),
        (2160, 3840, 64, (4, 1)),
    ],
)
def test_visits_of_a_large_set_fit_into_memory_and_into_the_frame(height, width, side, visits):
    size, room = 2 * 3 * height * width, (height // side) * (width // side)
    found = Visits.of(100_000, size, room)
    assert (found.each, found.lag) == visits
    assert (found.each * found.lag + 1) * size <= CACHE_BYTES
    assert found.each <= max(1, room)


def test_frames_of_which_memory_holds_few_are_visited_once():
    assert Visits.of(100, CACHE_BYTES // 2, 99) == Visits(1, 0)


def test_a_side_of_later_items_counts():
    frames = Numbered(300_000)
    assert CropDataset(frames, 10, 1, 1).visits == Visits(16, 32)
    assert CropDataset(frames, 10, 1, 1, crops=[(5, 20)]).visits == Visits(4, 32)


def large(count=150):
    """A set that is treated as if it did not fit into memory: 8 * 4 + 1 pairs are held."""
    dataset = CropDataset(Numbered(count), 16, 1, 10_000, cache_bytes=33 * 2 * 40 * 52 * 3)
    dataset.visits = Visits(8, 4)
    return dataset


def test_a_large_set_is_decoded_once_for_eight_crops():
    dataset = large()
    source = dataset._pairs.source
    for k in range(8 * 4):
        dataset[k]  # until the second lane reaches where the first began
    reads = []
    for k in range(8 * 4, 8 * 120):
        before = source.reads
        dataset[k]
        reads.append(source.reads - before)
    assert sum(reads) == 120 - 4
    assert all(sum(reads[i : i + 8]) == 1 for i in range(0, len(reads), 8))  # evenly: never two in one batch


def test_a_large_set_comes_evenly_and_mixed():
    dataset = large()
    met = [dataset.index(k) for k in range(8 * 150 * 3)]
    kinds = [len(set(met[i : i + 32])) for i in range(0, len(met), 32)]
    assert np.mean(kinds) > 31  # 32 where the order of one round does not meet that of the next
    counts = np.bincount(met, minlength=150)
    assert 3 * 8 - 8 <= counts.min() <= counts.max() <= 3 * 8 + 8
    batches = {tuple(sorted(met[i : i + 8])) for i in range(0, len(met), 8)}
    assert len(batches) == 150 * 3


def test_a_large_set_resumes_exactly():
    first = large()
    forward = [first[k] for k in range(200)]
    later = large()
    assert all(same(later[k], forward[k]) for k in range(120, 200))
    assert not same(forward[0], forward[8])


@pytest.mark.parametrize(("batch", "workers"), [(8, 2), (16, 2), (4, 8)])
def test_data_processes_share_the_pairs_of_a_large_set(batch, workers):
    """A process sees batches w, w + n, ...: a pair that it decoded comes back to it."""
    visits = Visits(8, 8)
    for worker in range(workers):
        met = [visits.place(k) for i in range(worker, 400, workers) for k in range(i * batch, (i + 1) * batch)]
        lanes = len({k % 8 for i in range(worker, 400, workers) for k in range(i * batch, (i + 1) * batch)})
        assert len(set(met)) < len(met) / lanes * 1.25


def test_fixed_batch_stacks_items():
    dataset = CropDataset(Numbered(), 16, 1, 10)
    lq, gt = fixed_batch(dataset, 4, start=3)
    assert lq.shape == gt.shape == (4, 3, 16, 16)
    assert same((lq[2], gt[2]), dataset[5])


def test_cache_reads_once_and_keeps_to_its_limit():
    source = Numbered()
    size = 2 * 40 * 52 * 3
    cache = PairCache(source, limit=2 * size)
    for index in (0, 1, 0, 1, 0):
        assert cache[index].name == f"pair{index}"
    assert (source.reads, cache.bytes) == (2, 2 * size)
    cache[2]  # drops pair 1, the least recently used
    assert cache.bytes == 2 * size
    cache[0]
    assert source.reads == 3
    cache[1]
    assert source.reads == 4


def test_cache_smaller_than_a_pair_keeps_nothing():
    cache = PairCache(Numbered(), limit=10)
    assert cache[0].name == "pair0"
    assert cache.bytes == 0


def test_many_threads_get_the_same_crops():
    dataset = CropDataset(Numbered(), 16, 1, 64, cache_bytes=30_000)
    expected, results = [dataset[k] for k in range(64)], {}

    def work(start):
        results.update({k: dataset[k] for k in range(start, 64, 4)})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(results[k], expected[k]) for k in range(64))
    assert dataset._pairs.bytes <= 30_000


def test_pickled_copy_gives_the_same_crops_and_starts_with_an_empty_cache():
    dataset = CropDataset(SamplesSource(SamplesConfig(split="train", count=3, size=96), 1), 32, 1, 4)
    expected = [dataset[k] for k in range(4)]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._pairs.bytes == 0
    assert all(same(copy[k], expected[k]) for k in range(4))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_works_in_a_data_loader_with_workers(start):
    torch = pytest.importorskip("torch")
    dataset = CropDataset(SamplesSource(SamplesConfig(split="train", count=3, size=96), 1), 32, 1, 8)
    expected = fixed_batch(dataset, 8)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=start, timeout=60)
    lq, gt = (torch.cat(parts).numpy() for parts in zip(*loader, strict=True))
    assert same((lq, gt), expected)
