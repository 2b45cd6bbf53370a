import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from models import checkpoint
from models.arch import build, load_arch
from models.weights import WRAPPERS, has_header, load_weights, name_forms, read_state
from pipeline.errors import UsageError
from tests.models.helpers import image, lively, small

STATE = {"intro.weight": torch.rand(2, 3, generator=torch.Generator().manual_seed(0)), "body.0.bias": torch.arange(2.0)}


def fresh(name):
    return build(name, load_arch(name).small).eval()


def refused(path):
    with pytest.raises(UsageError) as e:
        read_state(path)
    assert e.value.where == str(path)
    assert len(str(e.value).splitlines()) == 2
    return e.value


def same(found, wanted=None):
    wanted = STATE if wanted is None else wanted
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


class TestReading:
    @pytest.mark.parametrize("wrapper", [*WRAPPERS, "weights", ""])
    @pytest.mark.parametrize("modern", [True, False])
    def test_the_weights_lie_under_any_name(self, wrapper, modern, tmp_path):
        content = {wrapper: STATE, "optimizer": {"state": {0: {"step": 3}}}, "epoch": 3} if wrapper else OrderedDict(STATE)
        torch.save(content, tmp_path / "w.h5", _use_new_zipfile_serialization=modern)
        assert same(read_state(tmp_path / "w.h5"))

    def test_the_averaged_ones_come_first_and_one_may_lie_in_another(self, tmp_path):
        other = {name: tensor + 1 for name, tensor in STATE.items()}
        torch.save({"model": {"params": other, "params_ema": STATE}, "generator": other}, tmp_path / "w.pth")
        assert same(read_state(tmp_path / "w.pth"))

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt", ""])
    def test_the_content_says_what_a_file_is(self, suffix, tmp_path):
        save_file(STATE, tmp_path / f"a{suffix}")
        torch.save(STATE, tmp_path / f"b{suffix}")
        assert same(read_state(tmp_path / f"a{suffix}"))
        assert same(read_state(tmp_path / f"b{suffix}"))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions_become_float32(self, dtype, tmp_path):
        stored = {name: tensor.to(dtype) for name, tensor in STATE.items()}
        torch.save(stored, tmp_path / "w.pth")
        found = read_state(tmp_path / "w.pth")
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        assert same(found, {name: tensor.float() for name, tensor in stored.items()})

    def test_counters_are_dropped_and_parameters_are_plain_tensors(self, tmp_path):
        counters = {"a.num_batches_tracked": torch.tensor(7), "n_averaged": torch.tensor(3)}
        torch.save({**{name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()}, **counters}, tmp_path / "w.pth")
        found = read_state(tmp_path / "w.pth")
        assert same(found)
        assert not any(tensor.requires_grad for tensor in found.values())

    @pytest.mark.parametrize("modern", [True, False])
    def test_training_states_hold_numbers_of_numpy(self, modern, tmp_path):
        numbers = {"psnr": np.float64(31.5), "loss": np.float32(0.1), "epoch": np.int64(7), "best": np.bool_(True)}
        content = {"model": STATE, **numbers, "curve": np.arange(3.0), "name": np.str_("deblur")}
        torch.save(content, tmp_path / "w.pkl", _use_new_zipfile_serialization=modern)
        assert same(read_state(tmp_path / "w.pkl"))

    def test_those_of_numpy_1_too(self, tmp_path):
        torch.save({"model": STATE, "psnr": np.float64(31.5)}, tmp_path / "w.pkl", _use_new_zipfile_serialization=False)
        content = (tmp_path / "w.pkl").read_bytes()
        assert b"numpy._core.multiarray" in content
        (tmp_path / "w.pkl").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        assert same(read_state(tmp_path / "w.pkl"))

    def test_names_lose_what_all_of_them_begin_with(self):
        forms = [list(form) for form in name_forms({"module.generator.a.weight": 1, "module.generator.b.bias": 2})]
        assert forms == [
            ["module.generator.a.weight", "module.generator.b.bias"],
            ["generator.a.weight", "generator.b.bias"],
            ["a.weight", "b.bias"],
        ]
        assert [list(form) for form in name_forms({"module.a": 1, "b": 2})] == [["module.a", "b"]]
        assert list(name_forms({"a": 1})) == [{"a": 1}]


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


class TestRefusing:
    @pytest.mark.parametrize("content", [{"params": Trap()}, {**STATE, "trap": Trap()}, {"model": STATE, "psnr": [np.float64(1), Trap()]}])
    def test_no_pickle_is_executed(self, content, tmp_path):
        for modern in (True, False):
            torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=modern)
            error = refused(tmp_path / "w.pth")
            assert error.what == "needs the Python code 'exec' to be read, and code in a file is never run"
            assert error.hint == "where it was made, write its weights alone: torch.save(model.state_dict(), 'weights.pth')"
        (tmp_path / "w.pth").write_bytes(pickle.dumps(content, protocol=2))
        assert "to be read, and code in a file is never run" in refused(tmp_path / "w.pth").what

    def test_the_traps_are_live(self, tmp_path):
        torch.save({"params": Trap()}, tmp_path / "w.pth")
        with pytest.raises(SystemExit, match="executed"):
            torch.load(tmp_path / "w.pth", weights_only=False)

    def test_whole_networks_are_named(self, tmp_path):
        torch.save(small("nafnet"), tmp_path / "w.pth")
        assert "needs the Python code 'models.nafnet.network.NAFNet' to be read" in refused(tmp_path / "w.pth").what

    @pytest.mark.parametrize(
        ("content", "what", "hint"),
        [
            (b"", "is empty", "download or copy the file again"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer", "git lfs pull"),
            (b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file", "PyTorch"),
            (b'model_checkpoint_path: "deblur.model-523000"\n', "belongs to a TensorFlow checkpoint", "PyTorch"),
            (bytes(100) + bytes.fromhex("57fb808b247547db"), "belongs to a TensorFlow checkpoint", "PyTorch"),
            (b"\n<!DOCTYPE html><html>Google Drive - Virus scan warning", "is a web page", "open the link in a browser"),
            (b'{"error": "not found"}', 'is a text file, not weights (it begins with \'{"error": "not found"}\')', "again"),
            ("Für Gewichte siehe unten. ".encode() * 30, "is a text file, not weights (it begins with 'Für", "again"),
            (b"\x1f\x8b\x08" + bytes(64), "is a gzip archive", "unpack it"),
            (b"Rar!\x1a\x07\x01", "is a RAR archive", "unpack it"),
            (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it"),
            (b"\x08\x07\x12\x07pytorch", "is no file of weights (it begins with 08 07 12 07 70 79 74 6f)", "torch.save"),
            (pickle.dumps({"a": 1}, protocol=4), "is a pickle that torch.save did not write", "torch.save(model.state_dict()"),
            (pickle.dumps({"a": "some text"}, protocol=2)[:-4], "is damaged or cut off", "again"),
        ],
    )
    def test_other_kinds_of_files_are_named(self, content, what, hint, tmp_path):
        (tmp_path / "w.pth").write_bytes(content)
        error = refused(tmp_path / "w.pth")
        assert error.what.startswith(what)
        assert hint in error.hint

    def test_checkpoints_of_tensorflow_are_known_by_their_names_too(self, tmp_path):
        for name in ("deblur.model-523000.data-00000-of-00001", "deblur.model-523000.meta", "deblur.model-523000.index"):
            (tmp_path / name).write_bytes(b"\x00\x01\x02")
            assert refused(tmp_path / name).what == "belongs to a TensorFlow checkpoint"
        assert refused(tmp_path / "deblur.model-523000").what == "belongs to a TensorFlow checkpoint"

    @pytest.mark.filterwarnings("ignore")
    def test_torchscript_is_named(self, tmp_path):
        torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 2, 2)), tmp_path / "w.pth")
        error = refused(tmp_path / "w.pth")
        assert error.what == "is a TorchScript archive: a program, which is never run"
        assert "torch.save(torch.jit.load(file).state_dict(), 'weights.pth')" in error.hint

    def test_other_archives_are_named(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("NAFNet.pth", b"1")
        error = refused(tmp_path / "w.pth")
        assert error.what == "is a zip archive without weights of PyTorch (it holds NAFNet.pth)"
        assert error.hint == "unpack it and give the file of weights that is in it"

    def test_a_folder_and_nothing_are_named(self, tmp_path):
        assert refused(tmp_path).what == "is a folder"
        assert refused(tmp_path / "none.pth").what == "no such file"


class TestDamage:
    def test_a_zip_that_is_cut_off(self, tmp_path):
        torch.save(STATE, tmp_path / "w.pth")
        content = (tmp_path / "w.pth").read_bytes()
        (tmp_path / "w.pth").write_bytes(content[:1000])
        assert refused(tmp_path / "w.pth").what == "is cut off: the archive has no end after 1000 bytes"

    def test_a_single_wrong_byte_in_a_zip(self, tmp_path):
        torch.save({"a": torch.full((1000,), 1.5)}, tmp_path / "w.pth")
        content = bytearray((tmp_path / "w.pth").read_bytes())
        content[content.index(struct.pack("<f", 1.5) * 10) + 100] ^= 1
        (tmp_path / "w.pth").write_bytes(content)
        assert refused(tmp_path / "w.pth").what.startswith("is damaged: the archive cannot be unpacked (Bad CRC-32 for file")

    def test_archives_written_without_checksums_are_read(self, tmp_path):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(STATE, tmp_path / "w.pth")
        finally:
            torch.serialization.set_crc32_options(True)
        assert same(read_state(tmp_path / "w.pth"))

    def test_older_files_and_safetensors_that_are_cut_off(self, tmp_path):
        torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
        (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-4])
        assert refused(tmp_path / "w.pth").what.startswith("is damaged or cut off (RuntimeError: unexpected EOF")
        (tmp_path / "w.safetensors").write_bytes(save(STATE)[:-4])
        assert refused(tmp_path / "w.safetensors").what.startswith("is a damaged safetensors file (")

    @pytest.mark.parametrize("modern", [True, False])
    def test_whatever_is_broken_the_message_is_one(self, modern, tmp_path):
        torch.save({"model": STATE}, tmp_path / "w.pth", _use_new_zipfile_serialization=modern)
        content, path, rng = (tmp_path / "w.pth").read_bytes(), tmp_path / "x.pth", random.Random(0)
        told = 0
        for _ in range(200):
            broken = bytearray(content)
            for _ in range(rng.choice((1, 3, 20))):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            path.write_bytes(broken)
            try:
                read_state(path)
            except UsageError as e:
                told += len(str(e).splitlines()) == 2
        assert told > 100


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"params": {}}, "it holds no weights by name (it holds 'params')"),
        ({"epoch": 3, "best": 1.0}, "it holds no weights by name (it holds 'epoch', 'best')"),
        ({}, "it holds no weights by name (it holds nothing)"),
        ([torch.zeros(1)], "it holds no weights by name (it holds 'list')"),
        ({"netG": STATE, "netD": STATE}, "it holds several sets of weights: 'netG', 'netD'"),
    ],
)
def test_files_without_one_set_of_weights(content, what, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    assert refused(tmp_path / "w.pth").what == what


def test_a_pickle_that_holds_itself_ends(tmp_path):
    content: dict = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    assert refused(tmp_path / "w.pth").what == "it holds no weights by name (it holds 'epoch', 'model')"


class TestLoading:
    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
    @pytest.mark.parametrize("name", ["nafnet", "student"])
    def test_published_layouts(self, name, prefix, tmp_path):
        source, target = small(name), fresh(name)
        torch.save({"params": {prefix + key: tensor for key, tensor in source.state_dict().items()}}, tmp_path / "w.pth")
        load_weights(target, tmp_path / "w.pth")
        with torch.no_grad():
            assert torch.equal(target(image(16, 16)), source(image(16, 16)))

    def test_counters_of_batch_norm_may_be_missing(self, tmp_path):
        state = {k: v for k, v in small("student").state_dict().items() if not k.endswith("num_batches_tracked")}
        torch.save(state, tmp_path / "w.pth")
        load_weights(fresh("student"), tmp_path / "w.pth")

    def test_the_pipelines_own_checkpoint(self, tmp_path):
        source, target = small("student"), fresh("student")
        checkpoint.save(tmp_path / "w.safetensors", source, "student")
        load_weights(target, tmp_path / "w.safetensors")
        with torch.no_grad():
            assert torch.equal(target(image(16, 16)), source(image(16, 16)))

    def test_a_users_own_network_takes_its_own_names(self, tmp_path):
        path = "tests.models.test_imported:Mine"
        source, target = lively(build(path, {})), build(path, {})
        torch.save(source.network.state_dict(), tmp_path / "w.pth")
        load_weights(target, tmp_path / "w.pth")
        assert torch.equal(target(image(8, 8)), source(image(8, 8)))
        other = build(path, {})
        checkpoint.save(tmp_path / "w.safetensors", source, path)
        load_weights(other, tmp_path / "w.safetensors")
        assert torch.equal(other(image(8, 8)), source(image(8, 8)))

    def test_weights_that_do_not_fit(self, tmp_path):
        torch.save({"params": {"intro.weight": torch.zeros(1)}}, tmp_path / "w.pth")
        with pytest.raises(UsageError, match=r"tensor\(s\) missing.*\nhint: give the width and depth that the weights were trained with"):
            load_weights(fresh("nafnet"), tmp_path / "w.pth")


def test_only_the_pipelines_own_files_have_its_header(tmp_path):
    checkpoint.save(tmp_path / "own.safetensors", small("student"), "student")
    save_file(STATE, tmp_path / "plain.safetensors")
    save_file(STATE, tmp_path / "noted.safetensors", {"format": "pt"})
    torch.save(STATE, tmp_path / "w.pth")
    (tmp_path / "broken.safetensors").write_bytes(struct.pack("<Q", 50) + b"{" * 60)
    assert has_header(tmp_path / "own.safetensors")
    assert not any(
        has_header(tmp_path / name) for name in ("plain.safetensors", "noted.safetensors", "w.pth", "broken.safetensors", "none")
    )


def test_the_header_is_looked_at_without_torch(tmp_path):
    checkpoint.save(tmp_path / "own.safetensors", small("student"), "student")
    code = (
        "import sys; from pathlib import Path; from models.weights import has_header\n"
        f"sys.exit(not has_header(Path({str(tmp_path / 'own.safetensors')!r})) or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60).returncode == 0
