"""Images as people have them: modes, orientation, damage."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ldmref.errors import ImageError
from ldmref.io.images.pil import (
    image_warnings,
    open_image,
    read_image,
    read_mask,
    to_array,
    to_images,
)


def stored(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled(mode):
    values = np.array([[0, 128, 256, 32768, 65535]], np.uint16)
    image = Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
    grey = np.asarray(read_image(stored(image) if mode == "I;16" else image))[..., 0]
    assert grey.tolist() == np.rint(values / 257).tolist()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(mode):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    pixels = np.asarray(read_image(image if mode == "RGBA" else image.convert(mode)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].max() < 64


def test_transparent_palette():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(read_image(stored(image, transparency=0)))
    assert pixels.tolist() == [[[255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb(mode):
    image = read_image(Image.new("RGB", (4, 3), "white").convert(mode))
    assert image.mode == "RGB" and np.asarray(image).min() >= 250


def test_floating_point_is_from_0_to_1():
    assert read_image(Image.new("F", (2, 2), 0.5)).getpixel((0, 0)) == (128, 128, 128)
    for value in (1.5, -0.5, float("nan"), float("inf"), 200.0):
        for wrong in (Image.new("F", (2, 2), value), np.full((2, 2, 3), value)):
            with pytest.raises(ImageError) as caught:
                read_image(wrong)
            assert caught.value.code == "E-IMAGE-RANGE"


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_float_arrays_are_rounded_to_the_nearest_of_256(dtype):
    levels = np.arange(256, dtype=np.float64).reshape(16, 16) / 255.0
    grey = np.asarray(read_image(levels.astype(dtype)))[..., 0]
    assert (grey.reshape(-1) == np.arange(256)).all()
    slightly_above = np.nextafter(dtype(1.0), dtype(2.0))
    assert read_image(np.full((2, 2), slightly_above)).getpixel((0, 0)) == (255, 255, 255)


def test_boolean_arrays_are_masks():
    mask = np.array([[True, False], [False, True]])
    assert np.asarray(read_mask(mask)).tolist() == [[255, 0], [0, 255]]


def test_arrays_of_torch_are_images():
    torch = pytest.importorskip("torch")
    rgb = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert (np.asarray(read_image(torch.from_numpy(rgb.copy()))) == rgb).all()
    floats = torch.from_numpy(rgb.astype(np.float32) / 255.0)
    for tensor in (floats, floats.double().requires_grad_(), floats.half()):
        assert (np.asarray(read_image(tensor)) == rgb).all()
    assert read_image(torch.ones(2, 2, 3, dtype=torch.bfloat16)).getpixel((1, 1)) == (255,) * 3
    assert np.asarray(read_mask(torch.eye(2, dtype=torch.bool))).tolist() == [[255, 0], [0, 255]]
    with pytest.raises(ImageError) as caught:
        read_image(torch.zeros(3, 8, 8))
    assert "end" in caught.value.hint


def test_arrays_of_other_libraries_are_images():
    strict = pytest.importorskip("array_api_strict")
    pixels = np.arange(12, dtype=np.float64).reshape(2, 2, 3) / 255.0
    read = np.asarray(read_image(strict.asarray(pixels)))
    assert (read.reshape(-1) == np.arange(12)).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken_with_a_warning(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    animation = stored(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    image = read_image(animation)
    assert image.getpixel((0, 0)) == (255, 0, 0)
    [warning] = image_warnings("the image", image)
    assert "3 frames" in warning
    assert image_warnings("the image", read_image(stored(frames[0], kind))) == []


def test_arrays_are_images():
    rgb = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert (np.asarray(read_image(rgb)) == rgb).all()
    assert (np.asarray(read_image(rgb[::-1, ::-1])) == rgb[::-1, ::-1]).all()
    rgba = np.concatenate([rgb, np.zeros((2, 3, 1), np.uint8)], axis=2)
    assert (np.asarray(read_image(rgba)) == 255).all()
    grey = rgb[:, :, 0]
    assert (np.asarray(read_image(grey)) == grey[..., None]).all()
    assert (np.asarray(read_mask(grey)) == grey).all()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2, 3), np.uint16),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros((3, 2, 2), np.uint8),
        np.zeros((0, 2, 3), np.uint8),
        b"bytes",
        None,
        5,
    ],
)
def test_what_is_no_image_is_refused_and_named(wrong):
    with pytest.raises(ImageError, match="image") as caught:
        read_image(wrong)
    assert "(H, W, 3)" in caught.value.hint


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation):
    image = Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(stored(image, exif=exif))
    handed = read_image(Image.open(stored(image, exif=exif)))
    assert (np.asarray(handed) == np.asarray(found)).all()
    assert (np.asarray(read_image(found)) == np.asarray(found)).all()
    image.getexif()[0x0112] = orientation
    assert (np.asarray(found) == np.asarray(ImageOps.exif_transpose(image))).all()
    assert found.getexif().get(0x0112, 1) == 1


def test_missing_file(tmp_path):
    for name in (tmp_path / "gone.png", tmp_path, "https://example.org/a.png"):
        with pytest.raises(ImageError) as caught:
            open_image(name)
        assert caught.value.code == "E-IMAGE-MISSING"


PNG = stored(Image.effect_noise((32, 32), 50)).getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        PNG[:40],
        PNG[: len(PNG) // 2],
        PNG[:50] + b"\0\0\0\0" + PNG[54:],
        stored(Image.new("L", (4, 4)), "GIF").getvalue(),
        stored(Image.new("L", (4, 4)), "TIFF").getvalue(),
    ],
    ids=["empty", "text", "header only", "truncated", "damaged", "gif", "tiff"],
)
def test_damaged_and_other_files(data, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "a.png")
    assert caught.value.code == "E-IMAGE" and "a.png" in str(caught.value)


@pytest.mark.parametrize("side", [9_000, 20_000, 2**31 - 1])
def test_oversize_header(side):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(ImageError) as caught:
        open_image(io.BytesIO(data))
    assert caught.value.code in ("E-IMAGE-SIZE", "E-IMAGE")


def test_damaged_exif_leaves_the_image_upright():
    file = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(file, "PNG", exif=b"Exif\0\0nonsense")
    assert open_image(io.BytesIO(file.getvalue())).size == (3, 2)


def test_mask_is_luminance_and_alpha_only_if_that_says_nothing():
    painted = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    painted.putpixel((1, 0), (0, 0, 0, 255))
    assert np.asarray(read_mask(painted)).tolist() == [[0, 255]]
    palette = painted.convert("P")
    palette.putdata([1, 0])
    palette.info["transparency"] = bytes([255, 0])  # of index 0 and 1, as pngquant writes them
    assert np.asarray(read_mask(palette)).tolist() == [[0, 255]]
    opaque = Image.new("RGBA", (2, 1), "black")
    opaque.putpixel((1, 0), (255, 255, 255, 255))
    assert np.asarray(read_mask(opaque)).tolist() == [[0, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
@given(st.integers(0, 255), st.integers(128, 255), st.integers(0, 255))
def test_a_mask_with_a_light_pixel_is_its_luminance_on_black(mode, dark, light, alpha):
    rgba = Image.new("RGBA", (3, 1), (light, light, light, 255))
    rgba.putpixel((1, 0), (dark, dark, dark, 255))
    rgba.putpixel((2, 0), (255, 255, 255, alpha))
    mask = read_mask(rgba.convert(mode))
    assert np.asarray(mask).tolist() == [[light, dark, alpha]]
    assert len(image_warnings("the mask", mask)) == (alpha < 255)


@given(st.integers(0, 2**32 - 1))
def test_eight_bits_survive_the_array(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    array = to_array([Image.fromarray(pixels)])
    assert array.shape == (1, 3, 5, 7) and np.abs(array).max() <= 1
    assert (np.asarray(to_images(array)[0]) == pixels).all()


def test_values_outside_are_clipped_not_wrapped():
    array = np.array([-7.0, -1.0, 0.0, 1.0, 7.0], np.float32).reshape(1, 1, 1, 5).repeat(3, 1)
    assert np.asarray(to_images(array)[0])[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def bomb(width, height):
    """Return a PNG whose header promises that many pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(99))), chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("side", [8001, 10_000, 20_000])
def test_an_image_of_too_many_pixels_is_refused_by_its_header(side):
    with pytest.raises(ImageError) as caught:
        read_image(bomb(side, side))
    assert caught.value.code == "E-IMAGE-SIZE"


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ImageError) as caught:
        read_image(Image.new("RGB", (0, 5)))
    assert caught.value.code == "E-IMAGE-SIZE"


def test_what_is_no_regular_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        tmp_path: "folder",
        tmp_path / "pipe": "pipe",
        "/dev/zero": "device",
        "https://example.org/a.png": "not exist",
        "file:///etc/passwd": "not exist",
        "|ls": "not exist",
        "a\0b": "not a file name",
        "a" * 5000: "too long",
    }
    for source, words in wrong.items():
        with pytest.raises(ImageError, match=words) as caught:
            read_image(source)
        assert caught.value.code == "E-IMAGE-MISSING" and len(str(caught.value)) < 200
        assert ("download" in caught.value.hint) == ("://" in str(source))


def test_another_colour_space_than_srgb_is_warned_about():
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.new("RGB", (4, 4))
    assert image_warnings("the image", read_image(stored(image, icc_profile=srgb))) == []
    [warning] = image_warnings("the image", read_image(stored(image, icc_profile=lab)))
    assert "colour profile" in warning


@pytest.mark.parametrize(
    ("ending", "name"), [("gif", "GIF"), ("bmp", "BMP"), ("tiff", "TIFF"), ("avif", "HEIC or AVIF")]
)
def test_another_format_is_refused_by_its_name(tmp_path, ending, name):
    """As a path and as an open file; a damaged file of an allowed format is not named so."""
    path = tmp_path / f"a.{ending}"
    if ending == "avif":
        path.write_bytes(b"\0\0\0\x20ftypavif" + bytes(40))
    else:
        Image.new("RGB", (8, 8)).save(path)
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        with pytest.raises(ImageError, match=f"is a {name} image, which is not read") as caught:
            read_image(source)
        assert caught.value.code == "E-IMAGE" and "PNG, JPEG or WebP" in caught.value.hint
    path.write_bytes(b"BM is how this text begins")
    with pytest.raises(ImageError, match="cannot read"):
        read_image(path)
