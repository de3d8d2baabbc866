"""LoRAs and learned words that a server has, for the requests that name them.

The folders are read once, when the server starts. A request names a file by its stem, which is
looked up in that table, so it cannot reach any other file. A model with the adapters of a request
is a copy that shares all other tensors; the last one of each model is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldmref.apps.server.tasks import Report, ServedTask
from ldmref.errors import InputError, LdmrefError, UsageError, did_you_mean, one_line, short_repr
from ldmref.io.adapters.control_lora import widen_config
from ldmref.io.adapters.lora import with_loras
from ldmref.io.adapters.lora_changes import match_tensors
from ldmref.io.adapters.lora_file import Lora, check_lora_weight, read_loras
from ldmref.io.adapters.textual_inversion import read_embeddings, read_words
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.model import LatentDiffusion
from ldmref.support.server_settings import ServerSettings

MOST = 20  # adapters of one request
USAGE = '"loras": [{"name": "style", "weight": 0.8}]'


@dataclass(frozen=True)
class WantedAdapters:
    """The adapters of a request: names of LoRAs with their weights, and learned words."""

    loras: tuple[tuple[str, float], ...] = ()
    words: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.loras or self.words)

    def describe(self) -> dict[str, Any]:
        """Return the keys of the request that ask for them."""
        loras = [{"name": name, "weight": weight} for name, weight in self.loras]
        keys = {"loras": loras, "embeddings": [*self.words]}
        return {key: value for key, value in keys.items() if value}


@dataclass
class ModelAdapters:
    """The adapters that fit a model, by name, and the copy of it that was asked for last."""

    model: LatentDiffusion
    loras: dict[str, Path] = field(default_factory=dict)
    words: dict[str, Path] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    last: tuple[WantedAdapters, LatentDiffusion] | None = None

    def apply(self, wanted: WantedAdapters) -> LatentDiffusion:
        """Return the model with adapters.

        Raises:
            LdmrefError: A file has changed since the server started, and cannot be used.
        """
        with self.lock:
            if self.last is None or self.last[0] != wanted:
                self.last = None  # two copies do not need to fit into the memory
                files = [(self.loras[name], weight) for name, weight in wanted.loras]
                words = read_words([self.words[word] for word in wanted.words])
                model = with_loras(self.model, read_loras(files)) if files else self.model
                self.last = wanted, model.with_embeddings(words) if words else model
            return self.last[1]


class Adapters:
    """The adapters of a server.

    Args:
        models: By name.
        settings: `lora_folder` and `embedding_folder`.

    Attributes:
        warnings: A line for each file that no model can use.

    Raises:
        InputError: A folder does not exist.
    """

    def __init__(self, models: Mapping[str, LatentDiffusion], settings: ServerSettings):
        self.warnings: list[str] = []
        self.of = {name: ModelAdapters(model) for name, model in models.items()}
        for path in list_files(settings.lora_folder, "lora-folder"):
            self._offer(path, self._offer_lora)
        for path in list_files(settings.embedding_folder, "embedding-folder"):
            self._offer(path, self._offer_words)

    def _offer(self, path: Path, offer: Callable[[Path, ModelAdapters], None]) -> None:
        """Offer a file to all models, and note if none can use it."""
        problems = []
        for adapters in self.of.values():
            try:
                offer(path, adapters)
            except LdmrefError as error:
                problems.append(error)
        if len(problems) == len(self.of):
            self.warnings.append(one_line(f"{path.name} is left out: {problems[0]}"))

    def _offer_lora(self, path: Path, adapters: ModelAdapters) -> None:
        lora = Lora(path.stem, TensorFile(path))
        config = adapters.model.config
        if widen_config(config, [lora]) is not config:
            message = "a model with it reads a control image, so it cannot come and go by request"
            raise UsageError(message, code="E-LORA")
        match_tensors(config, lora)
        adapters.loras[path.stem] = path

    def _offer_words(self, path: Path, adapters: ModelAdapters) -> None:
        embeddings = read_embeddings(path)
        adapters.model.with_embeddings(embeddings)
        adapters.words[embeddings[0].word] = path

    def describe(self, model: str) -> dict[str, list[Any]]:
        """Return the names of the LoRAs and the words, with their files, that a model can use."""
        own = self.of[model]
        words = [{"word": word, "file": path.name} for word, path in own.words.items()]
        return {"loras": [*own.loras], "embeddings": words}

    def choose(self, model: str, body: Mapping[str, Any]) -> WantedAdapters:
        """Return the adapters that a body names in `loras` and `embeddings`.

        Raises:
            UsageError: The model cannot use one, or the form is wrong.
        """
        own = self.of[model]
        loras = tuple(read_named(body.get("loras", []), own.loras, model))
        words = read_list(body.get("embeddings", []), "embeddings", '"embeddings": ["<toy>"]')
        for word in words:
            require_known(word, own.words, "embedding", model)
        names = [name for name, _ in loras] + words
        if len({*names}) < len(names):
            raise UsageError("an adapter is named twice", code="E-LORA", hint="give one weight")
        return WantedAdapters(loras, tuple(words))


def list_files(folder: str | None, name: str) -> list[Path]:
    """Return the safetensors files of a folder, by name; none without a folder.

    Raises:
        InputError: It is not a folder.
    """
    if folder is None:
        return []
    path = Path(folder)
    if not path.is_dir():
        message = f"--{name} must be a folder, and {folder!r} is none"
        raise InputError(message, code="E-FOLDER", hint="it holds .safetensors files")
    return sorted(path.glob("*.safetensors"))


def read_list(value: object, name: str, usage: str) -> list[Any]:
    """Return a list of adapters.

    Raises:
        UsageError: It is something else, or too long.
    """
    if not isinstance(value, list) or len(value) > MOST:
        message = f"{name} must be a list of at most {MOST}, not {short_repr(value)}"
        raise UsageError(message, code="E-LORA", hint=usage)
    return value


def read_named(value: object, known: Mapping[str, Path], model: str) -> Iterator[tuple[str, float]]:
    """Yield the name and the weight of each LoRA of a body.

    Raises:
        UsageError: The form, a name or a weight is wrong.
    """
    for item in read_list(value, "loras", USAGE):
        named = {"name": item} if isinstance(item, str) else item
        if not isinstance(named, dict) or not {"name"} <= {*named} <= {"name", "weight"}:
            message = f"a LoRA must be a name, or name and weight, not {short_repr(item)}"
            raise UsageError(message, code="E-LORA", hint=USAGE)
        weight = check_lora_weight(named.get("weight", 1.0))
        require_known(named["name"], known, "LoRA", model)
        yield named["name"], weight


def require_known(name: object, known: Mapping[str, Any], kind: str, model: str) -> None:
    """Check that a model can use an adapter.

    Raises:
        UsageError: It cannot.
    """
    if not isinstance(name, str) or name not in known:
        message = f"the server has no {kind} {short_repr(name)} for the model {model!r}"
        hint = did_you_mean(name if isinstance(name, str) else "", known)
        raise UsageError(message, code="E-LORA", hint=hint if known else "")


@dataclass(frozen=True)
class AdaptedTask:
    """A task on a model with adapters."""

    task: ServedTask = field(repr=False)
    adapters: ModelAdapters = field(repr=False)
    wanted: WantedAdapters

    @property
    def kind(self) -> str:
        """The kind of the task."""
        return self.task.kind

    @property
    def previews(self) -> bool:
        """Whether the task may show previews."""
        return getattr(self.task, "previews", True)

    @property
    def request(self) -> Mapping[str, Any]:
        """What was asked for, with the adapters."""
        return {**self.task.request, **self.wanted.describe()}

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Run the task on the model with its adapters."""
        self.task.run(self.adapters.apply(self.wanted), report, cancel)


def without_adapters(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body without the keys that name adapters."""
    return {key: value for key, value in body.items() if key not in ("loras", "embeddings")}
