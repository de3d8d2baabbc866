"""The drawings of the course: their files, the truth of their numbers, and their layout.

`scripts/make_drawings.py` writes them; this runs its functions, which take a second.
"""

from __future__ import annotations

import math
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from course_pages import COURSE, ROOT

import ldmref
from ldmref.models import UNetConfig

sys.path.insert(0, str(ROOT / "scripts"))
from drawings import DRAWINGS, embedded_config, make_drawings
from drawings.canvas import SMALL, WIDTH, Rectangle
from drawings.palette import DARK, LIGHT, TONES, contrast, width_of
from drawings.shapes import Drawing

sys.path.remove(str(ROOT / "scripts"))

IMAGES = COURSE / "images"
MADE = make_drawings()
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
MARGIN = 4.0  # units between a text and the frame around it, and the edge of the drawing
SVG = "{http://www.w3.org/2000/svg}"
each = pytest.mark.parametrize("name", sorted(DRAWINGS))


def overlap(a: Rectangle, b: Rectangle) -> bool:
    """Whether two places have more than a line in common."""
    across = min(a.right, b.right) - max(a.left, b.left)
    down = min(a.bottom, b.bottom) - max(a.top, b.top)
    return across > 0.5 and down > 0.5


def inside(inner: Rectangle, outer: Rectangle, margin: float = 0.0) -> bool:
    return (
        inner.left >= outer.left + margin
        and inner.right <= outer.right - margin
        and inner.top >= outer.top
        and inner.bottom <= outer.bottom
    )


def crosses(segment: tuple[tuple[float, float], tuple[float, float]], place: Rectangle) -> bool:
    """Whether a line passes through a place."""
    (x0, y0), (x1, y1) = segment
    share = np.linspace(0, 1, 400)
    x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
    within = (place.left < x) & (x < place.right) & (place.top < y) & (y < place.bottom)
    return bool(within.any())


def faults(drawing: Drawing) -> list[str]:
    """Return what is wrong with the layout of a drawing."""
    found = []
    page = Rectangle(0, MARGIN, WIDTH, drawing.height - MARGIN)
    for i, text in enumerate(drawing.texts):
        if not inside(text.place, page, MARGIN):
            found.append(f"{text.markup!r} leaves the drawing")
        found += [
            f"{text.markup!r} overlaps {other.markup!r}"
            for other in drawing.texts[:i]
            if overlap(text.place, other.place)
        ]
        for frame in drawing.frames:
            if overlap(text.place, frame) and not inside(text.place, frame, MARGIN):
                found.append(f"{text.markup!r} crosses a frame")
        if any(crosses(segment, text.place) for segment in drawing.segments):
            found.append(f"an arrow crosses {text.markup!r}")
    return found


@each
def test_the_file_is_what_the_script_draws(name):
    """Numbers may differ in their last digit: they are computed."""
    drawn, file = MADE[name].svg(name), (IMAGES / f"{name}.svg").read_text("utf-8")
    message = f"run: python scripts/make_drawings.py {name}"
    assert NUMBER.sub("#", drawn) == NUMBER.sub("#", file), message
    values = [np.asarray(NUMBER.findall(text), float) for text in (drawn, file)]
    np.testing.assert_allclose(*values, rtol=0, atol=0.11, err_msg=message)


@each
def test_nothing_overlaps_or_overflows(name):
    assert faults(MADE[name]) == []


@each
def test_a_reader_without_eyes_gets_a_title_and_a_description(name):
    root = ElementTree.fromstring(MADE[name].svg(name))
    title, description = (root.find(f"{SVG}{tag}") for tag in ("title", "desc"))
    assert root.get("role") == "img"
    assert root.get("aria-labelledby", "").split() == [title.get("id"), description.get("id")]
    assert 3 <= len(title.text.split()) <= 12
    assert 30 <= len(description.text.split()) <= 110


@each
def test_a_drawing_needs_nothing_from_elsewhere_and_its_text_is_large(name):
    root = ElementTree.fromstring(MADE[name].svg(name))
    text = ElementTree.tostring(root, "unicode")
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"href|url\(|@import|@font-face|<script", text)
    sizes = [float(e.get("font-size")) for e in root.iter(f"{SVG}text")]
    assert sizes and min(sizes) >= SMALL >= 13
    assert root.get("viewBox") == f"0 0 {WIDTH} {MADE[name].height:g}"


@each
def test_a_chapter_shows_it_with_a_description(name):
    page = next(COURSE.glob(f"{name[:2]}-*.md")).read_text("utf-8")
    shown = re.findall(rf"!\[([^\]]+)\]\(images/{name}\.svg\)", page)
    assert len(shown) == 1
    assert len(shown[0].split()) >= 15


def test_every_drawing_in_the_tree_is_made_by_the_script():
    assert {path.stem for path in IMAGES.glob("*.svg")} == set(DRAWINGS)
    assert sum(path.stat().st_size for path in IMAGES.glob("*.svg")) < 400_000


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_have_contrast(scheme):
    assert set(LIGHT) == set(DARK)
    papers = [scheme["paper"], *(scheme[f"{tone}-tint"] for tone in TONES)]
    pairs = {("ink", paper): contrast(scheme["ink"], paper) for paper in papers}
    for tone in ("muted", *TONES):
        pairs[tone, "paper"] = contrast(scheme[tone], scheme["paper"])
    for tone in TONES:
        pairs[tone, f"{tone}-tint"] = contrast(scheme[tone], scheme[f"{tone}-tint"])
    assert {pair: value for pair, value in pairs.items() if value < 4.5} == {}
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def words(name):
    """Return the texts of a drawing in one line, without marks."""
    return " ".join(re.sub(r"[*_^{}]", "", text.markup) for text in MADE[name].texts)


def test_the_numbers_are_those_of_the_embedded_model():
    config = embedded_config()
    assert config == ldmref.load().config
    unet, vae, text = config.denoiser, config.vae, config.text_encoder
    assert isinstance(unet, UNetConfig)
    side = config.defaults.width // vae.factor
    latent = f"{vae.latent_channels} × {side} × {side}"
    image = f"3 × {config.defaults.height} × {config.defaults.width}"
    for name in ("00-system", "03-vae"):
        assert latent in words(name) and image in words(name)
    tokens, width = text.max_position_embeddings, text.hidden_size
    assert f"{tokens} tokens of {width} numbers" in words("00-system")
    assert f"{config.defaults.steps} steps" in words("00-system")
    assert f"γ = {vae.scaling_factor:.3f}" in words("04-latent-scale")
    assert f"t from 1 to {config.scheduler.num_train_timesteps}" in words("06-training")
    assert f"w = {config.defaults.cfg_scale:g}" in words("08-guidance")


def test_the_shapes_of_the_layers_are_those_of_the_weights():
    model = ldmref.load()
    unet = model.params["unet"]
    shown = words("07-unet")
    side = model.config.defaults.width // model.config.vae.factor
    for i, channels in enumerate(model.config.unet.block_out_channels):
        assert shown.count(f"{side // 2**i} × {side // 2**i} {channels} channels") == 2
        has_text = "attentions" in unet["down_blocks"][str(i)]
        assert model.config.unet.attention_levels[i] == has_text
        assert f"{len(unet['up_blocks'][str(i)]['resnets'])} skips" in shown
    assert shown.count("sees t and c") == 2 * sum(model.config.unet.attention_levels) + 1
    assert "attentions" in unet["mid_block"]
    layer = unet["down_blocks"]["1"]["attentions"]["0"]["transformer_blocks"]["0"]["attn2"]
    channels, context = layer["to_k"]["weight"].shape
    shown = words("07-cross-attention")
    assert shown.count(f"{context} × {channels}") == 2 and f"WQ {channels} × {channels}" in shown
    heads = model.config.unet.num_heads[1]
    states = model.encode_text(["a green cat"])
    positions = (side // 2) ** 2
    assert f"weights in {heads} heads {positions} × {states.shape[1]} in each" in shown
    assert f"c: {states.shape[1]} × {states.shape[2]}" in shown
    shown = words("07-attention")
    for rows, columns in ((positions, channels // heads), (positions, states.shape[1])):
        assert shown.count(f"{rows} × {columns}") == 2


def test_the_tokens_are_those_of_the_tokenizer():
    model = ldmref.load()
    ids = model.tokenize(["a green cat"]).ids[0, 0]
    pieces = [model.tokenizer.tokenizer.id_to_token(int(i)) for i in ids]
    shown = words("07-cross-attention")
    assert all(piece in shown for piece in {*pieces} - {"<start>"})


def test_the_layout_tests_see_faults():
    drawing = Drawing("Three words here", "", 100)
    drawing.box(10, 10, 60, 30, "much too wide for its box")
    drawing.text(200, 50, "one")
    drawing.text(204, 54, "another")
    drawing.text(390, 80, "over the edge")
    drawing.arrow((150, 48), (350, 48))
    found = faults(drawing)
    assert any("crosses a frame" in fault for fault in found)
    assert "'another' overlaps 'one'" in found
    assert "'over the edge' leaves the drawing" in found
    assert "an arrow crosses 'one'" in found
    assert width_of("x_{t}", 10) < width_of("xt", 10)


def test_labels_of_guidance_stand_outside_of_the_classes(pytestconfig):
    """The predictions are no classes: no text lies within a circle, not even at its ends."""
    picture = pytestconfig.rootpath / "docs/course/images/08-guidance.svg"
    root = ElementTree.parse(picture).getroot()
    spaces = {"svg": "http://www.w3.org/2000/svg"}
    circles = [
        tuple(float(circle.get(name)) for name in ("cx", "cy", "r"))
        for circle in root.iterfind(".//svg:circle", spaces)
        if float(circle.get("r")) > 10
    ]
    assert len(circles) == 3
    for text in root.iterfind(".//svg:text", spaces):
        x, y = float(text.get("x")), float(text.get("y"))
        width = 0.5 * float(text.get("font-size")) * len("".join(text.itertext()))
        left = x - width * {"middle": 0.5, "end": 1.0}.get(text.get("text-anchor"), 0.0)
        for share in (0.0, 0.5, 1.0):
            for cx, cy, r in circles:
                assert math.hypot(left + share * width - cx, y - cy) > r, "".join(text.itertext())
