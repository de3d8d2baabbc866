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
from pathlib import Path
from typing import Any

from ldmref.apps.cli.settings import naming_settings
from ldmref.backends import Backend
from ldmref.io.adapters.control_lora import widen_config
from ldmref.io.adapters.lora_file import open_loras
from ldmref.io.embedded import EMBEDDED
from ldmref.io.locate import find_model, read_model_config
from ldmref.loading import load, open_backend
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.support.config import LIMIT_KEYS, settings

DEFAULT_MODEL = "emoji"
BACKEND_FLAGS = ("backend", "device", "dtype", "speed")
LOADING_FLAGS = {  # argument of `load` -> flag of a command, if it has it
    "config": "model_config",
    "tokenizer": "tokenizer",
    "vae": "vae",
    "text_encoders": "text_encoders",
    "lora": "loras",
    "variant": "variant",
    "ema": "ema",
    "allow_nonfinite": "allow_nonfinite",
    "embeddings": "embeddings",
}


class CommandSession:
    """The settings, the model and the backend of one command.

    Args:
        flags: The flags of the command by parameter; None if not given.
        usual: Backend, device, dtype and speed if no flag gives one of them; None: the settings'.

    Attributes:
        configured: The settings of variables and files.
        name: The model as the user names it.
        path: The model's file or folder, after `find`.
        backend: The backend, after `open`.

    Raises:
        UsageError: The settings are wrong.
    """

    path: Path
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
        """Find the model of the session, or another one, and read its configuration alone.

        LoRAs that read a control image change it.
        """
        fetch, variant = self.flags.get("fetch", False), self.flags.get("variant")
        self.path = find_model(self.name if name is None else name, fetch, variant)
        config = read_model_config(
            self.path,
            self.flags.get("model_config"),
            self.flags.get("ema"),
            self.flags.get("text_encoders") or (),
        )
        return widen_config(config, open_loras(self.flags.get("loras") or ()))

    def open(self) -> Backend:
        """Open the backend: the one place in which a command decides it."""
        backend, device, dtype, speed = (self.flags[name] for name in BACKEND_FLAGS)
        if self.usual is not None and backend is device is dtype is speed is None:
            backend, device, dtype, speed = self.usual
        self.backend = open_backend(backend, device, dtype, self.flags["config"], speed)
        return self.backend

    def load(self, path: Path | None = None) -> LatentDiffusion:
        """Load the model that was found, or the one at another path, on the opened backend."""
        with self.naming():
            return self.loader(path or self.path)()

    def loader(self, source: str | Path | None = None) -> Callable[[], LatentDiffusion]:
        """Return a function that loads the model later.

        Args:
            source: Where it is; None: in words that hold in another process and folder.
        """
        if source is None:  # in another process the embedded model may lie elsewhere
            source = self.name if self.name in EMBEDDED else self.path.absolute()
        return partial(load, source, backend=self.backend, **self.loading_options())

    def loading_options(self) -> dict[str, Any]:
        """Return the arguments of `ldmref.load` from the flags and the configured limits."""
        options = {to: self.flags[name] for to, name in LOADING_FLAGS.items() if name in self.flags}
        limits = {key: self.flags.get(key) for key in LIMIT_KEYS}
        limits = {key: value for key, value in limits.items() if value is not None}
        return {**options, **self.configured.limits, **limits}
