"""Metadata round trips for any prompt; images are written whole or not at all."""

from __future__ import annotations

import io
import json
import os

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from ldmref.apps.a1111.reading import replay_parameters
from ldmref.errors import OutputError
from ldmref.io.images import metadata
from ldmref.io.images.infotext import (
    A1111_SAMPLERS,
    infotext,
    parse_infotext,
)
from ldmref.io.images.metadata import (
    decode_user_comment,
    read_parameters,
    save_image,
    write_image,
)
from ldmref.samplers import SAMPLERS, get_sampler

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=200)
AWKWARD = [
    "",
    "a\nb",
    "x: 1, y: 2, z: 3",
    "Steps: 20, Seed: 1, Size: 8x8",
    'say "hi", a\\b',
    "❤️‍🔥 שלום",
]


def params(prompt="cat", negative="", **changes):
    return {
        "mode": "txt2img",
        "prompt": prompt,
        "negative_prompt": negative,
        "steps": 20,
        "cfg_scale": 2.5,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "seed": 2**64 - 1,
        "width": 64,
        "height": 32,
        "eta": None,
        "clip_skip": 0,
        "rng": "philox",
        "model": {"name": "a, b: c", "sha256": "0123456789abcdef"},
        "backend": {"name": "numpy", "dtype": "float32"},
        "ldmref": "0.1.0",
    } | changes


def written(values, kind="PNG"):
    buffer = io.BytesIO()
    save_image(buffer, Image.new("RGB", (4, 4)), kind, values)
    buffer.seek(0)
    return read_parameters(buffer)


def plain(text):
    """Without what the infotext cannot hold: blanks at line ends, a negative prompt's start."""
    lines = text.split("\n")
    assume(all(line == line.strip() for line in lines) and text == text.strip())
    assume(not any(line.startswith("Negative prompt:") for line in lines))
    return text


@given(TEXT, TEXT)
def test_json_round_trip(prompt, negative):
    values = params(prompt, negative)
    assert written(values)["ldmref"] == values


@pytest.mark.parametrize("prompt", AWKWARD)
def test_json_and_infotext_of_awkward_prompts(prompt):
    found = written(params(prompt, "dog"))
    assert found["ldmref"]["prompt"] == prompt
    parsed = parse_infotext(found["parameters"])
    assert (parsed["prompt"], parsed["negative_prompt"]) == (prompt, "dog")


@given(LINES, LINES)
@example("x: 1, y: 2, z: 3", "Steps: 1, Seed: 2, Size: 3x3")
def test_infotext_round_trip(prompt, negative):
    parsed = parse_infotext(infotext(params(plain(prompt), plain(negative))))
    assert (parsed["prompt"], parsed["negative_prompt"]) == (prompt, negative)
    assert parsed["pairs"]["Steps"] == "20" and parsed["pairs"]["Seed"] == str(2**64 - 1)
    assert parsed["pairs"]["Model"] == "a, b: c" and parsed["pairs"]["CFG scale"] == "2.5"


@given(TEXT)
def test_last_line_can_always_be_read(prompt):
    assert parse_infotext(infotext(params(prompt, prompt)))["pairs"]["Steps"] == "20"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("prompt", ["cat", "Katze ü", "❤️ heart"])
def test_infotext_in_every_format(kind, prompt):
    assert parse_infotext(written(params(prompt), kind)["parameters"])["prompt"] == prompt


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("prompt", ["cat", "Katze ü", "❤️ heart", 'a\0b \\ "', "x" * 4000])
def test_exact_parameters_in_every_format(kind, prompt):
    found = params(prompt, prompt)
    assert written(found, kind)["ldmref"] == found


def test_a_jpeg_with_too_much_to_say_keeps_the_text():
    found = written(params("😀" * 6000, "😀" * 4000), "JPEG")
    assert "ldmref" not in found and found["parameters"].startswith("😀")
    assert "ldmref" in written(params("😀" * 6000, "😀" * 4000), "WEBP")


RECORD = "a red cat, \u00fc \u732b\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x64"
KANJI = "\u732b \u3068 \u72ac\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x64"
COMMENTS = {  # how programs write a user comment: the bytes, and the text
    "UTF-16, big-endian": (b"UNICODE\0" + RECORD.encode("utf-16-be"), RECORD),
    "UTF-16, little-endian": (b"UNICODE\0" + RECORD.encode("utf-16-le"), RECORD),
    "UTF-16 with a mark, big": (b"UNICODE\0\xfe\xff" + RECORD.encode("utf-16-be"), RECORD),
    "UTF-16 with a mark, little": (b"UNICODE\0\xff\xfe" + RECORD.encode("utf-16-le"), RECORD),
    "UTF-8 under the name of Unicode": (b"UNICODE\0" + RECORD.encode(), RECORD),
    "UTF-8 under the name of ASCII": (b"ASCII\0\0\0" + RECORD.encode(), RECORD),
    "UTF-8 without a name": (RECORD.encode(), RECORD),
    "undefined": (bytes(8) + RECORD.encode(), RECORD),
    "JIS": (b"JIS\0\0\0\0\0" + KANJI.encode("iso2022_jp"), KANJI),
    "Latin-1 without a name": (b"Steps: 20, Model: caf\xe9", "Steps: 20, Model: caf\u00e9"),
    "a zero at the end": (b"ASCII\0\0\0" + RECORD.encode() + b"\0", RECORD),
    "Shift JIS under the name of JIS": (b"JIS\0\0\0\0\0" + KANJI.encode("shift_jis"), KANJI),
}


@pytest.mark.parametrize("kind", COMMENTS)
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("order", ["big", "little"])
def test_user_comments_in_every_encoding(kind, format, order, tmp_path):
    comment, text = COMMENTS[kind]
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif.get_ifd(metadata.EXIF_IFD)[metadata.USER_COMMENT] = comment
    Image.new("RGB", (4, 4)).save(tmp_path / "a", format, exif=exif.tobytes())
    assert read_parameters(tmp_path / "a") == {"parameters": text}


def test_a_comment_outside_of_the_folder_of_exif(tmp_path):
    """As Fooocus writes it: in the first directory, declared as ASCII."""
    exif = Image.Exif()
    exif[metadata.USER_COMMENT] = "a cat\nSteps: 20, Seed: 1, Size: 8x8"
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
    found = read_parameters(tmp_path / "a.jpg")["parameters"]
    assert parse_infotext(found)["pairs"]["Seed"] == "1"


@given(TEXT, st.sampled_from(["utf-16-be", "utf-16-le"]))
def test_user_comments_with_a_line_of_pairs_are_read_in_either_order(prompt, encoding):
    text = f"{prompt}\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x64, Model: abcdefgh"
    assume(len(prompt) < 30 and not prompt.startswith("\ufeff"))
    assert decode_user_comment(b"UNICODE\0" + text.encode(encoding)) == text.rstrip("\0")


def test_maker_notes_of_others_are_left_alone(tmp_path):
    for note in (b"Canon", b'{"mode": "txt2img"}', b"ldmref\0no JSON", b"ldmref\0\xff", b""):
        exif = Image.Exif()
        exif.get_ifd(metadata.EXIF_IFD)[metadata.MAKER_NOTE] = note
        Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
        assert read_parameters(tmp_path / "a.jpg") == {}


@pytest.mark.parametrize("prompt", ["cat", "ü", "❤", "a\0b"])
def test_chunk_kind(prompt):
    buffer = io.BytesIO()
    save_image(buffer, Image.new("RGB", (4, 4)), "PNG", params(prompt))
    data = buffer.getvalue()
    assert (b"tEXtparameters" in data) == (prompt != "❤")
    assert json.loads(Image.open(buffer).info["ldmref"])["prompt"] == prompt
    assert "\0" not in Image.open(buffer).info["parameters"]


def test_a1111_names_of_samplers_lead_back_to_them():
    """The infotext of every sampler is read back; a name unknown to A1111 keeps a prefix."""
    for name in SAMPLERS:
        again = replay_parameters(infotext(params(sampler=name)))
        assert again is not None and get_sampler(again[0]["sampler"]) is SAMPLERS[name]
    assert set(A1111_SAMPLERS) <= set(SAMPLERS)
    for name, alias in [
        ("dpmpp_2s_a", "DPM++ 2S a"),
        ("pndm", "PLMS"),
        ("unipc", "ldmref unipc"),
        ("dpm_solver_2_a", "DPM2 a"),
        ("dpmpp_2m_sde_heun", "DPM++ 2M SDE Heun"),
        ("dpmpp_3m_sde", "DPM++ 3M SDE"),
        ("lms", "ldmref lms"),
        ("rk4", "ldmref rk4"),
    ]:
        assert f"Sampler: {alias}," in infotext(params(sampler=name))
    for name, label in A1111_SAMPLERS.items():
        assert get_sampler(label) is SAMPLERS[name]


@given(st.text(max_size=300))
def test_reader_takes_anything(text):
    assert set(parse_infotext(text)) == {"prompt", "negative_prompt", "pairs"}


def test_writing(tmp_path):
    path = tmp_path / "a.png"
    image = Image.new("RGB", (4, 4), "red")
    write_image(path, image, None)
    assert read_parameters(path) == {}
    before = path.read_bytes()
    with pytest.raises(OutputError) as caught:
        write_image(path, Image.new("RGB", (4, 4)), None)
    assert caught.value.code == "E-EXISTS" and path.read_bytes() == before
    write_image(path, image, params(), overwrite=True)
    assert read_parameters(path)["ldmref"] == params()
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("name", "code"), [("a.gif", "E-FORMAT"), ("gone/a.png", "E-FOLDER"), ("d.png", "E-EXISTS")]
)
def test_targets_refused(name, code, tmp_path):
    (tmp_path / "d.png").mkdir()
    with pytest.raises(OutputError) as caught:
        write_image(tmp_path / name, Image.new("RGB", (4, 4)), None)
    assert caught.value.code == code and os.listdir(tmp_path) == ["d.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_half_written(overwrite, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    if overwrite:
        path.write_text("old")

    def full(file, *args):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metadata, "save_image", full)
    with pytest.raises(OutputError) as caught:
        write_image(path, Image.new("RGB", (4, 4)), None, overwrite=overwrite)
    assert caught.value.code == "E-WRITE"
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if overwrite else [])


def test_a_file_that_came_up_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    real = metadata.save_image

    def slow(file, *args):
        real(file, *args)
        path.write_text("other")

    monkeypatch.setattr(metadata, "save_image", slow)
    with pytest.raises(OutputError) as caught:
        write_image(path, Image.new("RGB", (4, 4)), None)
    assert caught.value.code == "E-EXISTS"
    assert [p.read_text() for p in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_names_of_any_bytes_are_recorded(tmp_path, suffix):
    """A folder whose name is not UTF-8 lends it to the model; the finished image is not lost."""
    record = params(model={"name": "caf\udce9", "sha256": ""})
    path = tmp_path / f"a.{suffix}"
    write_image(path, Image.new("RGB", (8, 8)), record, overwrite=False)
    read = read_parameters(path)
    assert read["ldmref"]["model"]["name"] == "caf\udce9"
    assert "caf\\udce9" in read["parameters"]
