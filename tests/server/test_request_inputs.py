"""Values of requests: what is decoded, what is refused, and that no file is ever opened."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from ldmref.apps.server.bodies import MAX_DEPTH, read_json
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import BadRequest, status_of
from ldmref.apps.server.inputs import plan_task, read_values
from ldmref.errors import LdmrefError
from ldmref.modes.plan import schema as mode_schema
from ldmref.modes.registry import MODES

MOST = 1_000_000  # pixels
PARAMETERS = [(mode, name) for mode in MODES for name in MODES[mode].parameters]
IMAGES = {"image", "mask", "segmentation"}
ARRAYS = {
    "latents",
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "prompt_mask",
    "negative_prompt_mask",
}
opened: list[str] = []
recording = False


def watch(event, arguments):
    if recording and event in ("open", "os.listdir", "os.scandir", "socket.getaddrinfo"):
        opened.append(str(arguments[0]))


sys.addaudithook(watch)


@pytest.fixture(scope="module")
def engine(tiny):
    engine = Engine({"tiny": tiny})
    yield engine
    engine.close(1.0)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return base64.b64encode(buffer.getvalue()).decode()


def refused(call, *arguments):
    with pytest.raises(LdmrefError) as caught:
        call(*arguments)
    error = caught.value
    assert status_of(error) in (400, 422) and "\n" not in str(error) and len(str(error)) < 250
    return error


# -- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "name"), PARAMETERS)
def test_every_parameter_that_is_not_plain_json_is_marked(mode, name):
    """A new parameter that holds a file or an array must get the mark `Attachment`."""
    field = MODES[mode].parameters[name]
    expected = "image" if name in {*IMAGES, "control_image"} else "array" if name in ARRAYS else ""
    others = {"control": "controlnet", "guide": "model", "references": "images"}
    assert field.attachment == others.get(name, expected)
    schema = mode_schema(mode)["properties"][name]
    schema |= schema.get("anyOf", [{}])[0]
    assert (field.attachment == "image") == ("contentEncoding" in schema)
    items = schema.get("items", {})
    assert (field.attachment == "images") == ("contentEncoding" in items)
    assert (field.attachment == "array") == (field.kind is np.ndarray)


@pytest.mark.parametrize(("mode", "name"), PARAMETERS)
def test_no_text_is_ever_opened(engine, mode, name, tmp_path):
    global recording
    path = tmp_path / "secret"
    Image.new("RGB", (16, 16)).save(path, "PNG")
    np.save(tmp_path / "secret.npy", np.zeros((1, 4, 8, 8), np.float32))
    image = encode(Image.new("RGB", (16, 16)))
    files = [f"{scheme}{path}" for scheme in ("", "file://", "canny:")]
    texts = [*files, *(f"{file}.npy" for file in files), "https://example.com/a.png", "-", "|ls"]
    for text in texts:
        for value in (text, [text], {"name": text}, [{"net": text, "image": text}], [[text]]):
            given = {key: image for key in IMAGES & MODES[mode].parameters.keys()}
            given |= {"prompt": "a cat"} if "prompt" in MODES[mode].parameters else {}
            given |= {"prompt_b": "a dog"} if mode == "interpolate" else {}
            opened.clear()
            recording = True
            try:
                plan_task(engine, mode, given | {name: value})
            except LdmrefError as error:
                assert status_of(error) in (400, 422)
            finally:
                recording = False
            assert not [entry for entry in opened if "secret" in entry or "example" in entry]


@pytest.mark.parametrize(
    "text",
    ["/etc/passwd", "photo.png", "https://example.com/a.png", "file:///etc/passwd", "-", "~/x.png"],
)
def test_a_path_instead_of_an_image_is_refused_with_a_hint(text):
    error = refused(read_values, "img2img", {"image": text}, MOST)
    assert error.parameter == "image" and "as base64" in error.hint


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_as_base64(kind):
    image = Image.new("RGB", (12, 10), "teal")
    text = encode(image, kind)
    wrapped = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    for value in (text, text.rstrip("="), wrapped, f"data:image/png;base64,{text}"):
        read = read_values("img2img", {"image": value}, MOST)["image"]
        assert read.size == (12, 10)


def png_claiming(width, height):
    """Return a PNG of a few bytes whose header claims a size."""

    def chunk(kind, data):
        crc = struct.pack(">I", binascii.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    file = b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


def text_bomb():
    """Return a PNG with a compressed text of 100 MB."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("parameters", "a" * 100_000_000, zip=True)
    return encode(Image.new("RGB", (8, 8)), pnginfo=info)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (png_claiming(20_000, 20_000), "E-IMAGE-SIZE"),
        (png_claiming(2**31 - 1, 2**31 - 1), "E-IMAGE-SIZE"),
        (png_claiming(0, 5), "E-IMAGE"),
        (encode(Image.new("1", (1001, 1000))), "E-IMAGE-SIZE"),
        (encode(Image.new("RGB", (8, 8)), "GIF"), "E-IMAGE"),
        (encode(Image.new("RGB", (8, 8)), "TIFF"), "E-IMAGE"),
        (encode(Image.new("RGB", (8, 8)), "BMP"), "E-IMAGE"),
        (base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(), "E-IMAGE"),
        (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0").decode(), "E-IMAGE"),
        ("", "E-IMAGE"),
        ("data:,hello", "E-IMAGE"),
        ("data:image/png;base64", "E-IMAGE"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "E-IMAGE"),
        ("aGVsbG8*", "E-IMAGE"),
        ("日本", "E-IMAGE"),
        (5, "E-IMAGE"),
        (True, "E-IMAGE"),
        (["aGk="], "E-IMAGE"),
        ({"url": "https://example.com"}, "E-IMAGE"),
    ],
)
def test_images_that_are_refused(value, code):
    error = refused(read_values, "img2img", {"image": value}, MOST)
    assert (error.code, error.parameter) == (code, "image")


@pytest.mark.parametrize("make", [text_bomb, lambda: png_claiming(900, 900)])
def test_damaged_images_and_bombs_are_refused_when_they_are_planned(engine, make):
    values = {"prompt": "a cat", "image": make()}
    error = refused(plan_task, engine, "img2img", values)
    assert error.code == "E-IMAGE"


def test_the_size_is_checked_before_pixels_are_decoded():
    import tracemalloc

    value = encode(Image.new("1", (30_000, 30_000)))
    tracemalloc.start()
    refused(read_values, "img2img", {"image": value}, MOST)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * len(value) + 10**6


# -- arrays ---------------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)


def test_arrays_as_lists_and_as_files_give_the_same_image(engine):
    pngs = set()
    for value in (NOISE.tolist(), npy(NOISE), npy(np.asfortranarray(NOISE))):
        task = plan_task(engine, "txt2img", {"prompt": "a cat", "steps": 1, "latents": value})
        job = engine.submit(task)
        assert job.wait(60) and job.state == "done"
        pngs.add(np.asarray(Image.open(io.BytesIO(job.images[0].png))).tobytes())
    assert len(pngs) == 1


def header_claiming(shape):
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return base64.b64encode(file.getvalue() + bytes(16)).decode()


@pytest.mark.parametrize("name", sorted(ARRAYS))
@pytest.mark.parametrize(
    "value",
    [
        npy(np.array([{"a": 1}], object)),
        npy(np.zeros((1, 4, 8, 8), np.int64)),
        npy(np.zeros((1, 4, 8, 8), np.complex64)),
        header_claiming((10**9, 10**9)),
        header_claiming((2, 2, 2)),
        base64.b64encode(b"\x93NUMPY\x01\x00" + b"\xff" * 50).decode(),
        base64.b64encode(b"PK\x03\x04" + b"\0" * 50).decode(),
        base64.b64encode(b"\x80\x04cos\nsystem\n").decode(),
        "noise.npy",
        5,
        [],
        [1.0, 2.0],
        [[[1.0], [1.0, 2.0]]],
        [["a"]],
        [[None]],
        {"a": 1},
    ],
)
def test_arrays_that_are_refused(engine, name, value):
    error = refused(plan_task, engine, "txt2img", {"prompt": "a cat", name: value})
    assert error.parameter == name


# -- numbers and texts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "parameter"),
    [
        ({"steps": 10**400}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"steps": "20"}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"cfg_scale": "7"}, "cfg_scale"),
        ({"cfg_scale": 1e300}, "cfg_scale"),
        ({"width": -8}, "width"),
        ({"width": 8192, "height": 8192}, "width"),
        ({"seed": 2**64}, "seed"),
        ({"seed": [1, 2, 3]}, "seed"),
        ({"seed": {"a": 1}}, "seed"),
        ({"count": 65}, ""),
        ({"count": 10**6}, "count"),
        ({"prompt": ["a"] * 65}, ""),
        ({"prompt": "a" * 10**6}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"sampler": "../../etc/passwd"}, "sampler"),
        ({"sampler": {"name": "euler"}}, "sampler"),
        ({"sampler": ["euler"]}, "sampler"),
        ({"schedule": 5}, "schedule"),
        ({"guidance": {"name": "rescale", "phi": "x"}}, "guidance"),
        ({"guidance": {"name": ["x"]}}, "guidance"),
        ({"guidance": []}, "guidance"),
        ({"sigmas": [1, "a"]}, "sigmas"),
        ({"sigmas": [[1.0, 0.0]]}, "sigmas"),
        ({"strict_prompt": 1}, "strict_prompt"),
        ({"control": [{"net": "canny", "image": "a.png"}]}, "control"),
        ({"control": "canny:a.png"}, "control"),
        ({"callback": "x"}, "callback"),
        ({"cancel": True}, "cancel"),
        ({"__class__": 1}, "__class__"),
        ({"": 1}, ""),
        ({"x" * 10**5: 1}, "x" * 10**5),
    ],
)
def test_values_that_are_refused(engine, values, parameter):
    error = refused(plan_task, engine, "txt2img", {"prompt": "a cat"} | values)
    assert error.parameter == parameter


# -- bodies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "is too large"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "10000 digits"),
        (b'{"a": 1.' + b"9" * 10_000 + b"}", "is too large"),
        (b'{"a": 1, "a": 2}', "the key 'a' is repeated"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested"),
        (b"[" * 900 + b"]" * 900, "nested"),
        (b'{"a":' * 200_000, "nested"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested"),
        (b"[" + b"0," * 1_000_001 + b"0]", "more than"),
    ],
)
def test_bodies_that_are_refused(body, words):
    with pytest.raises(BadRequest, match=words) as caught:
        read_json(body)
    assert len(str(caught.value)) < 200


def test_bodies_that_are_read():
    assert read_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert read_json(b'{"a": [1, 2.5, true, null, "\\u00e9"]}') == {"a": [1, 2.5, True, None, "é"]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 400, "E-JSON"),
        (b'"txt2img"', 400, "E-JSON"),
        (b'{"kind": "destroy"}', 400, "E-KIND"),
        (b'{"kind": 5}', 400, "E-KIND"),
        (b'{"mode": "txt3img", "parameters": {}}', 422, "E-MODE"),
        (b'{"mode": ["txt2img"]}', 400, "E-MODE"),
        (b'{"mode": "invert.__class__"}', 422, "E-MODE"),
        (b'{"parameters": []}', 400, "E-PARAMETERS"),
        (b'{"parameters": {"prompt": "a"}, "previews": "no"}', 400, "E-PREVIEWS"),
        (b'{"parameters": {"prompt": "a"}, "modle": "x"}', 400, "E-KEY"),
        (b'{"parameters": {"prompt": "a"}, "model": "../tiny"}', 404, "E-MODEL"),
        (b'{"parameters": {"prompt": "a"}, "model": 5}', 404, "E-MODEL"),
        (b"{}", 422, "E-USAGE"),
        (b'{"parameters": {"prompt": "a", "stepps": 3}}', 422, "E-USAGE"),
        (b'{"mode": "superres", "parameters": {"image": "aGk="}}', 422, "E-IMAGE"),
    ],
)
def test_requests_that_are_refused(server, body, status, code):
    for path in ("/v1/jobs", "/v1/generate"):
        answer = server.client.post(
            path, content=body, headers={"Content-Type": "application/json"}
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code), error
    assert server.client.get("/v1/jobs").json() == {"jobs": []}


def test_refusals_name_the_parameter_and_suggest(server):
    body = {"parameters": {"prompt": "a", "cfgscale": 3}}
    error = server.client.post("/v1/jobs", json=body).json()["error"]
    assert error["parameter"] == "cfgscale" and "cfg_scale" in error["hint"]
