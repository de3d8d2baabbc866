"""What stands in the place of a text encoder: a table of classes, their numbers, or nothing."""

from __future__ import annotations

from pathlib import Path

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.models.params import Params, Spec
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import TextEncoder
from ldmref.prompts.class_labels import ClassLabelTokenizer
from ldmref.prompts.tokenizer import PromptTokenizer


def class_spec(config: TextConfig) -> Spec:
    """Return the shape of the table of classes."""
    return {"embedding": {"weight": (config.vocab_size, config.hidden_size)}}


def embed_class(ops: Backend, p: Params, config: TextConfig, ids: Array, skip: int = 0) -> Array:
    """Return the rows of the classes; ids: (n, 1) int64 -> (n, 1, hidden_size).

    There is no layer to skip.
    """
    return ops.embedding(p.embedding.weight, ids)


def label_tokenizer(
    config: TextConfig, source: str | Path | None, pad: int | None
) -> PromptTokenizer:
    """Return the tokenizer of class numbers and names, which needs no file."""
    return ClassLabelTokenizer(config.vocab_size, config.class_names)


def empty_tokenizer(
    config: TextConfig, source: str | Path | None, pad: int | None
) -> PromptTokenizer:
    """Return the tokenizer that accepts the empty prompt alone."""
    return ClassLabelTokenizer(0, config.class_names)


def no_spec(config: TextConfig) -> Spec:
    """Return no parameter."""
    return {}


CLASS = TextEncoder(
    name="class",
    title="class",
    spec=class_spec,
    tokenizer=label_tokenizer,
    function=embed_class,
    fields=("model_type", "vocab_size", "hidden_size", "class_names"),
    reads="class",
)
LABEL = TextEncoder(
    name="label",
    title="label",
    spec=no_spec,
    tokenizer=label_tokenizer,
    fields=("model_type", "vocab_size", "class_names"),
    reads="class",
)
NONE = TextEncoder(
    name="none",
    title="none",
    spec=no_spec,
    tokenizer=empty_tokenizer,
    fields=("model_type",),
    reads="nothing",
)
