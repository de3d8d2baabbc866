"""Rows of the fault table about numbers that no float holds, and texts that grow."""

from __future__ import annotations

import json
import math
import struct
from types import SimpleNamespace

import pytest
from fault_cases import HTTP, PYTHON, covers
from fault_growth import growth

from ldmref import explore, modes
from ldmref.apps.a1111.reading import replay_parameters
from ldmref.apps.a1111.second_pass import second_pass_levels
from ldmref.apps.mcp.schedules import ScheduleRequest, answer_schedule
from ldmref.apps.server.responses import JSONResponse, add_warnings
from ldmref.atlas import count_tokens, find_flow_schedule, make_flow_sigmas, read_numbers
from ldmref.atlas.reading import MAX_NUMBERS, MAX_TEXT
from ldmref.errors import CorruptModelError, InputError, LdmrefError, UsageError
from ldmref.models.presets import preset
from ldmref.prompts import (
    Wildcards,
    read_styles,
    read_wildcards,
    text_checks,
    unigram,
    unigram_tokenizer,
)
from ldmref.prompts.clip_vocabulary import read_vocabulary
from ldmref.prompts.wordpiece import wordpiece_tokenizer
from ldmref.trace.name_maps import make_renamer

TINY = 5e-324
DIGITS = "9" * 5000

# -- 160: numbers ---------------------------------------------------------------------------------

LISTS = ("1e400", "1e309", "0e400", "1e-400", f"1e{DIGITS}", DIGITS, f"0.{DIGITS}", "1e999 0.5")


@covers(160, "eight lists of flow times, six sizes, too many numbers", PYTHON, code="E-SIGMAS")
def test_numbers_of_schedules():
    for text in LISTS:
        with pytest.raises(InputError) as caught:
            read_numbers(f"{text} 0.5 0.25")
        assert caught.value.code == "E-SIGMAS", text[:20]
    for text in ("0.5 " * (MAX_NUMBERS + 1), "0.5" + " " * MAX_TEXT):
        with pytest.raises(InputError):
            read_numbers(text)
    for size in ((0, 0), (8, 8), (65536, 65536), (2**40, 16), (-16, 16), (10**5000, 16)):
        with pytest.raises(UsageError):
            count_tokens(*size)
    for steps, tokens in ((10**9, 4096), (0, 4096), (4, 0), (4, 2**21), (4, 10**5000)):
        with pytest.raises(UsageError):
            make_flow_sigmas(find_flow_schedule("FLUX.1"), steps, tokens)


def test_the_largest_image_of_every_schedule_is_a_number():
    from ldmref.atlas import read_flow_schedules

    tokens = count_tokens(16384, 16384)
    for row in read_flow_schedules():
        made = make_flow_sigmas(row, len(row.sigmas) or 4, tokens)
        assert all(map(math.isfinite, made)), row.name


@covers(160, "20,000 times the same program", PYTHON, code="E-PROGRAM")
def test_programs_are_named_once():
    with pytest.raises(UsageError) as caught:
        answer_schedule(ScheduleRequest("FLUX.1", ("BFL",) * 20_000))
    assert caught.value.code == "E-PROGRAM"
    assert len(answer_schedule(ScheduleRequest("FLUX.1", ("BFL", "bfl", "b-f-l")))) == 1


@covers(160, "three strengths of a second pass", PYTHON, code="E-UPSCALE")
def test_strengths_whose_quotient_overflows(tiny):
    for strength in (TINY, 1e-320, 1e-308):
        with pytest.raises(UsageError) as caught:
            modes.txt2img(tiny, "a", steps=2, upscale=2, upscale_strength=strength)
        assert caught.value.code == "E-UPSCALE" and caught.value.parameter
        assert second_pass_levels(preset("sd15"), "euler", "karras", 20, strength) is None


LINE = "a cat\nSteps: 20, Seed: 1, CFG scale: 7, Size: 64x64, Sampler: Euler"
NUMBERS = ("CFG scale", "Denoising strength", "Hires upscale", "Hires steps", "Mask blur", "Eta")


@covers(160, "six numbers of A1111's text by five values", PYTHON, code="E-REPLAY")
def test_numbers_of_a1111s_text():
    for name in NUMBERS:
        for value in ("nan", "inf", "-inf", "1e400", "1" + "0" * 30):
            line = LINE.replace("CFG scale: 7", f"{name}: {value}")
            more = ", Hires upscale: 2" if name == "Hires steps" else ""
            with pytest.raises(InputError) as caught:
                replay_parameters(line + more)
            assert caught.value.code == "E-REPLAY", (name, value)


@covers(160, "NaN and numbers of thousands of digits in an answer", PYTHON)
def test_answers_hold_no_number_that_json_lacks():
    odd = {"a": [math.nan, math.inf, 1.5, 10**5000], "b": {"c": (-math.inf, 2**64)}}
    assert json.loads(JSONResponse(odd).body) == {
        "a": [None, None, 1.5, None],
        "b": {"c": [None, 2**64]},
    }
    response = add_warnings(JSONResponse({}), ["dall-e-\ud800 is not served here"])
    assert response.headers["ldmref-warning"].startswith("dall-e-")


def test_a_name_with_half_a_surrogate_pair(client):
    for name in ("dall-e-\ud800", "gpt-image-\udfff", "\ud800"):
        body = json.dumps({"model": name, "prompt": "cat", "size": "16x16"})
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/images/generations", content=body, headers=headers)
        assert answer.status_code < 500, name


@covers(165, "four types to four routes", HTTP, code="E-TYPE")
def test_other_types_than_json(client):
    for path in ("/v1/schedules", "/v1/schedules/", "/v1/jobs", "/v1/generate", "/mcp"):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            headers = {"Content-Type": kind} if kind else {}
            answer = client.post(path, content=b'{"family": "SD3"}', headers=headers)
            assert answer.status_code == 415, (path, kind)


# -- 162: vocabularies ----------------------------------------------------------------------------


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


def piece(text):
    inner = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", -1.0)
    return b"\x0a" + varint(len(inner)) + inner


def varint(value):
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


@covers(162, "piece of 1 MB in four kinds, and base64 that is none", PYTHON, code="E-TOKENIZER")
def test_long_pieces_never_reach_the_library(tmp_path, monkeypatch):
    def reached(*arguments, **options):
        raise AssertionError("handed over")

    for name in ("unigram.Unigram", "wordpiece.WordPiece", "clip_vocabulary.BPE", "clip.Tokenizer"):
        monkeypatch.setattr(f"ldmref.prompts.{name}", SimpleNamespace(read_file=reached))
    long = "a" * 2**20
    marks = [["<unk>", 0.0], ["</s>", 0.0], ["<pad>", 0.0]]
    unigrams = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [*marks, [long, -1.0]]}}
    odd = {**unigrams, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "*"}}
    odd["model"] = {"unk_id": 0, "vocab": marks}
    words = {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, long: 1}}}
    bpe = {"model": {"vocab": {long: 0}, "merges": []}}
    cases = (
        (unigram_tokenizer, "tokenizer.json", unigrams),
        (unigram_tokenizer, "tokenizer.json", odd),
        (unigram_tokenizer, "spiece.model", piece(b"<unk>") + piece(long.encode())),
        (wordpiece_tokenizer, "tokenizer.json", words),
        (wordpiece_tokenizer, "vocab.txt", long.encode()),
        (read_vocabulary, "tokenizer.json", bpe),
    )
    for read, name, data in cases:
        with pytest.raises(CorruptModelError) as caught:
            read(write(tmp_path / name, data))
        assert caught.value.code == "E-TOKENIZER", (read, name)


@covers(162, "lines, fields and unpacked bytes above the limits", PYTHON, code="E-TOKENIZER")
def test_vocabularies_are_counted_before_they_are_read(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setattr(text_checks, "MAX_PIECES", 100)
    monkeypatch.setattr(unigram, "MAX_FIELDS", 100)
    lines = b"a\n" * 101
    (tmp_path / "bpe").mkdir()
    write(tmp_path / "bpe" / "vocab.json", {"a": 0})
    write(tmp_path / "bpe" / "merges.txt", lines)
    bomb = gzip.compress(b"a b\n" * 2**22)
    cases = (
        (wordpiece_tokenizer, write(tmp_path / "vocab.txt", lines)),
        (unigram_tokenizer, write(tmp_path / "spiece.model", piece(b"a") * 101)),
        (read_vocabulary, tmp_path / "bpe"),
        (read_vocabulary, write(tmp_path / "bpe_simple_vocab_16e6.txt.gz", bomb)),
    )
    for read, path in cases:
        with pytest.raises(CorruptModelError) as caught:
            read(path)
        assert caught.value.code == "E-TOKENIZER", path


# -- 163: texts that grow -------------------------------------------------------------------------


@covers(163, "wildcards that grow, or follow a long text", PYTHON, code="E-WILDCARD")
def test_wildcards_stop_growing(monkeypatch):
    longest = 0
    searched = type("Pattern", (), {})()
    pattern = __import__("ldmref.prompts.templates", fromlist=["WILDCARD"]).WILDCARD

    def search(text):
        nonlocal longest
        longest = max(longest, len(text))
        return pattern.search(text)

    searched.search = search
    monkeypatch.setattr("ldmref.prompts.templates.WILDCARD", searched)
    tables = {
        "itself": {"a": ["__a__" + "b" * 9000]},
        "twice": {"a": ["__a__ __a__"]},
        "long": {"a": ["b" * 9000 + " __b__"], "b": ["c" * 9000 + " __a__"]},
    }
    for title, table in tables.items():
        with pytest.raises(UsageError) as caught:
            Wildcards(table).expand("__a__", 1)
        assert caught.value.code == "E-WILDCARD", title
    long = "b" * 2**20 + "__a__"
    assert Wildcards({"a": ["x"]}).expand(long, 1) is long
    assert longest < 2 * text_checks.MAX_TEXT


@covers(163, "folders with a line of 1 MB, and with too much", PYTHON, code="E-WILDCARD")
def test_folders_of_wildcards(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", b"red\n" + b"b" * 2**20 + b"\n")
    with pytest.raises(InputError) as caught:
        read_wildcards(tmp_path)
    assert caught.value.code == "E-WILDCARD"
    write(tmp_path / "a.txt", b"red\n" * 100)
    monkeypatch.setattr("ldmref.prompts.templates.MAX_FOLDER", 300)
    with pytest.raises(InputError):
        read_wildcards(tmp_path)
    monkeypatch.setattr("ldmref.prompts.templates.MAX_FILES", 0)
    with pytest.raises(InputError, match="files"):
        read_wildcards(tmp_path)


@covers(163, "styles with a field of 200 kB, an open quote, two names", PYTHON, code="E-STYLES")
def test_styles_that_are_no_table(tmp_path):
    start = "name,prompt,negative_prompt\n"
    rows = "".join(f"style {i},a,b\n" for i in range(9000))
    for text in (f"a,{'b' * 200_000},c\n", f'a,"{rows}', f"{rows}style 1,c,d\n"):
        with pytest.raises(InputError) as caught:
            read_styles(write(tmp_path / "styles.csv", (start + text).encode()))
        assert caught.value.code == "E-STYLES"
    write(tmp_path / "styles.csv", (start + rows).encode())
    assert len(read_styles(tmp_path / "styles.csv")) == 9000


@covers(163, "globs of 20 stars, and braces with other digits", PYTHON, code="E-NAMES")
def test_globs_take_linear_time():
    def match(name):
        assert make_renamer({"*a" * 20 + "*b": "x"})(name) is None

    assert growth(match, lambda n: "a" * n, 2000) < 3.0
    rename = make_renamer({"blk.*.*.w": "{2}.{1}", "*x*": "*-*"})
    assert rename("blk.1.2.3.w") == "2.3.1" and rename("axbxc") == "a-bxc"
    assert rename("blk..w") is None and rename("w") is None
    for new in ("{²}", "{" + DIGITS + "}", "{٣}", "{1_0}"):
        with pytest.raises(UsageError) as caught:
            make_renamer({"a*": new})
        assert caught.value.code == "E-NAMES", new[:9]


# -- 164: branches --------------------------------------------------------------------------------


@covers(164, "5,000 branches, and a branch of itself", PYTHON, code="E-RECORD")
def test_branches_of_branches(tiny):
    trunk = {"mode": "txt2img", "prompt": "a", "seed": 1, "steps": 3}
    for _ in range(5000):
        trunk = {"trunk": trunk, "step": 1, "changes": {}}
    endless = {"step": 0, "changes": {}}
    endless["trunk"] = endless
    for recipe in (trunk, endless):
        for step in (0, 1):
            with pytest.raises(UsageError):
                explore.branch_run(tiny, recipe, step)


def test_other_objects_than_runs_and_axes(tiny):
    for call in (
        lambda: explore.truth_line(tiny, "text"),
        lambda: explore.truth_line(tiny, None),
        lambda: explore.plan_grid(tiny, None),
        lambda: explore.plan_grid(tiny, "steps"),
    ):
        with pytest.raises(LdmrefError):
            call()


def test_booleans_of_a1111_are_those_of_pydantic():
    from ldmref.apps.server.a1111.fields import Fields

    for word in ("True", "true", "1", "on", "YES", "t", "y", True, 1):
        assert Fields({"tiling": word}).flag("tiling") is True, word
    for word in ("False", "false", "0", "off", "No", "f", "n", False, 0):
        assert Fields({"tiling": word}).flag("tiling", True) is False, word
    for word in ("maybe", "", "2", 2, [], "truee"):
        with pytest.raises(LdmrefError):
            Fields({"tiling": word}).flag("tiling")
