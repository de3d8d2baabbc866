"""Kinds of text encoders: each question has one answer, and another package may add a kind."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import CorruptModelError, UsageError
from ldmref.io import save_folder
from ldmref.models import TextConfig, config_from_dict, preset
from ldmref.models.fields_read import list_fields_read
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.text import text_spec
from ldmref.models.text_kind import BUILT_IN, find_text_encoder, kind_of, list_text_encoders
from ldmref.models.validate import check_config
from ldmref.prompts import PromptTokenizer, word_tokenizer

SOURCE = '''
"""A text encoder of another package: the rows of a table, times a number of the configuration."""

from dataclasses import dataclass
from typing import Annotated

from ldmref.declare import Range
from ldmref.families import TextConfig, TextEncoder
from ldmref.prompts import load_tokenizer


@dataclass(frozen=True)
class TableConfig(TextConfig):
    model_type: str = "table"
    scale: Annotated[float, Range(0.0, 100.0)] = 2.0


def spec(config):
    return {"table": {"weight": (config.vocab_size, config.hidden_size)}}


def table(ops, p, config, ids, skip=0):
    return config.scale * ops.embedding(p.table.weight, ids)


def tokenizer(config, source, pad):
    return load_tokenizer(source, config.max_position_embeddings)


FIELDS = ("model_type", "vocab_size", "hidden_size", "max_position_embeddings", "scale")
TABLE = TextEncoder(
    "table", "Table", spec, tokenizer, function=table, config=TableConfig, fields=FIELDS
)
'''


def clear():
    find_text_encoder.cache_clear()


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Install a package with a kind of text encoder; return a model that has it."""
    folder = tmp_path / "site"
    info = folder / "theirs-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "their_table.py").write_text(SOURCE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    points = "[ldmref.text_encoders]\ntable = their_table:TABLE\nwrong = their_table:spec\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(folder))
    clear()
    small = preset("tiny")
    text = find_text_encoder("table").config(
        vocab_size=512, hidden_size=small.unet.cross_attention_dim, max_position_embeddings=8
    )
    config = replace(small, name="with a table", text_encoder=text)
    words = PromptTokenizer(word_tokenizer(["a red cat"], 512), 8)
    ops = ldmref.backends.get_backend("numpy")
    yield LatentDiffusion(ops, config, init(model_spec(config), 0), words)
    clear()
    sys.modules.pop("their_table", None)


def test_a_kind_of_another_package_generates_and_is_saved(table, tmp_path):
    check_config(table.config)
    want = modes.txt2img(table, "a red cat", seed=1, steps=2).latents
    assert config_from_dict(table.config.to_dict()) == table.config
    read = list_fields_read(table.config)["text_encoder"]
    assert read["scale"] == 2.0 and "num_attention_heads" not in read
    save_folder(tmp_path / "m", table.config, table.params, table.tokenizers, np.float32)
    again = ldmref.load(tmp_path / "m", backend="numpy")
    assert again.config.text_encoder == table.config.text_encoder
    assert (modes.txt2img(again, "a red cat", seed=1, steps=2).latents == want).all()
    louder = replace(table.config, text_encoder=replace(table.config.text_encoder, scale=3.0))
    other = LatentDiffusion(table.backend, louder, table.params, table.tokenizer)
    assert (modes.txt2img(other, "a red cat", seed=1, steps=2).latents != want).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": -1.0}, "text_encoder.scale"),
        ({"skale": 1.0}, "skale"),
        ({"model_type": "clip"}, "scale"),
    ],
)
def test_fields_of_a_kind_are_checked(table, changes, message):
    values = table.config.to_dict()
    values["text_encoder"] |= changes
    with pytest.raises(CorruptModelError, match=message):
        config_from_dict(values)


def test_a_configuration_of_another_class_is_refused(table):
    text = TextConfig(model_type="table", hidden_size=32)
    with pytest.raises(CorruptModelError, match="must be a TableConfig"):
        check_config(replace(table.config, text_encoder=text))


def test_what_is_no_text_encoder_is_refused(table):
    with pytest.raises(UsageError, match="not a TextEncoder"):
        find_text_encoder("wrong")
    assert [kind.name for kind in map(find_text_encoder, BUILT_IN)] == [*BUILT_IN]


@pytest.mark.parametrize("value", ["qwen9", "", 3, None, ["clip"]])
def test_an_unknown_kind_is_an_error_and_never_clip(value):
    values = preset("tiny").to_dict()
    values["text_encoder"]["model_type"] = value
    with pytest.raises(CorruptModelError, match=r"text_encoder\.model_type"):
        config_from_dict(values)


def test_shapes_of_an_unknown_kind_are_refused():
    with pytest.raises(UsageError, match="qwen9"):
        text_spec(TextConfig(model_type="qwen9"))


def test_every_kind_answers_every_question():
    """What a model reads, whether it has states, and whether it pools, follow one from another."""
    for kind in list_text_encoders():
        assert kind.title and kind.reads in ("text", "class", "nothing")
        assert kind.pooled is None or kind.function is not None
        assert (kind.reads == "nothing") <= (kind.function is None)
        assert not kind.learns_words or kind.reads == "text"
        config = kind.config(model_type=kind.name)
        assert kind_of(config) is kind
        assert {*kind.fields} <= {*vars(config)}
