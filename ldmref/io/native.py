"""ldmref's own model folders: `config.json`, `model.safetensors` and `tokenizer.json`.

The tensors are named `unet.*`, `vae.*` and `text_encoder.*`, and below that as in diffusers and
transformers. Nothing in the folder can run code.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.atomic import atomic_folder
from ldmref.io.identify import FOLDER, get_foreign_class
from ldmref.io.key_report import compare
from ldmref.io.stored_model import OpeningOptions, StoredModel, refuse_choices
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.io.tensors.writer import KINDS, TensorSource, write_to
from ldmref.io.tokenizers import tokenizer_for
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import Params, Shape, flatten
from ldmref.models.validate import config_from_dict
from ldmref.prompts.prompt_template import PLAIN
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.support.files import open_file, read_json
from ldmref.support.memmap import release_pages

SCHEMA = 1
CONFIG, WEIGHTS, TOKENIZER = FILES = ("config.json", "model.safetensors", "tokenizer.json")
TOKENIZERS = (TOKENIZER, "tokenizer_2.json", "tokenizer_3.json")  # of `TEXT_ENCODERS`
DIGESTS = "sha256"  # in config.json: the SHA-256 of the other files, by name


class NativeFolder(StoredModel):
    """A folder of ldmref, whose configuration is read at once and whose weights when they are used.

    Args:
        path: The folder.

    Raises:
        CorruptModelError: Its config.json is damaged, inconsistent, or of another program or
            version.
    """

    @classmethod
    def is_at(cls, path: Path) -> bool:
        return path.is_dir()

    @classmethod
    def open(cls, path: Path, options: OpeningOptions) -> NativeFolder:
        refuse_choices(path, options)
        return cls(path)

    def __init__(self, path: Path):
        self.path = path
        self.config, self._recorded = _read_settings(path / CONFIG)

    @property
    def has_weights(self) -> bool:
        """Whether the folder holds weights, and not only a configuration."""
        return (self.path / WEIGHTS).is_file()

    @cached_property
    def _file(self) -> TensorFile:
        for name in FILES:
            require_file(self.path, name)
        file = TensorFile(self.path / WEIGHTS)
        require_fit(file.shapes, self.config)
        return file

    @cached_property
    def _sha256(self) -> str:
        return self._file.sha256()

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of the tensors in the file of the weights, by our names."""
        return self._file.shapes

    @property
    def digest(self) -> str:
        return self._sha256

    @property
    def takes_vocabulary(self) -> bool:
        return False

    def read(self) -> dict[str, np.ndarray]:
        return dict(self._file)

    def load_tokenizers(
        self, config: ModelConfig, vocabulary: str | Path | None
    ) -> list[PromptTokenizer]:
        """Return the tokenizers of the folder."""
        templates = family_of(self.config).text.templates(self.config)
        tokenizers: list[PromptTokenizer] = []
        texts = self.config.text_encoders or (self.config.text_encoder,)
        for text, name, network in zip(texts, TOKENIZERS, TEXT_ENCODERS, strict=False):
            if tokenizers and not (self.path / name).is_file():
                break  # the others have the first's
            template = templates.get(network, PLAIN)
            tokenizers.append(tokenizer_for(text, self.path / name, None, network, template))
        return tokenizers

    def check_digests(self) -> None:
        """Refuse a folder whose files are not those that its config.json records.

        Raises:
            CorruptModelError: Names the first file that differs.
        """
        for name in (WEIGHTS, *TOKENIZERS):
            if name not in self._recorded or not (self.path / name).is_file():
                continue
            actual = self.digest if name == WEIGHTS else hash_file(self.path / name)
            if actual != self._recorded[name]:
                message = f"{name} of {self.path.name!r} has changed: its SHA-256 is {actual}, "
                message += f"{CONFIG} records {self._recorded[name][:64]}"
                hint = f"take it from its source again; if you changed it, remove {DIGESTS!r} there"
                raise CorruptModelError(message, code="E-DIGEST", hint=hint)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(folder: Path, name: str) -> None:
    """Refuse a folder that lacks a file of a model."""
    if not (folder / name).is_file():
        message = f"{folder.name!r} is not a model folder: {name} is missing"
        hint = "a model folder holds " + ", ".join(FILES)
        raise InputError(message, code="E-MODEL", hint=hint)


def read_config(path: Path) -> ModelConfig:
    """Read and check a `config.json` of ldmref.

    Raises:
        CorruptModelError: It is damaged, inconsistent, or of another program or version.
    """
    return _read_settings(path)[0]


def _read_settings(path: Path) -> tuple[ModelConfig, dict[str, str]]:
    """Read the configuration, and the recorded digests of the other files."""
    data = read_json(path)
    if not isinstance(data, dict) or "schema" not in data:
        kind = get_foreign_class(data) if isinstance(data, dict) else ""
        message = f"{path.name} is not a configuration of ldmref"
        message += f" but of a {kind}" if kind else ""
        hint = f"for diffusers, {FOLDER}" if kind else ""
        raise CorruptModelError(message, code="E-CONFIG", hint=hint)
    schema = data.pop("schema")
    recorded = data.pop(DIGESTS, {})
    if type(schema) is not int or schema != SCHEMA:
        message = f"{path.name} has schema {reprlib.repr(schema)}, this version reads {SCHEMA}"
        hint = "update your clone of ldmref, and install it again"
        raise CorruptModelError(message, code="E-SCHEMA", hint=hint)
    if not isinstance(recorded, dict) or not all(isinstance(v, str) for v in recorded.values()):
        message = f"{DIGESTS} in {path.name} is not a table of file names and digests"
        raise CorruptModelError(message, code="E-CONFIG")
    return config_from_dict(data), recorded


def require_fit(shapes: Mapping[str, Shape], config: ModelConfig) -> None:
    """Refuse tensors that are not those of a configuration."""
    compare(shapes, flatten(model_spec(config))).require(
        "the model's tensors do not fit its configuration",
        hint="the file and its config.json must come from the same model",
    )


def check_weights(flat: Mapping[str, np.ndarray], allow_nonfinite: bool = False) -> list[str]:
    """Refuse weights that are NaN or infinite; return warnings about suspicious ones.

    Args:
        flat: Tensors by name.
        allow_nonfinite: Whether NaN and infinity only cause a warning.

    Raises:
        CorruptModelError: Names the first five.
    """
    bad = []
    zero = []
    for name, stored in flat.items():
        tensor = np.asarray(stored)  # deferred ones are computed once
        if not np.isfinite(tensor).all():
            bad.append(name)
        elif tensor.ndim > 1 and tensor.size and not tensor.any():
            zero.append(name)
        release_pages(tensor)
    problem = f"{len(bad)} tensors hold NaN or infinity: {', '.join(bad[:5])}"
    if bad and not allow_nonfinite:
        hint = "take the file from its source again; allow_nonfinite (--allow-nonfinite) reads it"
        raise CorruptModelError(problem, code="E-NONFINITE", hint=hint)
    warnings = [problem] if bad else []
    if zero:
        few = f"{', '.join(zero[:5])}{', ...' * (len(zero) > 5)}"
        warnings.append(f"{len(zero)} weights are all zero, as in an incomplete file: {few}")
    return warnings


def check_network(name: str, tree: Mapping[str, Any], allow_nonfinite: bool = False) -> list[str]:
    """Check the weights of one network, a tree of host arrays, as `check_weights` does."""
    return check_weights(flatten(tree, f"{name}."), allow_nonfinite)


def save_folder(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    tokenizers: Sequence[PromptTokenizer],
    dtype: type = np.float16,
) -> None:
    """Write a model folder; it appears complete or not at all.

    Args:
        folder: The folder to write.
        config: The configuration.
        params: A tree of arrays for each network of `model_spec`.
        tokenizers: One tokenizer per text encoder, or one for both.
        dtype: The data type to store the weights in, such as `numpy.float16`.

    Raises:
        OutputError: It cannot be written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import ldmref
    >>> from ldmref.io import save_folder
    >>> model = ldmref.random_model("tiny")
    >>> folder = Path(tempfile.mkdtemp()) / "tiny"
    >>> save_folder(folder, model.config, model.params, [model.tokenizer])
    >>> ldmref.load(folder).config.name
    'tiny'
    """
    flat = flatten(params)
    require_fit({name: tuple(leaf.shape) for name, leaf in flat.items()}, config)
    texts = dict(zip(TOKENIZERS, (t.tokenizer.to_str() for t in tokenizers), strict=False))
    kind = KINDS[np.dtype(dtype)]
    sources = {
        name: TensorSource(kind, tuple(leaf.shape), partial(np.ascontiguousarray, leaf, dtype))
        for name, leaf in flat.items()
    }
    with atomic_folder(Path(folder)) as temporary:
        with open(temporary / WEIGHTS, "wb") as file:
            write_to(file, sources)
        for name, text in texts.items():
            (temporary / name).write_text(text, "utf-8")
        digests = {DIGESTS: {name: hash_file(temporary / name) for name in (WEIGHTS, *texts)}}
        settings = {"schema": SCHEMA} | digests | config.to_dict()
        (temporary / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
