"""Records of other programs: named with their values, and never taken for a text of A1111."""

from __future__ import annotations

import io
import json

import pytest
from cheap import stays_cheap
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from program_files import (
    ASCII,
    EXIF_SEGMENT,
    FILES,
    FOOOCUS,
    MAKE,
    MFLUX,
    MODEL,
    SOFTWARE,
    SWARM,
    jpeg,
    png,
    tiff,
    words,
)

from ldmref.apps.a1111.reading import replay_parameters
from ldmref.io.images.comfyui import describe_graph
from ldmref.io.images.metadata import EXIF_IFD, USER_COMMENT, read_parameters
from ldmref.io.images.other_programs import (
    describe_other_programs,
    find_programs,
    read_json_record,
    read_mflux_xmp,
    read_other_records,
)
from ldmref.io.images.pil import open_image

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


# -- whole files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs(name):
    data, programs, said = FILES[name]
    info = open_image(io.BytesIO(data)).info
    text = read_parameters(io.BytesIO(data)).get("parameters", "")
    assert find_programs(info, text) == programs
    lines = describe_other_programs(info, text)
    assert any(said in line for line in lines), lines
    assert any("not repeated by ldmref" in line for line in lines)
    assert replay_parameters(text) is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_damaged_files_say_nothing_or_less(name, cut):
    """EXIF, XMP and JSON that end early, in a file that is whole otherwise."""
    data, _, _ = FILES[name]
    info = dict(open_image(io.BytesIO(data)).info)
    short = {
        k: v[: int(len(v) * cut)] if isinstance(v, str | bytes) else v for k, v in info.items()
    }
    for line in describe_other_programs(short, json.dumps(SWARM)[: int(50 * cut)]):
        assert isinstance(line, str)


def test_fooocus_with_the_text_of_a1111_is_read_as_such():
    text = "a cat\nSteps: 20, Seed: 1, Size: 8x8, Version: Fooocus v2.5.5"
    data = png(words("parameters", text), words("fooocus_scheme", "a1111"))
    assert find_programs(open_image(io.BytesIO(data)).info, text) == {}
    assert replay_parameters(text)[0]["seed"] == 1


def test_a_photograph_has_no_record():
    camera = [(MODEL, ASCII, b"Camera: one\0"), (MAKE, ASCII, b"Maker Maker\0")]
    data = jpeg(EXIF_SEGMENT + tiff([*camera, (SOFTWARE, ASCII, b"Editor 1.0\0")]))
    assert read_other_records(open_image(io.BytesIO(data)).info) == []


# -- links in ComfyUI's graph ---------------------------------------------------------------------


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def sampler(**inputs):
    return node("KSampler", **inputs)


GRAPHS = {  # name -> (the nodes behind KSampler or CLIPTextEncode, what is said)
    "number": ({"s": sampler(seed=["1", 0]), "1": node("PrimitiveInt", value=7)}, "seed 7"),
    "control": (
        {"s": sampler(seed=["1", 0]),
         "1": node("PrimitiveInt", value=7, control_after_generate="randomize")},
        "seed 7",
    ),
    "rgthree": ({"s": sampler(seed=["1", 0]), "1": node("Seed (rgthree)", seed=8)}, "seed 8"),
    "zero": ({"s": sampler(seed=["1", 0]), "1": node("PrimitiveInt", value=0)}, "seed 0"),
    "false": ({"s": sampler(a=["1", 0]), "1": node("PrimitiveBoolean", value=False)}, "a False"),
    "reroute": (
        {"s": sampler(cfg=["1", 0]), "1": node("Reroute", **{"": ["2", 0]}),
         "2": node("PrimitiveFloat", value=1.5)},
        "cfg 1.5",
    ),
    "numbers as keys": (
        {"s": sampler(steps=[1, 0]), "1": node("INTConstant", value=4)},
        "steps 4",
    ),
    "joined": (
        {"s": node("CLIPTextEncode", text=["1", 0]),
         "1": node("StringConcatenate", string_a=["2", 0], string_b="b", delimiter=", "),
         "2": node("PrimitiveStringMultiline", value="a")},
        "text a, b",
    ),
    "changed": (
        {"s": node("CLIPTextEncode", text=["1", 0]),
         "1": node("TextReplace", text="a cat", find="cat", replace="dog")},
        "text a cat (through TextReplace)",
    ),
    "computed": (
        {"s": sampler(seed=["1", 0]), "1": node("MathExpression", expression="a+1", a=["2", 0]),
         "2": node("PrimitiveInt", value=1)},
        "seed from MathExpression",
    ),
    "of a model": (
        {"s": node("CLIPTextEncode", text=["1", 0]), "1": node("Florence2Run", image=["2", 0]),
         "2": node("LoadImage", image="cat.png")},
        "text from Florence2Run",
    ),
    "part unknown": (
        {"s": node("CLIPTextEncode", text=["1", 0]),
         "1": node("StringConcatenate", string_a=["2", 0], string_b="b", delimiter=""),
         "2": node("Florence2Run", image=["3", 0])},
        "text from StringConcatenate",
    ),
    "circle": (
        {"s": sampler(seed=["1", 0]), "1": node("Reroute", x=["2", 0]),
         "2": node("Reroute", x=["1", 0])},
        "seed from Reroute",
    ),
    "itself": ({"s": sampler(seed=["s", 0])}, "seed from KSampler"),
    "nowhere": ({"s": sampler(seed=["9", 0], steps=3)}, "KSampler: steps 3"),
    "model": (
        {"s": sampler(model=["1", 0], steps=3), "1": node("ModelOnly", value="x")},
        "KSampler: steps 3",
    ),
    "aura": ({"s": node("ModelSamplingAuraFlow", shift=3.1)}, "ModelSamplingAuraFlow: shift 3.1"),
    "sd3": (
        {"s": node("ModelSamplingSD3", shift=["1", 0]), "1": node("PrimitiveFloat", value=2)},
        "ModelSamplingSD3: shift 2",
    ),
    "flux": (
        {"s": node("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=["1", 0]),
         "1": node("PrimitiveInt", value=64)},
        "ModelSamplingFlux: max_shift 1.15, base_shift 0.5, width 64",
    ),
    "clip skip": ({"s": node("CLIPSetLastLayer", stop_at_clip_layer=-2)}, "stop_at_clip_layer -2"),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_values_over_links(name):
    nodes, said = GRAPHS[name]
    first, *_ = [*describe_graph(nodes), ""]
    assert first == said or first.partition(": ")[2] == said, first


def chain(length):
    nodes = {str(i): node("Reroute", x=[str(i + 1), 0]) for i in range(length)}
    return nodes | {"s": sampler(seed=["0", 0]), str(length): node("PrimitiveInt", value=1)}


def doubled(times):
    nodes = {
        str(i): node("StringConcatenate", string_a=[str(i + 1), 0], string_b=[str(i + 1), 0])
        for i in range(times)
    }
    last = {str(times): node("PrimitiveString", value="x" * 1000)}
    return {"s": node("CLIPTextEncode", text=["0", 0])} | nodes | last


HOSTILE = {
    "long chain": chain(50_000),
    "doubled": doubled(18),
    "many": {str(i): sampler(seed=[str(i + 1), 0], steps=["0", 0]) for i in range(20_000)},
    "odd": {"1": node("KSampler", seed=[[], 0], steps=[None, 0], cfg=["1"], x={}), "2": 3, "": []},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graphs_stay_cheap(name):
    with stays_cheap():
        lines = describe_graph(json.dumps(HOSTILE[name]))
    assert len(lines) <= 50 and sum(map(len, lines)) < 100_000


@pytest.mark.parametrize(
    "packet",
    [
        "<exif:UserComment>" * 50_000,
        "<dc:description>" + "<a>" * 300_000,
        "<exif:UserComment>" + " " * 1_000_000,
        "<exif:UserComment>" + "<" * 1_000_000,
        "<exif:UserComment>" + '{"c":' * 100_000,
        "<xmp:CreatorTool>" * 50_000,
        "<mflux:a>" * 100_000,
    ],
)
def test_hostile_xmp_stays_cheap(packet):
    with stays_cheap():
        describe_other_programs({"xmp": packet})


@pytest.mark.parametrize("text", ['{"c":' * 100_000, "prompt:" + "{" * 100_000, "{" * 10**6])
def test_hostile_texts_stay_cheap(text):
    with stays_cheap():
        describe_other_programs({"prompt": text, "Comment": text, "exif": text.encode()}, text)
