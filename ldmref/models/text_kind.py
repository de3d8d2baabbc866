"""Kinds of text encoders as data: CLIP's, T5's, and those of other packages.

A kind is shared by families: T5 serves Stable Diffusion 3 and Flux.1. A package declares one as an
entry point of the group `ldmref.text_encoders`, whose name is the `model_type` of configurations
and which names a `TextEncoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import InitVar, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ldmref.math.arrays import Array
from ldmref.models.params import Spec
from ldmref.models.text_config import TextConfig
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.support.plugins import find_declared, list_plugins
from ldmref.support.renames import keep_former

GROUP = "ldmref.text_encoders"
BUILT_IN = {
    "clip": "ldmref.models.clip:CLIP",
    "t5": "ldmref.models.t5:T5",
    "qwen3": "ldmref.families.qwen3.encoder:QWEN3",
    "ldmbert": "ldmref.models.ldmbert:LDMBERT",
    "class": "ldmref.models.class_embedding:CLASS",
    "label": "ldmref.models.class_embedding:LABEL",
    "none": "ldmref.models.class_embedding:NONE",
}
Pooled = tuple[Array, Array]


@dataclass(frozen=True)
class TextEncoder:
    """A kind of text encoder as data, which loading, modes, traces, training and pages read.

    Attributes:
        name: The `model_type` of its configurations, and the name of the entry point.
        title: Its name for people.
        spec: Returns the shapes of every parameter of a configuration.
        tokenizer: Returns the tokenizer of a configuration. Its other arguments are the location of
            the vocabulary and the id of the padding token, each None if nothing is known of it.
        function: Returns hidden states, (n, l, hidden_size), of token ids, (n, l) int64. It takes
            the backend, the parameters, the configuration, the ids and the number of final layers
            to leave out. None: the denoiser reads the ids.
        pooled: The same with the pooled output, (n, projection_dim), for configurations that have
            one. None: the kind has no pooled output.
        config: The class of its configurations, `TextConfig` or one that inherits from it.
        fields: The fields of the configuration that are read. (): all of them.
        reads: The kind of a prompt: "text"; "class", the name or number of a class; or "nothing".
        comes_with: The kinds that may be encoders of the same model. (): it is always the only one.
        learns_words: Whether textual inversion can add words.
        vocabulary: The small vocabulary of its golden runs: one of the suite, "clip", "bert" or
            "t5"; or a function that returns the files of one by name. "": none.
        trained: Whether `ldmref train` trains models with it.
        any_length: Whether it reads any number of tokens: it has no table of positions.
        activations: The values of `hidden_act` that it knows, if it reads this field.
        padding: Returns the id that fills up prompts where no file names one. None: the
            tokenizer's own.
        rename: Returns our name of a tensor, or of a layer, in files and classes of transformers.
        ignored: A pattern of the tensors in such files that it does not use.
        table: Our name of a tensor by which a file is recognised, which no other kind has. "":
            files of its own are not.
        lora_prefixes: The prefixes of its layers in kohya's LoRA files, in addition to `lora_te1_`
            and the like.
        comfyui: Its names in ComfyUI's files, if they do not depend on its place in the model.
        broken_rules: Yields the relations between fields that do not hold.
        contradicts: Returns what a file says against a configuration that its shapes fit, such as
            that it is of a sibling; "" for nothing. It takes the names of the file, its metadata
            and the configuration.
        classes, module: Former: `ldmref.ports.NetworkPort`. None: not given.

    >>> from ldmref.models.text_kind import find_text_encoder
    >>> t5 = find_text_encoder("t5")
    >>> t5.reads, t5.learns_words
    ('text', False)
    """

    name: str
    title: str
    spec: Callable[[TextConfig], Spec]
    tokenizer: Callable[[TextConfig, str | Path | None, int | None], PromptTokenizer]
    function: Callable[..., Array] | None = None
    pooled: Callable[..., Pooled] | None = None
    config: type[TextConfig] = TextConfig
    fields: tuple[str, ...] = ()
    reads: Literal["text", "class", "nothing"] = "text"
    comes_with: tuple[str, ...] = ()
    learns_words: bool = False
    vocabulary: str | Callable[[], Mapping[str, str]] = ""
    trained: bool = True
    any_length: bool = False
    activations: tuple[str, ...] = ()
    padding: Callable[[TextConfig], int | None] = lambda config: None
    rename: Callable[[str], str] = lambda name: name
    ignored: str = r".*\.position_ids"
    table: str = ""
    lora_prefixes: tuple[str, ...] = ()
    comfyui: tuple[str, ...] = ()
    broken_rules: Callable[[TextConfig], Iterable[str]] = lambda config: ()
    contradicts: Callable[[Collection[str], Mapping[str, Any], TextConfig], str] = (
        lambda names, metadata, config: ""
    )
    classes: InitVar[tuple[str, ...]] = ()
    module: InitVar[Any] = None

    def __post_init__(self, classes: tuple[str, ...], module: Any) -> None:
        keep_former(self, "ldmref.ports.NetworkPort", classes=classes, module=module)

    def reads_field(self, name: str) -> bool:
        """Return whether the kind reads a field of its configurations.

        Args:
            name: The field.
        """
        return not self.fields or name in self.fields


@cache
def find_text_encoder(name: str) -> TextEncoder:
    """Return the kind of text encoder of that name.

    Raises:
        UsageError: There is none, or its plug-in cannot be used.

    >>> find_text_encoder("clip").title
    'CLIP'
    """
    return find_declared(
        GROUP, BUILT_IN, name, TextEncoder, "kind of text encoder", "E-TEXT-ENCODER"
    )


def kind_of(config: TextConfig) -> TextEncoder:
    """Return the kind of a text encoder.

    >>> from ldmref.models import TextConfig
    >>> kind_of(TextConfig(model_type="class")).reads
    'class'
    """
    return find_text_encoder(config.model_type)


def list_text_encoders() -> Iterator[TextEncoder]:
    """Yield all kinds: those of ldmref, then those of other packages, by name."""
    for name in (*BUILT_IN, *sorted({*list_plugins(GROUP)} - {*BUILT_IN})):
        yield find_text_encoder(name)


def config_class(values: Mapping[str, object]) -> type[TextConfig]:
    """Return the class of the configuration of a text encoder, as a dictionary.

    Raises:
        UsageError: There is no kind of that name, or its plug-in cannot be used.
    """
    name = values.get("model_type", TextConfig.model_type)
    return find_text_encoder(name if isinstance(name, str) else "").config
