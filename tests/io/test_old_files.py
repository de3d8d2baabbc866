"""Files of other times and programs: Python 2's pickles, comments that were cut in the middle."""

from __future__ import annotations

import io
import pickle

import pytest
from PIL import Image

from ldmref.errors import LdmrefError
from ldmref.io.adapters.autoencoder import convert_tiny_config
from ldmref.io.images import metadata
from ldmref.io.tensors.torch_checkpoint import load_pickle_bytes


def test_strings_of_python_2_are_utf8():
    name = "größe".encode()
    stream = b"\x80\x02}U" + bytes([len(name)]) + name + b"K\x07s."  # {"größe": 7} of protocol 2
    assert load_pickle_bytes(stream, "file") == {"größe": 7}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_of_every_protocol(protocol):
    value = {"bytes": b"\x00\xff", "list": [1, 2.5, None, True], "text": "ü"}
    assert load_pickle_bytes(pickle.dumps(value, protocol), "file") == value


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("cut", [b"\x00", b"\xd8\x3d", b"\xd8\x3d\x00a"])
def test_a_damaged_comment_is_read_as_far_as_it_goes(tmp_path, suffix, cut):
    """Half a letter at the end, or half of a pair, costs that letter and not the image."""
    exif = Image.Exif()
    text = "a cat\nSteps: 20, Sampler: Euler, Seed: 1, Size: 8x8".encode("utf-16-be") + cut
    exif.get_ifd(metadata.EXIF_IFD)[metadata.USER_COMMENT] = metadata.COMMENT_ENCODING + text
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    found = metadata.read_parameters(path)["parameters"]
    assert found.startswith("a cat\nSteps: 20") and "\ufffd" in found
    assert metadata.read_parameters(io.BytesIO(path.read_bytes()))["parameters"] == found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("act_fn", "silu"),
        ("upsample_fn", "bilinear"),
        ("upsampling_scaling_factor", 4),
        ("scaling_factor", 0.5),
        ("shift_factor", 0.1),
    ],
)
def test_a_tiny_autoencoder_that_computes_something_else_is_refused(field, value):
    with pytest.raises(LdmrefError) as caught:
        convert_tiny_config({"_class_name": "AutoencoderTiny", field: value})
    assert field in str(caught.value)
