"""Records of other programs: named with their values, and never taken for a text of A1111."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref.apps.a1111.reading import replay_parameters
from ldmref.io.images.metadata import EXIF_IFD, USER_COMMENT, read_parameters
from ldmref.io.images.other_programs import (
    describe_other_programs,
    find_programs,
    read_json_record,
    read_mflux_xmp,
)

FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL_v8",
    "full_negative_prompt": ["blurry"],
    "full_prompt": ["a cat: 1, b: 2, Steps: 3, Seed: 4, x: 5"],
    "guidance_scale": 4.0,
    "prompt": "a cat: 1, b: 2, Steps: 3, Seed: 4, x: 5",
    "seed": "1234567",
    "steps": 30,
    "version": "Fooocus v2.5.0",
}
SWARM = {"sui_image_params": {"prompt": "a cat", "seed": 7, "steps": 20, "cfgscale": 7.0}}
MFLUX = {"mflux_version": "0.9.0", "seed": 3, "steps": 4, "guidance": None, "prompt": "a cat"}
OTHER = {"Steps: 20, Seed: 1, Size": "8x8"}
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">'
    "a &amp; b</rdf:li></rdf:Alt></dc:description>\n<mflux:seed>3</mflux:seed>"
    "<mflux:steps>4</mflux:steps></x:xmpmeta>"
)


def opened(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    buffer.seek(0)
    return Image.open(buffer)


@pytest.mark.parametrize(
    ("record", "program", "values"),
    [
        (FOOOCUS, "Fooocus", FOOOCUS),
        (SWARM, "SwarmUI", SWARM["sui_image_params"]),
        (MFLUX, "mflux", MFLUX),
        (OTHER, "another program", OTHER),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_named_and_not_replayed(record, program, values, indent):
    text = json.dumps(record, indent=indent)
    assert replay_parameters(text) is None
    assert read_json_record(text) == (program, values)
    assert find_programs({}, text) == {"parameters": program}
    described = describe_other_programs({}, text)[-1]
    for value in values.values():
        if isinstance(value, str | int | float):
            assert str(value) in described


@pytest.mark.parametrize(
    "text",
    [
        "{a|b} cat",
        "{",
        "{}",
        "[1]",
        "{" * 100_000,
        "a cat\nSteps: 20, Seed: 1, Size: 8x8",
        '{"a": 1}\nSteps: 20, Seed: 1, Size: 8x8',
    ],
)
def test_other_texts_are_no_json_record(text):
    assert read_json_record(text) is None and find_programs({}, text) == {}


@pytest.mark.parametrize(
    "text",
    [
        "(a: 1.2), b: 1, c: 3",
        "cat: 1, dog: 2, bird: 3",
        "Steps: 20, Sampler: Euler, Size: 8x8",
        "Seed: 20, Sampler: Euler, Size: 8x8",
    ],
)
def test_three_words_with_colons_are_a_prompt(text):
    assert replay_parameters(text) is None
    prompt = replay_parameters(f"{text}\nSteps: 20, Seed: 1, Size: 8x8")[0]["prompt"]
    assert prompt == text


def test_json_in_the_user_comment_of_a_png():
    """As mflux writes it."""
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"ASCII\0\0\0" + json.dumps(MFLUX).encode()
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG", exif=exif.tobytes())
    buffer.seek(0)
    assert read_json_record(read_parameters(buffer)["parameters"]) == ("mflux", MFLUX)


@pytest.mark.parametrize("chunk", ["add_text", "add_itxt"])
def test_xmp_of_mflux(chunk):
    info = PngInfo()
    getattr(info, chunk)("XML:com.adobe.xmp", XMP)
    image = opened(Image.new("RGB", (4, 4)), pnginfo=info)
    assert read_mflux_xmp(image.info) == {"prompt": "a & b", "seed": "3", "steps": "4"}
    assert find_programs(image.info)["xmp"] == "mflux"
    assert read_mflux_xmp({"xmp": b"<x:xmpmeta><photoshop:Credit>x</photoshop:Credit>"}) == {}
