"""Targets that are text: prompts, tokenizers, infotext, TOML, variables, arguments."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
from PIL import Image

from ldmref import modes
from ldmref.apps.a1111.reading import replay_parameters
from ldmref.declare import get_fields
from ldmref.errors import LdmrefError, UsageError, one_line
from ldmref.io import hub
from ldmref.io.images.infotext import infotext, parse_infotext
from ldmref.models.memory import parse_bytes
from ldmref.models.presets import preset
from ldmref.modes import notation
from ldmref.modes.control import parse_control
from ldmref.prompts.class_labels import ClassLabelTokenizer
from ldmref.prompts.clip import END, WORD_END, clip_tokenizer
from ldmref.prompts.clip_vocabulary import byte_letters
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer
from ldmref.prompts.weights import parse_prompt_weights
from ldmref.prompts.words import load_word_tokenizer
from ldmref.support.config import TABLES, settings
from ldmref.testing.clip import awkward_strings, small_vocabulary

from .cached import constants_cached
from .files import PARAMS
from .guard import REPOSITORY, Target, file, text
from .mutate import mutate_toml

TINY = preset("tiny")
EMOJI = REPOSITORY / "ldmref/assets/emoji/tokenizer.json"


def _prompts() -> list[str]:
    return [string[:300] for string in awkward_strings()[:60]]


def _encoded(*texts: str) -> list[bytes]:
    return [text.encode("utf-8", "replace")[:4000] for text in texts]


# -- prompt weights -------------------------------------------------------------------------------

WEIGHTED = (
    "a (red:1.3) [hat]", r"\(a\) \[b\] \\ x\y", "(a (b:2) c:3)", "a BREAK (b BREAK c)", "((((a]]",
    "(a:1.2.3)", ":1.3) [a:.5]", "(red: -.5 ) 16:9", "<lora:x:1>",
)  # fmt: skip
_A1111 = re.compile(r"\\\(|\\\)|\\\[|\\]|\\\\|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|]|[^\\()\[\]:]+|:")


def a1111_weights(prompt: str) -> list[tuple[str, float]]:
    """`parse_prompt_attention` of A1111 1.10, character by character; BREAK is not read."""
    spans: list[list[Any]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(begin: int, factor: float) -> None:
        for span in spans[begin:]:
            span[1] *= factor

    for match in _A1111.finditer(prompt):
        lexeme = match[0]
        weight = match[1]
        if lexeme.startswith("\\"):
            spans.append([lexeme[1:], 1.0])
        elif lexeme in opened:
            opened[lexeme].append(len(spans))
        elif weight is not None and opened["("]:
            multiply(opened["("].pop(), float(weight))
        elif lexeme == ")" and opened["("]:
            multiply(opened["("].pop(), 1.1)
        elif lexeme == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / 1.1)
        else:
            spans.append([lexeme, 1.0])
    for bracket, factor in (("(", 1.1), ("[", 1 / 1.1)):
        for begin in opened[bracket]:
            multiply(begin, factor)
    return [(character, weight) for text, weight in spans for character in text]


def run_weights(prompt: str) -> None:
    """Check that A1111 reads the same characters with the same weights."""
    sections = parse_prompt_weights(prompt)
    ours = [(c, span.weight) for spans in sections for span in spans for c in span.text]
    assert all(abs(weight) <= 1000 for _, weight in ours)
    number = re.search(r":\s*[+-]?([.\d]*\.[.\d]*\.[.\d]*|\.)\s*\)", prompt)  # A1111 raises
    if "BREAK" not in prompt and not number:
        assert ours == a1111_weights(prompt)


# -- tokenizers -----------------------------------------------------------------------------------

CHUNKS = PromptOptions("chunk")
OPTIONS = (
    PromptOptions(),
    CHUNKS,
    PromptOptions("truncate", "a1111"),
    PromptOptions("chunk", "a1111", chunks=2),
)


@lru_cache(maxsize=4)
def _largest_id(tokenizer: PromptTokenizer) -> int:
    return max(tokenizer.tokenizer.get_vocab().values())


def tokenize(tokenizer: PromptTokenizer, prompt: str) -> list[int]:
    """Return the ids of a prompt between start and end; check the shape with every option."""
    ids: list[int] = []
    for options in OPTIONS:
        try:
            tokens = tokenizer.tokenize([prompt], options)
        except UsageError:  # a weight above the limit
            assert options.prompt_weights == "a1111"
            continue
        assert tokens.ids.shape == tokens.weights.shape
        assert tokens.ids.shape[1] == max(tokens.counts[0], options.chunks)
        assert tokens.ids.shape[2] == tokenizer.length
        assert (tokens.ids >= 0).all() and np.isfinite(tokens.weights).all()
        assert tokens.ids.max() <= _largest_id(tokenizer)
        if options is CHUNKS:
            ids = tokens.ids[0].ravel().tolist()
    return ids


@cache
def _emoji() -> tuple[PromptTokenizer, dict[str, int]]:
    vocabulary = json.loads(EMOJI.read_text("utf-8"))["model"]["vocab"]
    return load_word_tokenizer(EMOJI, 16), vocabulary


def run_words(prompt: str) -> None:
    """Compare the embedded model's tokenizer with its rule in another language."""
    tokenizer, vocabulary = _emoji()
    letters = unicodedata.normalize("NFD", prompt)
    plain = "".join(c for c in letters if unicodedata.category(c) not in ("Mn", "Mc", "Me"))
    words = regex.findall(r"[\p{L}\p{N}]+|[#*!&]", "".join(c.lower() for c in plain))
    _same_chunks(tokenizer, prompt, [vocabulary.get(word, tokenizer.unknown) for word in words])


@lru_cache(maxsize=2**16)
def _changed(character: str) -> bool:
    """Return whether Unicode assigned it, or changed its category, after version 3.2."""
    category = unicodedata.category(character)
    return category == "Cn" or unicodedata.ucd_3_2_0.category(character) != category


def _same_chunks(tokenizer: PromptTokenizer, prompt: str, want: list[int]) -> None:
    got = tokenize(tokenizer, prompt)
    size = tokenizer.length - 2
    if not prompt.isascii() and any(map(_changed, prompt)):
        return  # libraries have tables of different years
    rows = [want[i : i + size] for i in range(0, len(want), size)] or [[]]
    ends = [[tokenizer.start, *row, tokenizer.end] for row in rows]
    padded = [row + [tokenizer.pad] * (tokenizer.length - len(row)) for row in ends]
    assert got == [id for row in padded for id in row]


_CLIP = clip_tokenizer(small_vocabulary())
_RANKS = {pair: rank for rank, pair in enumerate(small_vocabulary().merges)}
_SPLIT = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
_LETTERS = byte_letters()
_BYTE_LETTER = dict(
    zip([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)], _LETTERS, strict=False)
)
_BYTE_LETTER |= dict(
    zip(sorted({*range(256)} - {*_BYTE_LETTER}), _LETTERS[len(_BYTE_LETTER) :], strict=True)
)


def clip_ids(prompt: str) -> list[int]:
    """Byte-pair encoding as openai/CLIP's simple_tokenizer.py has it."""
    vocabulary = small_vocabulary().vocab
    ids = []
    prompt = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", prompt))
    for word in _SPLIT.findall("".join(c.lower() for c in prompt)):
        letters = [_BYTE_LETTER[byte] for byte in word.encode()]
        letters[-1] += WORD_END
        while len(letters) > 1:
            pairs = list(pairwise(letters))
            best = min(pairs, key=lambda pair: _RANKS.get(pair, len(_RANKS)))
            if best not in _RANKS:
                break
            merged = []
            i = 0
            while i < len(letters):
                together = tuple(letters[i : i + 2]) == best
                merged.append("".join(best) if together else letters[i])
                i += 2 if together else 1
            letters = merged
        ids += [vocabulary.get(letter, vocabulary[END]) for letter in letters]
    return ids


def run_clip(prompt: str) -> None:
    """Compare CLIP's tokenizer with byte-pair encoding in plain Python."""
    _same_chunks(_CLIP, prompt, clip_ids(prompt[:500]) if len(prompt) <= 500 else clip_ids(prompt))


_LABELS = ClassLabelTokenizer(1001)


def run_label(prompt: str) -> None:
    """Check that a label is a number below the number of classes."""
    assert 0 <= _LABELS.tokenize([prompt]).ids.item() <= 1000


# -- settings, infotext, arguments ----------------------------------------------------------------

TOML = (
    '[backend]\nname = "torch"\ndevice = "cuda:0"\ndtype = "float16"\nspeed = "fast"\n',
    '[defaults]\nsteps = 30\ncfg_scale = 2.0\nsampler = "heun"\nschedule = "karras"\nwidth = 64\n'
    'model = "m"\nheight = 64\nnegative_prompt = "x"\n',
    "a.b.c = [1, [2], {x = 1979-05-27T07:32:00Z}]\n[[t]]\n'''\n'''",
)


def run_toml(path: Path) -> None:
    """Accepted files are TOML, and every value has the type of its key."""
    read = settings(path, {})
    document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    assert {*document} <= {*TABLES}
    for table, cls in TABLES.items():
        for key, value in getattr(read, table).items():
            assert isinstance(value, get_fields(cls)[key].kind)


def run_environment(data: str) -> None:
    """NAME=value lines."""
    lines = (line.partition("=") for line in data.split("\n"))
    environ = {name: value for name, _, value in lines if name != "LDMREF_CONFIG"}
    settings(None, environ | {"HOME": "", "XDG_CONFIG_HOME": ""})


INFOTEXT = (
    infotext(PARAMS),
    infotext(PARAMS | {"prompt": "a\nb", "negative_prompt": "c"}),
    "x\nNegative prompt: y\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, "
    'Model hash: 6ce0161689, Model: v1-5, Lora hashes: "a: b, c: d", Version: v1.10.1',
)


@constants_cached
def run_replay(data: str) -> None:
    """Plan what a text says about its image, if it does."""
    params, notes = replay_parameters(data) or ({}, [])
    assert all(note == one_line(note) for note in notes)
    if params:
        del params["model"]
        image = Image.new("RGB", (16, 16))
        given = {"img2img": {"image": image}, "inpaint": {"image": image, "mask": image}}
        mode = params.pop("mode")
        modes.plan(mode, TINY, **params | given.get(mode, {}))


def run_infotext(data: str) -> None:
    """Anything can be read; what we write of it is read back."""
    read = parse_infotext(data)
    assert all(isinstance(key, str) for key in read["pairs"])
    prompt, negative, name = [*data.split("\0"), "", ""][:3]
    written = infotext(
        PARAMS | {"prompt": prompt, "negative_prompt": negative, "model": {"name": name}}
    )
    again = parse_infotext(written)
    assert again["pairs"]["Seed"] == str(PARAMS["seed"]) and again["pairs"]["Size"] == "64x32"
    lines = [*prompt.split("\n"), *negative.split("\n")]
    plain = all(line == line.strip() and not line.startswith("Negative prompt:") for line in lines)
    if plain and prompt == prompt.strip() and negative == negative.strip():
        assert (again["prompt"], again["negative_prompt"]) == (prompt, negative)
    assert again["pairs"].get("Model", "") == name or name != name.strip() or not name


ARGUMENTS = (
    "1,2,3", "-1", "18446744073709551615", "10,10", "0,0.25,1e400", "net:edges.png:0.8:0-0.5",
    "owner/model/v1-5.safetensors@fp16", "6GB", "1.5 GiB", "nan", "inf",
)  # fmt: skip


def run_arguments(data: str) -> None:
    """Every notation of the command line, on the same text."""
    parsers = (
        notation.parse_seeds,
        notation.parse_jumps,
        notation.parse_positions,
        parse_control,
        hub.parse_reference,
        parse_bytes,
    )
    for parse in parsers:
        try:
            value = parse(data)
        except LdmrefError as error:
            assert error.code.startswith("E-") and "\n" not in repr(str(error))
        else:
            if parse is parse_bytes and value is not None:
                assert value >= 0


TARGETS = {
    "prompt-weights": Target(
        run_weights, lambda: _encoded(*WEIGHTED), text,
        words=(b"(", b")", b"[", b"]", b":1.1)", b"\\", b"BREAK", b" ", b":"),
    ),
    "words": Target(run_words, lambda: _encoded("red heart", *_prompts()), text),
    "clip": Target(run_clip, lambda: _encoded(*_prompts()), text),
    "label": Target(run_label, lambda: _encoded("207", "", "1000", "٣"), text),
    "toml": Target(run_toml, lambda: _encoded(*TOML), file("ldmref.toml"), mutate_toml,
                   words=(b"[backend]", b"[defaults]", b"steps", b"=", b'"', b"[[", b"{", b"nan")),
    "environment": Target(
        run_environment,
        lambda: _encoded("LDMREF_STEPS=30\nLDMREF_BACKEND=numpy", "LDMREF_CFG_SCALE=1e5"), text,
        words=(b"LDMREF_STEPS=", b"LDMREF_CFG_SCALE=", b"LDMREF_", b"\n"),
    ),
    "infotext": Target(
        run_infotext, lambda: _encoded(*INFOTEXT, "a\0b\0c"), text,
        words=(b"Negative prompt: ", b"Steps: 1", b", ", b'"', b"\\", b"\n", b"\0", b": "),
    ),
    "replay": Target(
        run_replay, lambda: _encoded(*INFOTEXT), text,
        words=(b"Schedule type: Karras, ", b"Denoising strength: 0.5, ", b"<lora:a:1>"),
    ),
    "arguments": Target(run_arguments, lambda: _encoded(*ARGUMENTS), text),
}  # fmt: skip
