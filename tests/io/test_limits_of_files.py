"""Limits of reading and writing: sizes, ranges and depths, and the files that are written."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import struct
import zlib
from itertools import count

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref.errors import CorruptModelError, ImageError, InputError, LdmrefError, OutputError
from ldmref.io import open_checkpoint
from ldmref.io.atomic import atomic_write, check_writable
from ldmref.io.diffusers.folder import (
    get_class,
    get_current_name,
    get_model_name,
    read_diffusers_config,
)
from ldmref.io.diffusers.ldm import convert_unet2d_config
from ldmref.io.images.arrays import image_from_array
from ldmref.io.images.metadata import check_target, read_parameters, save_image
from ldmref.io.images.pil import image_warnings, read_image, read_mask
from ldmref.io.native import check_weights, read_config, save_folder
from ldmref.io.tensors.safetensors import TensorFile, TensorView, hash_files
from ldmref.io.tensors.torch_checkpoint import _leaves, load_pickle_bytes
from ldmref.io.tensors.writer import TensorSource, source, write_tensors
from ldmref.models.clip import CLIP
from ldmref.models.ldmbert import LDMBERT
from ldmref.models.presets import PRESETS

PARAMS = {
    "mode": "txt2img", "prompt": "cat", "negative_prompt": "", "steps": 2, "cfg_scale": 1.0,
    "sampler": "ddim", "width": 8, "height": 8, "seed": 1,
}  # fmt: skip


def code_of(function, *arguments, **values):
    try:
        function(*arguments, **values)
    except LdmrefError as error:
        return error.code
    return ""


def encoded(image, kind, params=None):
    buffer = io.BytesIO()
    save_image(buffer, image, kind, params)
    buffer.seek(0)
    return buffer


# -- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "want"),
    [(0.0, 0), (1.0, 255), (-0.001, 0), (1.001, 255), (0.5, 128), (-0.0011, None), (1.0011, None)],
)
def test_floats_may_leave_their_range_by_a_thousandth(value, want):
    array = np.full((2, 3, 3), value)
    if want is None:
        with pytest.raises(ImageError) as caught:
            image_from_array(array)
        assert caught.value.code == "E-IMAGE-RANGE"
    else:
        assert (np.asarray(image_from_array(array)) == want).all()


@pytest.mark.parametrize(
    ("high", "hint"), [(255.0, "255"), (2.1, "255"), (2.0, "(x + 1) / 2"), (1.5, "(x + 1) / 2")]
)
def test_another_range_is_named(high, hint):
    with pytest.raises(ImageError) as caught:
        image_from_array(np.array([[-1.0, high]]))
    assert hint in caught.value.hint
    with pytest.raises(ImageError) as caught:
        image_from_array(np.array([[0.0, np.nan]]))
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("shape", "mode"),
    [
        ((2, 3), "L"),
        ((2, 3, 3), "RGB"),
        ((2, 3, 4), "RGBA"),
        ((2, 3, 2), ""),
        ((2, 3, 5), ""),
        ((6,), ""),
        ((1, 2, 3, 3), ""),
        ((0, 3), ""),
        ((3, 4, 4), "RGBA"),
        ((3, 8, 8), ""),
    ],
)
def test_shapes_of_images(shape, mode):
    array = np.zeros(shape, np.uint8)
    if mode:
        image = image_from_array(array)
        assert (image.mode, image.size) == (mode, (shape[1], shape[0]))
    else:
        with pytest.raises(ImageError) as caught:
            image_from_array(array)
        first = len(shape) > 2 and shape[-3] in (3, 4) and shape[-3:] != (2, 3, 3)
        assert ("channels to the end" in caught.value.hint) == first


def promising(width, height):
    """Return a PNG whose header alone is true."""

    def chunk(kind, data):
        size = len(data)
        check = zlib.crc32(kind + data)
        return struct.pack(">I", size) + kind + data + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    parts = header, chunk(b"IDAT", zlib.compress(bytes(9))), chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_sixty_four_megapixels_are_read_and_not_one_more():
    assert code_of(read_image, promising(64_000_001, 1)) == "E-IMAGE-SIZE"
    assert code_of(read_image, promising(1, 64_000_001)) == "E-IMAGE-SIZE"
    assert code_of(read_image, promising(64_000_000, 1)) != "E-IMAGE-SIZE"


def test_whole_numbers_above_sixteen_bits_are_white():
    values = np.array([[-5, 0, 257, 65535, 70000]], np.int32)
    assert np.asarray(read_image(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 1, 255, 255]


def test_half_transparent_pixels_are_mixed_with_white():
    image = Image.new("RGBA", (1, 1), (0, 100, 200, 128))
    assert read_image(image).getpixel((0, 0)) == pytest.approx((127, 177, 227), abs=1)
    assert read_mask(image).getpixel((0, 0)) == 41  # on black: 82 * 128 / 255
    assert read_mask(Image.new("L", (1, 1), 7)).getpixel((0, 0)) == 7


def test_images_of_one_frame_and_of_srgb_are_nothing_to_warn_about():
    wide = "sRGB".encode("utf-16-be")
    for info, lines in (
        ({}, 0),
        ({"ldmref frames": 1}, 0),
        ({"ldmref frames": 2}, 1),
        ({"icc_profile": wide}, 0),
        ({"icc_profile": b""}, 0),
        ({"icc_profile": b"Adobe"}, 1),
        ({"icc_profile": b"x", "ldmref frames": 3}, 2),
    ):
        image = Image.new("RGB", (1, 1))
        image.info.update(info)
        got = image_warnings("the mask", image)
        assert len(got) == lines and all(line.startswith("the mask") for line in got)


def test_a_jpeg_with_a_preview_is_no_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "MPO", save_all=True, append_images=frames[1:])
    assert image_warnings("the image", read_image(buffer)) == []


def test_how_images_are_encoded():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    for kind in ("PNG", "WEBP"):
        assert Image.open(encoded(noise, kind)).convert("RGB").tobytes() == noise.tobytes()
    want = io.BytesIO()
    noise.save(want, "JPEG", quality=95)
    assert Image.open(encoded(noise, "JPEG")).quantization == Image.open(want).quantization
    for kind in ("PNG", "WEBP", "JPEG"):
        backwards = dict(reversed(PARAMS.items()))
        same = encoded(noise, kind, PARAMS).getvalue() == encoded(noise, kind, backwards).getvalue()
        assert same, "the order of the parameters is no part of the image"


def test_a_long_prompt_in_any_script_fits_into_a_jpeg():
    params = PARAMS | {"prompt": "ü" * 8000, "negative_prompt": "ö" * 8000}
    assert read_parameters(encoded(Image.new("RGB", (4, 4)), "JPEG", params))["ldmref"] == params


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "PNG"), ("a.PNG", "PNG"), ("a.webp", "WEBP"), ("a.jpg", "JPEG"), ("a.jpeg", "JPEG")],
)
def test_formats_by_ending(tmp_path, name, kind):
    assert check_target(tmp_path / name, overwrite=False) == kind
    (tmp_path / name).write_bytes(b"x")
    assert code_of(check_target, tmp_path / name, overwrite=False) == "E-EXISTS"
    assert check_target(tmp_path / name, overwrite=True) == kind


# -- writing --------------------------------------------------------------------------------------


def test_a_name_that_is_no_text_can_be_written(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.bin")
    with atomic_write(path) as file:
        file.write(b"x")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"x"]


@pytest.mark.parametrize(("number", "hinted"), [(errno.ENAMETOOLONG, True), (errno.ENOSPC, False)])
def test_the_systems_reason_is_given_in_words(tmp_path, number, hinted):
    with pytest.raises(OutputError) as caught, atomic_write(tmp_path / "a") as file:
        file.write(b"x")
        raise OSError(number, os.strerror(number))
    assert os.strerror(number) in str(caught.value) and "Errno" not in str(caught.value)
    assert ("shorter" in caught.value.hint) is hinted and caught.value.code == "E-WRITE"


def test_what_stands_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    assert code_of(check_writable, tmp_path / "file" / "a", False) == "E-FOLDER"
    assert code_of(check_writable, tmp_path / "no" / "a", False) == "E-FOLDER"
    for name in ("file", "folder"):
        assert code_of(check_writable, tmp_path / name, False) == "E-EXISTS"
        assert code_of(check_writable, tmp_path / name, True) == ""
    assert code_of(check_writable, tmp_path / "new", False) == ""


def test_a_written_file_is_aligned_and_has_its_metadata(tmp_path):
    half = TensorSource("BF16", (2,), lambda: np.array([1, 2], np.uint16))
    tensors = {
        "b": source(np.ones(3, np.int8)),
        "a": source(np.arange(3.0)),
        "z": source(np.arange(2.0)),
        "c": half,
    }
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors, {"made": "by me"})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    file = TensorFile(path)
    assert length % 8 == 0 and file.metadata == {"made": "by me"}
    assert list(file) == ["a", "z", "c", "b"]  # large items first, then by name
    assert all(file.offsets[n] % file[n].dtype.itemsize == 0 for n in ("a", "z"))
    assert file["a"].tolist() == [0.0, 1.0, 2.0] and file["b"].dtype == np.int8
    assert code_of(write_tensors, path, tensors) == "E-EXISTS"
    write_tensors(path, {"a": source(np.zeros((0, 3), ">f4"))}, overwrite=True)
    assert TensorFile(path).metadata == {} and TensorFile(path)["a"].shape == (0, 3)


# -- tensors --------------------------------------------------------------------------------------


def test_the_digest_of_a_large_file_is_that_of_its_bytes(tmp_path):
    """It is read in parts of 16 MiB."""
    noise = np.random.default_rng(0).integers(0, 256, 2**24 + 4321, np.uint8)
    write_tensors(tmp_path / "a.safetensors", {"x": source(noise)})
    write_tensors(tmp_path / "b.safetensors", {"y": source(noise[:9])})
    files = [TensorFile(tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    digests = [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files]
    assert [file.sha256() for file in files] == digests == [hash_files([file]) for file in files]
    joined = hashlib.sha256("".join(digests).encode()).hexdigest()
    assert hash_files(files) == TensorView(files).sha256() == joined != hash_files(files[::-1])


def test_a_view_of_files_renames_and_keeps_what_has_the_prefix(tmp_path):
    write_tensors(
        tmp_path / "a.safetensors", {"net.x": source(np.ones(2)), "y": source(np.ones(3))}
    )
    file = TensorFile(tmp_path / "a.safetensors")
    inside = TensorView([file], prefix="net.")
    assert dict(inside.shapes) == {"x": (2,)} and len(inside) == 1 and list(inside) == ["x"]
    none = TensorView([file], prefix="other.")
    assert set(none) == {"net.x", "y"} and none["y"].shape == (3,)
    upper = TensorView([file], str.upper, "NET.")
    assert upper.shapes == {"X": (2,)} and upper.files == (file,)


def test_dictionaries_may_be_nested_so_deep_and_not_deeper():
    def nested(depth):
        value = {"w": 1}
        for _ in range(depth):
            value = {"d": value}
        return pickle.dumps(value, 2)

    for depth in (64, 65):
        value = load_pickle_bytes(nested(depth), "file")
        ((name, leaf),) = _leaves(value, "file", count())
        assert (leaf == 1) == (depth == 64) and name.count("d") == depth


@pytest.mark.parametrize(
    ("names", "code"), [(49_999, ""), (50_000, ""), (50_001, "E-PICKLE-DAMAGED")]
)
def test_so_many_names_and_not_more(names, code):
    value = dict.fromkeys(map(str, range(names)), 0)
    assert code_of(lambda: list(_leaves(value, "file", count()))) == code


@pytest.mark.parametrize(("objects", "refused"), [(9_999, False), (10_000, True)])
def test_a_key_may_hold_so_many_objects(objects, refused):
    data = pickle.dumps({tuple(range(objects)): 1}, 2)
    assert (code_of(load_pickle_bytes, data, "file") == "E-PICKLE-DAMAGED") is refused
    assert load_pickle_bytes(pickle.dumps(list(range(20_000)), 2), "file")[-1] == 19_999


@pytest.mark.parametrize("protocol", range(6))
def test_values_that_a_pickle_mentions_again(protocol):
    """More than 256, which are then remembered by longer numbers."""
    words = [f"word {i}" for i in range(300)]
    value = [(word, {"again": word}) for word in words] + words
    assert load_pickle_bytes(pickle.dumps(value, protocol), "file") == value


# -- folders --------------------------------------------------------------------------------------


def test_a_saved_folder_is_half_precision_and_holds_what_it_was_given(tmp_path, tiny):
    folder = tmp_path / "in" / "model"
    save_folder(folder, tiny.config, tiny.params, [tiny.tokenizer])
    files = ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(os.listdir(folder)) == files
    assert set(TensorFile(folder / "model.safetensors").kinds.values()) == {"F16"}
    settings = json.loads((folder / "config.json").read_text())
    assert settings["schema"] == 1 and set(settings["sha256"]) == {*files[1:]}
    for name, digest in settings["sha256"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    opened = open_checkpoint(folder)
    assert opened.config == tiny.config and len(opened.tokenizers) == 1
    assert opened.sha256 == settings["sha256"]["model.safetensors"]
    assert os.listdir(tmp_path / "in") == ["model"]
    for name in files:
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(InputError) as caught:
            ldmref.load(folder)
        assert caught.value.code == "E-MODEL" and name in str(caught.value)
        (folder / name).write_bytes(kept)


def test_weights_of_another_model_are_not_saved(tmp_path, tiny):
    config = dataclasses.replace(tiny.config, vae=PRESETS["sd15"].vae)
    assert code_of(save_folder, tmp_path / "model", config, tiny.params, []) == "E-KEYS"
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"schema": 2}, "E-SCHEMA"),
        ({"schema": True}, "E-SCHEMA"),
        ({"schema": "1"}, "E-SCHEMA"),
        ({"schema": 1.0}, "E-SCHEMA"),
        ({"sha256": []}, "E-CONFIG"),
        ({"sha256": {"a": 1}}, "E-CONFIG"),
        ({"sha256": {"a": "b"}}, ""),
    ],
)
def test_settings_of_other_versions(tmp_path, change, code):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"schema": 1} | PRESETS["tiny"].to_dict() | change))
    assert code_of(read_config, path) == code
    for foreign in ([], {}, {"_class_name": "UNet2DConditionModel"}, {"architectures": ["CLIP"]}):
        path.write_text(json.dumps(foreign))
        with pytest.raises(CorruptModelError) as caught:
            read_config(path)
        kind = foreign and next(iter(foreign.values()))
        assert caught.value.code == "E-CONFIG" and bool(caught.value.hint) == bool(kind)
        assert not kind or (kind if isinstance(kind, str) else kind[0]) in str(caught.value)


def test_weights_that_look_wrong():
    zeros = np.zeros((2, 2))
    ones = np.ones((2, 2))
    assert check_weights({"w": ones, "bias": np.zeros(3), "none": np.zeros((0, 2))}) == []
    (warning,) = check_weights({f"w{i}": zeros for i in range(5)})
    assert warning.startswith("5 weights") and warning.endswith("w0, w1, w2, w3, w4")
    (warning,) = check_weights({f"w{i}": zeros for i in range(6)})
    assert warning.startswith("6 weights") and warning.endswith("w4, ...") and "w5" not in warning
    bad = {f"b{i}": np.full(2, np.nan) for i in range(6)}
    with pytest.raises(CorruptModelError) as caught:
        check_weights(bad | {"z": zeros})
    assert caught.value.code == "E-NONFINITE" and "6 tensors" in str(caught.value)
    assert "b4" in str(caught.value) and "b5" not in str(caught.value)
    assert len(check_weights(bad | {"z": zeros}, allow_nonfinite=True)) == 2
    assert len(check_weights({"x": np.array([1.0, np.inf])}, allow_nonfinite=True)) == 1


# -- diffusers' configurations --------------------------------------------------------------------

SCHEDULER = {"_class_name": "DDIMScheduler"}
VAE = {"block_out_channels": [32, 32, 32], "sample_size": 64}


def folder_of(path, pipeline, **files):
    index = {"_class_name": pipeline} | files.pop("index", {})
    parts = {"scheduler/scheduler_config": SCHEDULER} | files
    for name, data in {"model_index": index, **parts}.items():
        file = path / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data))
    return path


def stable_diffusion(path, pipeline="StableDiffusionPipeline", unet=(), **more):
    unet = {"cross_attention_dim": 512, "sample_size": [24, 40]} | dict(unet)
    parts = {"unet/config": unet, "vae/config": VAE, "text_encoder/config": {}}
    return read_diffusers_config(folder_of(path / "model", pipeline, **parts, **more))


@pytest.mark.parametrize(
    ("pipeline", "xl"),
    [
        ("StableDiffusionPipeline", False),
        ("StableDiffusionImg2ImgPipeline", False),
        ("StableDiffusionInpaintPipeline", False),
        ("StableDiffusionXLPipeline", True),
        ("StableDiffusionXLImg2ImgPipeline", True),
        ("StableDiffusionXLInpaintPipeline", True),
    ],
)
def test_what_a_folder_of_stable_diffusion_says(tmp_path, pipeline, xl):
    config = stable_diffusion(tmp_path, pipeline)
    d = config.defaults
    assert (d.width, d.height, d.steps) == (160, 96, 50) and config.name == "model"
    assert (d.cfg_scale, d.inpaint_cfg_scale) == ((5.0, 7.5) if xl else (7.5, 7.5))
    assert config.zero_empty_negative is xl and config.text_encoder_2 is None
    assert config.text_encoder.skipped_layers == int(xl)
    assert config.scheduler.steps_offset == (0 if xl else 1)


def test_what_the_index_says_goes_before(tmp_path):
    index = {
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    }
    config = stable_diffusion(tmp_path, index=index)
    assert config.zero_empty_negative is True and config.scheduler.sampler == "euler"
    assert config.text_encoder.projection_dim == 512
    for entry, name in (
        (["a", "B"], "B"),
        (["a"], ""),
        (["a", "B", "c"], ""),
        ("B", ""),
        (None, ""),
        (["a", 1], ""),
    ):
        assert get_class({"part": entry}, "part") == name
    assert get_class({}, "part") == ""


def test_two_text_encoders_and_the_refiner(tmp_path):
    projection = {"hidden_size": 256, "architectures": ["CLIPTextModelWithProjection"]}
    second = {"text_encoder_2/config": projection}
    unet = {"cross_attention_dim": 768}
    config = stable_diffusion(tmp_path, "StableDiffusionXLPipeline", unet, **second)
    assert (config.text_encoder.hidden_size, config.text_encoder_2.hidden_size) == (512, 256)
    assert config.text_encoder_2.projection_dim == 512 and config.text_encoder.projection_dim == 0
    refiner = folder_of(tmp_path / "refiner", "StableDiffusionXLImg2ImgPipeline", **second)
    assert code_of(read_diffusers_config, refiner) == "E-PIPELINE"
    for i, index in enumerate(
        [{"text_encoder": [None, None]}, {"requires_aesthetics_score": True}]
    ):
        with pytest.raises(CorruptModelError, match="SDXL's refiner"):
            stable_diffusion(
                tmp_path / str(i), "StableDiffusionXLPipeline", unet, index=index, **second
            )
    other = folder_of(tmp_path / "other", "KandinskyPipeline")
    assert code_of(read_diffusers_config, other) == "E-PIPELINE"


@pytest.mark.parametrize("kind", ["", "InstructPix2Pix"])
def test_a_folder_of_instruct_pix2pix_is_named(tmp_path, kind):
    """By the class of its pipeline, or by the channels of its U-Net."""
    name = f"StableDiffusion{kind}Pipeline"
    with pytest.raises(CorruptModelError, match="InstructPix2Pix") as caught:
        stable_diffusion(tmp_path, name, {"in_channels": 8})
    assert "not supported; give its base model" in caught.value.hint


@pytest.mark.parametrize(
    ("unet", "scheduler", "what"),
    [
        ({"reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1]}, "PNDM", "SSD-1B"),
        ({"mid_block_type": None}, "EulerDiscrete", "Vega"),
        ({}, "EDMDPMSolverMultistep", "Playground"),
    ],
)
def test_a_folder_of_a_relative_is_named(tmp_path, unet, scheduler, what):
    index = {"scheduler": ["diffusers", f"{scheduler}Scheduler"]}
    with pytest.raises(CorruptModelError, match=what) as caught:
        stable_diffusion(tmp_path, "StableDiffusionXLPipeline", unet, index=index)
    assert caught.value.code == "E-PIPELINE" and "not supported" in caught.value.hint
    if unet:  # a small model of the first version is no SDXL
        with pytest.raises(CorruptModelError, match="the U-Net's configuration has"):
            stable_diffusion(tmp_path / "first", "StableDiffusionPipeline", unet)


U2D = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def latent_diffusion(path, pipeline, unet=(), **more):
    vae = {
        "_class_name": "VQModel",
        "block_out_channels": [32, 32],
        "latent_channels": 3,
        "num_vq_embeddings": 64,
        "scaling_factor": 0.5,
    }
    unet = U2D | {"sample_size": 16} | dict(unet)
    return read_diffusers_config(
        folder_of(path / "ldm", pipeline, **{"vqvae/config": vae, "unet/config": unet}, **more)
    )


def test_folders_of_latent_diffusion(tmp_path):
    config = latent_diffusion(tmp_path, "LDMPipeline")
    d = config.defaults
    assert (d.steps, d.cfg_scale, d.width, d.height, config.concat) == (50, 1.0, 32, 32, "")
    assert (config.vae.scaling_factor, config.vae.codebook_size) == (0.5, 64)
    assert config.text_encoder == PRESETS["ldm-unconditional"].text_encoder
    assert config.text_encoders == () and config.name == "ldm" and config.unet.attention == "self"
    assert config.unet.num_heads == (4, 8) and config.unet.cross_attention_dim == 0
    large = latent_diffusion(tmp_path, "LDMSuperResolutionPipeline", {"in_channels": 6})
    assert (large.defaults.steps, large.concat) == (100, "low_resolution")
    assert large.vae.scaling_factor == 1.0  # the pipeline does not scale latents


RESNET = {
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
}


@pytest.mark.parametrize(
    ("change", "field", "want"),
    [
        ({"attention_head_dim": None}, "num_heads", (1, 1)),
        ({"attention_head_dim": 32}, "num_heads", (1, 2)),
        ({"attention_head_dim": 48}, "num_heads", (1, 1)),
        ({"attn_norm_num_groups": 32}, "norm_num_groups", 32),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift", "scale_shift"),
        (
            RESNET | {"up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"]},
            "resnet_updown",
            True,
        ),
        (RESNET, "attention_levels", (False, True)),
        ({}, "attention_levels", (False, True)),
        ({}, "resnet_updown", False),
        ({"attn_norm_num_groups": 16}, None, None),
        ({"upsample_type": "resnet"}, None, None),
        ({"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]}, None, None),
        ({"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, None, None),
    ],
)
def test_u_nets_of_latent_diffusion(change, field, want):
    if field is None:
        assert code_of(convert_unet2d_config, U2D | change) == "E-CONFIG"
    else:
        assert getattr(convert_unet2d_config(U2D | change), field) == want


def test_names_of_folders_and_of_old_tensors(tmp_path):
    snapshot = tmp_path / "models--owner--sd-turbo" / "snapshots" / "abc"
    assert get_model_name(snapshot) == "sd-turbo" and get_model_name(tmp_path / "x") == "x"
    assert get_model_name(tmp_path / "owner" / "snapshots" / "abc") == "abc"
    assert get_model_name(tmp_path / "models--a--b" / "other" / "abc") == "abc"
    attention = "encoder.mid_block.attentions.0."
    for old, new in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
        ("group_norm", "group_norm"),
    ):
        assert get_current_name(f"{attention}{old}.weight") == f"{attention}{new}.weight"
    assert get_current_name("encoder.key.weight") == "encoder.key.weight"
    for name in ("text_model.x", "text_projection.weight"):
        assert CLIP.rename(name) == name
    assert CLIP.rename("encoder.x") == "text_model.encoder.x"
    for name in ("model.layers.0", "to_logits.weight"):
        assert LDMBERT.rename(name) == name
