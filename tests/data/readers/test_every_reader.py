"""What holds for every reader in ``data/readers``, whatever its layout."""

import importlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from pipeline.contract import PairSource, Problem, ReaderSpec
from pipeline.errors import UsageError
from pipeline.plan import known_readers
from tests.data.readers.layouts import EXAMPLES

READERS = known_readers()
WITH_FILES = [name for name in READERS if name != "samples"]


def module(name):
    return importlib.import_module(f"data.readers.{name}")


def build(name, base, changed=False):
    base.mkdir()
    return base, EXAMPLES[name](base, changed)


def opened(name, base, options):
    reader = module(name).READER
    return reader.open(reader.config(**options), base, 1)


def equal(a, b):
    return np.array_equal(a.lq, b.lq) and np.array_equal(a.gt, b.gt) and (a.name, a.scene) == (b.name, b.scene)


def test_every_reader_has_an_example():
    assert sorted(EXAMPLES) == READERS


@pytest.mark.parametrize("name", READERS)
def test_options_are_described_and_no_others_are_taken(name):
    reader = module(name).READER
    assert isinstance(reader, ReaderSpec)
    assert all(field.description for field in reader.config.model_fields.values())
    assert reader.config.model_config["frozen"]
    with pytest.raises(ValidationError, match="Extra inputs"):
        reader.config(pathh="x")


@pytest.mark.parametrize("name", READERS)
def test_the_docstring_shows_yaml_that_the_reader_takes(name):
    shown = re.search(r"YAML: ``(\{.*?\})``", module(name).__doc__)
    options = yaml.safe_load(shown[1])
    assert options.pop("source") == name
    module(name).READER.config(**options)


@pytest.mark.parametrize("name", READERS)
def test_pairs(name, tmp_path):
    source = opened(name, *build(name, tmp_path / "one"))
    assert isinstance(source, PairSource)
    pairs = [source[i] for i in range(len(source))]
    assert len(pairs) >= 2
    for pair in pairs:
        assert pair.lq.dtype == pair.gt.dtype == np.uint8
        assert pair.lq.shape == pair.gt.shape
        assert pair.lq.shape[2] == 3
        assert pair.lq.flags.c_contiguous
        assert not np.array_equal(pair.lq, pair.gt)
    names = [pair.name for pair in pairs]
    assert len(set(names)) == len(names)
    assert not any("/" in n for n in names)
    assert {pair.scene for pair in pairs} == set(source.scenes())
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in source.scenes().values())
    assert "" not in source.scenes()


@pytest.mark.parametrize("name", READERS)
def test_same_bytes_in_any_order_and_in_a_copy(name, tmp_path):
    source = opened(name, *build(name, tmp_path / "one"))
    forwards = [source[i] for i in range(len(source))]
    copy = pickle.loads(pickle.dumps(source))
    assert all(equal(source[i], forwards[i]) for i in reversed(range(len(source))))
    assert all(equal(copy[i], forwards[i]) for i in reversed(range(len(source))))
    assert copy.digest() == source.digest()


@pytest.mark.parametrize("name", READERS)
def test_outside_the_range(name, tmp_path):
    source = opened(name, *build(name, tmp_path / "one"))
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=f"pair {index} of {len(source)}"):
            source[index]


@pytest.mark.parametrize("name", WITH_FILES)
def test_digest_follows_content_and_not_the_place(name, tmp_path):
    one, two, three = (
        opened(name, *build(name, tmp_path / n, changed)) for n, changed in (("one", False), ("two", False), ("three", True))
    )
    assert one.digest() == two.digest()
    assert one.digest() != three.digest()
    assert one.scenes() == two.scenes()


@pytest.mark.parametrize("name", READERS)
def test_inspecting_sound_data_gives_what_opening_gives(name, tmp_path):
    base, options = build(name, tmp_path / "one")
    reader = module(name).READER
    if reader.inspect is None:
        pytest.skip("reads no files of the user's")
    source, problems = reader.inspect(reader.config(**options), base, 1)
    assert list(problems) == []
    assert source.digest() == opened(name, base, options).digest()


@pytest.mark.parametrize("name", WITH_FILES)
def test_nothing_there(name, tmp_path):
    options = EXAMPLES[name](tmp_path / "elsewhere") if name != "list" else {"path": "list.txt"}
    reader = module(name).READER
    with pytest.raises(UsageError) as caught:
        opened(name, tmp_path, options)
    assert str(tmp_path) in caught.value.where
    assert "exist" in caught.value.what
    assert caught.value.hint
    source, problems = reader.inspect(reader.config(**options), tmp_path, 1)
    assert source is None
    assert list(problems) == [Problem(caught.value.where, caught.value.what)]


def test_declaring_the_readers_imports_nothing_heavy():
    code = "from pipeline.plan import known_readers, load_reader\nimport sys\n[load_reader(n, n) for n in known_readers()]\n"
    code += "print({'cv2', 'torch', 'PIL', 'skimage', 'lmdb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
