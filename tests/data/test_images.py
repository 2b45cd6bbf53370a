import numpy as np
import pytest

from data.images import check_rgb, image_size, list_images, one_thread, read_image, write_image
from pipeline.errors import UsageError
from tests.data.helpers import texture


def error(call, *args):
    with pytest.raises(UsageError) as caught:
        call(*args)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif"])
def test_lossless_round_trip(tmp_path, suffix):
    image = texture()
    path = tmp_path / "new" / f"a{suffix}"
    write_image(path, image)
    assert np.array_equal(read_image(path), image)
    assert image_size(path) == image.shape[:2]


def test_channels_are_red_green_blue(tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 2), (200, 100, 50)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [200, 100, 50]


def test_grey_alpha_and_16_bit_become_8_bit_rgb(tmp_path):
    from PIL import Image

    Image.new("L", (3, 2), 77).save(tmp_path / "grey.png")
    Image.new("RGBA", (3, 2), (1, 2, 3, 4)).save(tmp_path / "alpha.png")
    Image.fromarray(np.full((2, 3), 0x7F00, np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "grey.png")[0, 0].tolist() == [77, 77, 77]
    assert read_image(tmp_path / "alpha.png")[0, 0].tolist() == [1, 2, 3]
    assert read_image(tmp_path / "deep.png")[0, 0].tolist() == [0x7F, 0x7F, 0x7F]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_header_and_pixels_agree_on_a_turned_photograph(tmp_path, orientation, suffix):
    from PIL import Image

    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    image.save(path, exif=exif)
    assert image_size(path) == read_image(path).shape[:2]


def test_missing_file(tmp_path):
    path = tmp_path / "no.png"
    assert error(read_image, path) == error(image_size, path) == f"{path}: file does not exist\nhint: check the path"


def test_folder_instead_of_file(tmp_path):
    assert (
        error(read_image, tmp_path)
        == error(image_size, tmp_path)
        == f"{tmp_path}: cannot be opened (Is a directory)\nhint: check the path and its permissions"
    )


def test_empty_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert error(read_image, path) == error(image_size, path) == f"{path}: the file is empty\nhint: remove it or copy it again"


def test_file_that_is_no_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"not an image")
    expected = f"{path}: not a readable image\nhint: remove it or copy it again; readable are PNG, JPEG, BMP, TIFF and WebP"
    assert error(read_image, path) == error(image_size, path) == expected


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, texture(256, 256))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "not a readable image" in error(read_image, path)


def test_unknown_suffix(tmp_path):
    expected = f"{tmp_path / 'a.xyz'}: unknown image format '.xyz'\nhint: use one of .png .jpg .jpeg .bmp .tif .tiff .webp"
    assert error(write_image, tmp_path / "a.xyz", texture()) == expected


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    message = error(write_image, tmp_path / "file" / "a.png", texture())
    assert "cannot be written (" in message
    assert message.endswith("hint: check the folder, its permissions and the free space")


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_images(tmp_path, image):
    with pytest.raises(ValueError, match="expected a uint8 RGB image"):
        check_rgb(image)
    with pytest.raises(ValueError, match="expected a uint8 RGB image"):
        write_image(tmp_path / "a.png", image)


def test_list_images_sorts_and_leaves_out_others(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [p.name for p in list_images(tmp_path)] == ["a.JPG", "b.png"]
    assert [p.name for p in list_images(tmp_path, recursive=True)] == ["a.JPG", "b.png", "c.png"]


def test_list_images_of_nothing(tmp_path):
    hint = "hint: check the path; relative paths start at the pipeline file's folder"
    assert error(list_images, tmp_path / "no") == f"{tmp_path / 'no'}: folder does not exist\n{hint}"
    expected = f"{tmp_path}: holds no image\nhint: put images there (.png .jpg .jpeg .bmp .tif .tiff .webp)"
    assert error(list_images, tmp_path) == expected


def test_the_size_of_a_truncated_png_is_not_told(tmp_path):
    write_image(tmp_path / "a.png", texture(256, 256))
    whole = (tmp_path / "a.png").read_bytes()
    for length in (10, 30, 60, len(whole) // 2, len(whole) - 13):
        (tmp_path / "a.png").write_bytes(whole[:length])
        assert "not a readable image" in error(image_size, tmp_path / "a.png")


def test_one_thread_is_given_back():
    import cv2

    before = cv2.getNumThreads()
    with one_thread():
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == before
