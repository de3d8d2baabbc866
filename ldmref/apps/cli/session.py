"""The way in of every command that runs a model: from its flags to the loaded model.

A flag wins over a variable `LDMREF_*`, which wins over `ldmref.toml`, which wins over the model's
own settings. What can be refused is refused before weights are read: first the settings, then the
model's location and configuration, the request, the backend, and last the output.

Only commands have flags. The server, batches and MCP tools get what a session opened: models, or a
function that loads one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from ldmref.apps.cli.settings import naming_settings
from ldmref.backends import Backend
from ldmref.io.checkpoint import Checkpoint
from ldmref.io.embedded import EMBEDDED
from ldmref.io.stored_model import OpeningOptions
from ldmref.loading import load, load_checkpoint, open_backend
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.support.config import LIMIT_KEYS, settings

DEFAULT_MODEL = "emoji"
BACKEND_FLAGS = ("backend", "device", "dtype", "speed")
OPENING_FLAGS = {  # field of `OpeningOptions` -> flag of a command, if it has it
    "config": "model_config",
    "tokenizer": "tokenizer",
    "fetch": "fetch",
    "text_encoders": "text_encoders",
    "variant": "variant",
    "ema": "ema",
    "vae": "vae",
    "lora": "loras",
}
LOADING_FLAGS = {  # the same of the arguments of `load_checkpoint`
    "allow_nonfinite": "allow_nonfinite",
    "embeddings": "embeddings",
}


def opening_options(flags: Mapping[str, Any]) -> OpeningOptions:
    """Return what a model is opened with, of those flags that a command has."""
    return OpeningOptions(**_select(OPENING_FLAGS, flags))


def _select(wanted: Mapping[str, str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that a command has, by the argument that takes each."""
    return {to: flags[name] for to, name in wanted.items() if name in flags}


class CommandSession:
    """The settings, the model and the backend of one command.

    Args:
        flags: The flags of the command by parameter; None if not given.
        usual: Backend, device, dtype and speed if no flag gives one of them; None: the settings'.

    Attributes:
        configured: The settings of variables and files.
        name: The model as the user names it.
        checkpoint: The opened model, after `find`.
        backend: The backend, after `open`.

    Raises:
        UsageError: The settings are wrong.
    """

    checkpoint: Checkpoint
    backend: Backend

    def __init__(self, flags: Mapping[str, Any], usual: tuple[str, str, str, str] | None = None):
        self.flags = flags
        self.usual = usual
        self.configured = settings(flags["config"])
        self.name: str = flags.get("model") or self.configured.defaults.get("model", DEFAULT_MODEL)

    @contextmanager
    def planning(self) -> Iterator[ModelConfig]:
        """Find the model, yield its configuration to plan a request, then open the backend.

        Errors about a value that no flag set begin with its file or variable.

        Raises:
            LdmrefError: The model or the backend is not available, or the request is refused.
        """
        with self.naming():
            yield self.find()
            self.open()

    def naming(self) -> AbstractContextManager[None]:
        """Return a context in which errors name the file or variable of a configured value."""
        return naming_settings(self.configured, self.flags)

    def find(self, name: str | None = None) -> ModelConfig:
        """Open the model of the session, or another one, and return its configuration."""
        self.checkpoint = Checkpoint.open(name or self.name, opening_options(self.flags))
        return self.checkpoint.config

    def open(self) -> Backend:
        """Open the backend: the one place in which a command decides it."""
        backend, device, dtype, speed = (self.flags[name] for name in BACKEND_FLAGS)
        if self.usual is not None and backend is device is dtype is speed is None:
            backend, device, dtype, speed = self.usual
        self.backend = open_backend(backend, device, dtype, self.flags["config"], speed)
        return self.backend

    def load(self, checkpoint: Checkpoint | None = None) -> LatentDiffusion:
        """Load the model that was opened last, or another opened one, on the opened backend."""
        with self.naming():
            opened = checkpoint or self.checkpoint
            return load_checkpoint(opened, self.backend, **self._loading_options())

    def loader(self) -> Callable[[], LatentDiffusion]:
        """Return a function that opens and loads the model in another process or folder."""
        path = self.checkpoint.path.absolute()
        source = self.name if self.name in EMBEDDED else path  # which may lie elsewhere there
        opening = {to: name for to, name in OPENING_FLAGS.items() if to != "fetch"}
        options = {**_select(opening, self.flags), **self._loading_options()}
        return partial(load, source, backend=self.backend, **options)

    def _loading_options(self) -> dict[str, Any]:
        """Return the arguments of `load_checkpoint`, of flags and the configured limits."""
        limits = {key: self.flags.get(key) for key in LIMIT_KEYS}
        limits = {key: value for key, value in limits.items() if value is not None}
        return {**_select(LOADING_FLAGS, self.flags), **self.configured.limits, **limits}
