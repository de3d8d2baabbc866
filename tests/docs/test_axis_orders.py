"""Every sentence about an order of the numbers of a patch is run.

Such a sentence stands in one paragraph, table row or docstring with a pattern like
`n c (h p) (w q) -> n (h w) (c p q)`, and RUNS says which code each pattern describes; or ELSEWHERE
has its words, with the reason why it is no order of a patch or the test that runs it.
"""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import ldmref.math as lm
from ldmref.backends import get_backend
from ldmref.cases import golden_model
from ldmref.families.flux import network as flux
from ldmref.families.sd3 import network as sd3
from ldmref.families.z_image import network as z_image
from ldmref.math.tokens import cut_patches, join_patches
from ldmref.models.params import Params

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
SOURCES = sorted((ROOT / "ldmref").glob("**/*.py"))
ONE = r"(?:channels?|rows?|columns?)"
SENTENCE = re.compile(
    rf"\b{ONE}\)?(?:,| and| then|,? then its) (?:then )?(?:its )?{ONE}(?:,| and| then)+ "
    rf"(?:then )?(?:its )?{ONE}\b|\bchannels? (?:comes? |is |are )?(?:first|last)\b",
    re.IGNORECASE,
)
PATTERN = re.compile(r"`(n [a-z ()]+ -> n [a-z ()]+)`")
CUT, CUT_LAST = "n c (h p) (w q) -> n (h w) (c p q)", "n c (h p) (w q) -> n (h w) (p q c)"
JOIN, JOIN_LAST = "n (h w) (c p q) -> n c (h p) (w q)", "n (h w) (p q c) -> n c (h p) (w q)"
LAYOUT = "the layout of an array in memory, which tests/backends compare with plain arrays"
ELSEWHERE = {  # words of a sentence: why it has no pattern
    "channels last": LAYOUT,
    "channels first, an image of shape (h, w, 1)": "about the shape of images that are refused",
    "SD3 keeps the channels last in a patch, Flux first": "tests/locate/test_locate_layers.py",
    "in the order of the latents: channel, row, column": "tests/samplers compare the noise",
    "write each as a row: channel, row, column": "the solution, which `ldmref check` marks",
    "folded by 2 x 2 to 128 in the order (channel, row, column)": "tests/families/test_flux2.py",
    "z folded to channels in the order (channel, row, column)": "tests/families/test_flux2.py",
    "channels are read as row, column, channel": "a mistake; tests/locate runs it",
    "a patch is read as row, column, channel": "a mistake; tests/locate runs it",
    "axes of a head (time, row, column)": "positions",
}


def rearrange(x, pattern, **sizes):
    """Return x with its axes in the order of a pattern; names in parentheses are joined."""
    left, right = (
        [part.strip("()").split() for part in re.findall(r"\([^)]*\)|\w+", side)]
        for side in pattern.split("->")
    )
    lengths = dict(sizes)
    for names, length in zip(left, x.shape, strict=True):
        unknown = [name for name in names if name not in lengths]
        assert len(unknown) <= 1
        known = int(np.prod([lengths[name] for name in names if name in lengths]))
        lengths |= {name: length // known for name in unknown}
    flat_left, flat_right = [*itertools.chain(*left)], [*itertools.chain(*right)]
    x = x.reshape([lengths[name] for name in flat_left])
    x = x.transpose([flat_left.index(name) for name in flat_right])
    return x.reshape([int(np.prod([lengths[name] for name in names])) for names in right])


RNG = np.random.default_rng(0)
NUMPY = get_backend("numpy", dtype="float64")
X = RNG.standard_normal((2, 3, 4, 6))  # two rows and three columns of patches
ROWS = RNG.standard_normal((2, 6, 12))
SIZES = {"h": 2, "w": 3, "p": 2, "q": 2}


def in_float64(values):
    if hasattr(values, "items"):
        return Params({name: in_float64(value) for name, value in values.items()})
    return np.asarray(values, np.float64)


def out_of(family):
    """Return the image of a network whose last layer returns 0, 1, 2, ... for each token."""
    model = golden_model({"sd3": "sd3-medium", "flux": "flux-dev", "z-image": "z-image"}[family])
    params, config = in_float64(model.params["transformer"]), model.config.denoiser
    final = (
        params["all_final_layer"]["2-1"]["linear"] if family == "z-image" else params["proj_out"]
    )
    final["weight"] *= 0.0
    final["bias"][:] = np.arange(len(final["bias"]))
    t = np.full(1, 0.5)
    if family == "z-image":
        x = np.ones((1, config.in_channels, 4, 6))
        text = np.ones((1, 5, config.cap_feat_dim))
        y = z_image.transformer(NUMPY, params, config, x, t, text, np.ones((1, 5)))
    else:
        x = np.ones((1, config.in_channels, 4, 6))
        text = np.ones((1, 5, config.joint_attention_dim))
        pooled = np.ones((1, config.pooled_projection_dim))
        network = flux.transformer if family == "flux" else sd3.transformer
        guidance = (np.ones(1),) if family == "flux" else ()
        y = network(NUMPY, params, config, x, t, text, pooled, *guidance)
    rows = np.broadcast_to(np.arange(len(final["bias"])), (1, 6, len(final["bias"])))
    return y, rows.astype(float)


def into_sd3():
    """Return what SD3's convolution makes of an image, with one output for each weight."""
    kernel = np.eye(12).reshape(12, 3, 2, 2)
    params = in_float64({"proj": {"weight": kernel, "bias": np.zeros(12)}})
    return sd3.embed_patches(NUMPY, params, X, 2)


def as_rows(grid):
    return grid.reshape(2, 6, 12)


RUNS = {  # pattern: what it says of which code, as pairs of a result and an input
    CUT: {
        "patchify": lambda: (lm.patchify(X), X),
        "Stable Diffusion 3": lambda: (into_sd3(), X),
        "Flux.1": lambda: (as_rows(cut_patches(X)), X),
    },
    CUT_LAST: {"Z-Image": lambda: (as_rows(cut_patches(X, channels_last=True)), X)},
    JOIN: {
        "unpatchify": lambda: (lm.unpatchify(ROWS, 4, 6), ROWS),
        "Flux.1": lambda: out_of("flux"),
        "Flux.1, Krea 2": lambda: (join_patches(ROWS, 2, 3), ROWS),
    },
    JOIN_LAST: {
        "Stable Diffusion 3": lambda: out_of("sd3"),
        "Z-Image": lambda: out_of("z-image"),
    },
}
CASES = [(pattern, code) for pattern, found in RUNS.items() for code in found]


@pytest.mark.parametrize(("pattern", "code"), CASES)
def test_a_pattern_says_what_the_code_does(pattern, code):
    result, source = RUNS[pattern][code]()
    assert np.ptp(result) > 0
    np.testing.assert_array_equal(result, rearrange(source, pattern, **SIZES))
    others = [other for other in RUNS if other != pattern and other[:4] == pattern[:4]]
    assert not any(np.array_equal(result, rearrange(source, p, **SIZES)) for p in others)


@pytest.mark.parametrize(
    ("name", "module", "pattern"), [("flux-dev", flux, CUT), ("z-image", z_image, CUT_LAST)]
)
def test_the_networks_cut_their_inputs_so(name, module, pattern, monkeypatch):
    seen = []

    def watch(x, channels_last=False):
        seen.append((x, cut_patches(x, channels_last=channels_last)))
        return seen[-1][1]

    monkeypatch.setattr(module, "cut_patches", watch)
    out_of({"flux-dev": "flux", "z-image": "z-image"}[name])
    ((x, grid),) = seen
    tokens = grid.reshape(len(x), -1, grid.shape[-1])
    np.testing.assert_array_equal(tokens, rearrange(x, pattern, p=2, q=2))


def test_the_table_of_the_course_says_which_network_has_which_order():
    page = (ROOT / "docs" / "course" / "14-transformers-for-images.md").read_text("utf-8")
    rows = re.findall(r"^\| ([\w. -]+)[,:].*? \| `(n .*?)` \| `(n .*?)` \|$", page, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["Stable Diffusion 3", "Flux.1", "Z-Image"]
    for name, cut, joined in rows:
        assert name in RUNS[cut] and name in RUNS[joined]


def paragraphs(page):
    """Yield paragraphs and table rows, and items of lists, without code."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        yield from lines if lines and lines[0].startswith("|") else re.split(r"\n(?=- )", paragraph)


def docstrings(path):
    """Yield the docstrings of a source, and the other texts of its code."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def unproven(text):
    """Return the sentences about an order in a text without a pattern, which no table has."""
    if PATTERN.search(text) or "is missing; " in text:
        return []
    words = " ".join(text.split())
    known = [reason for part, reason in ELSEWHERE.items() if part.lower() in words.lower()]
    return [] if known else [match[0] for match in SENTENCE.finditer(words)]


def places():
    for page in PAGES:
        yield page, [*paragraphs(page)]
    for source in SOURCES:
        if "check/chapters" not in source.as_posix():  # texts of mistakes, which tests/check run
            yield source, [*docstrings(source)]


def test_every_sentence_about_an_order_has_a_pattern():
    found = {
        path.relative_to(ROOT): [s for text in texts for s in unproven(text)]
        for path, texts in places()
    }
    assert not {path: sentences for path, sentences in found.items() if sentences}


def test_every_pattern_is_run():
    patterns = {p for _, texts in places() for text in texts for p in PATTERN.findall(text)}
    assert {CUT, CUT_LAST, JOIN, JOIN_LAST} == patterns & {*RUNS}
    assert not patterns - {*RUNS}


@pytest.mark.parametrize(
    "sentence",
    [
        "The order is channel, row, column in Stable Diffusion 3.",
        "Within a patch the channel comes first.",
        "Rows, then columns, then channels.",
        "The channel is last in a token.",
    ],
)
def test_a_sentence_without_a_pattern_is_found(sentence):
    assert unproven(sentence)
    assert not unproven(f"{sentence} `{CUT}`")
