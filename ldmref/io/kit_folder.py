"""The model of a passport kit, a small random one: `ldmref passport make` writes it.

KIT/kit.json                      the manifest
KIT/checkpoint/config.json        the configuration of all networks
KIT/checkpoint/NETWORK.safetensors  the denoiser under the names of its makers, others under ours
KIT/checkpoint/tokenizer.json     and tokenizer_2.json, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.key_report import compare
from ldmref.io.key_table import KeyEntry, KeyTable, to_native
from ldmref.io.native import CONFIG, WEIGHTS, NativeFolder, require_fit
from ldmref.io.stored_model import OpeningOptions, StoredModel, refuse_choices
from ldmref.io.tensors.safetensors import TensorFile, hash_files
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.params import flatten
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.support.files import read_json

MANIFEST = "kit.json"
CHECKPOINT = "checkpoint"
ENDING = ".safetensors"
AGAIN = "make the kit again"


def is_kit(path: Path) -> bool:
    """Return whether a path is the folder of a kit, or the folder of the model in one."""
    return (path / MANIFEST).is_file() or _is_checkpoint(path)


def _is_checkpoint(path: Path) -> bool:
    of_kit = path.name == CHECKPOINT and (path.parent / MANIFEST).is_file()
    return of_kit and (path / CONFIG).is_file() and not (path / WEIGHTS).is_file()


class KitFolder(StoredModel):
    """The model of a kit, whose configuration is read at once and whose weights when they are used.

    Args:
        path: The folder of the kit, or that of its model.

    Raises:
        UsageError: It is the kit of a PyTorch module.
        CorruptModelError: Its config.json is damaged.
    """

    @classmethod
    def is_at(cls, path: Path) -> bool:
        return is_kit(path)

    @classmethod
    def open(cls, path: Path, options: OpeningOptions) -> KitFolder:
        refuse_choices(path, options)
        return cls(path)

    def __init__(self, path: Path):
        self.path = path
        self._folder = path if _is_checkpoint(path) else path / CHECKPOINT
        if self._folder != path and read_json(path / MANIFEST).get("networks"):
            message = f"{path.name!r} is the kit of a PyTorch module, and no model of ldmref"
            hint = "load its parameters, checkpoint/NETWORK.safetensors, into the module"
            raise UsageError(message, code="E-MODEL", hint=hint)
        self._native = NativeFolder(self._folder)
        self.config = self._native.config

    @property
    def takes_vocabulary(self) -> bool:
        return False

    @property
    def digest(self) -> Callable[[], str]:
        return partial(hash_files, self._files())

    def _files(self) -> list[TensorFile]:
        return [TensorFile(path) for path in sorted(self._folder.glob(f"*{ENDING}"))]

    def read(self) -> dict[str, np.ndarray]:
        return read_kit_weights(self._folder, self.config)

    def load_tokenizers(
        self, config: ModelConfig, vocabulary: str | Path | None
    ) -> list[PromptTokenizer]:
        """Return the tokenizers of the kit."""
        return self._native.load_tokenizers(config, vocabulary)


def read_kit_weights(folder: Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the tensors of the model of a kit by our names.

    Args:
        folder: The folder of the model.
        config: Its configuration.

    Raises:
        KeyMismatchError: The tensors are not those of the configuration.
    """
    files = {path.stem: dict(TensorFile(path)) for path in sorted(folder.glob(f"*{ENDING}"))}
    tables = makers_tables(config)
    network = config.denoiser.network
    stored = files.pop(network, {})
    names = {
        entry.name: entry.stored_shape for table in tables.values() for entry in table.values()
    }
    shapes = {name: np.shape(x) for name, x in stored.items()}
    compare(shapes, names).require(
        f"{CHECKPOINT}/{network}{ENDING} does not fit the kit's configuration", hint=AGAIN
    )
    networks = {part: to_native(stored, table) for part, table in tables.items()} | files
    flat = {f"{part}.{key}": x for part, own in networks.items() for key, x in own.items()}
    require_fit({name: np.shape(x) for name, x in flat.items()}, config)
    return flat


def makers_tables(config: ModelConfig) -> Mapping[str, KeyTable]:
    """Return how the kit's file of the denoiser names the tensors of each network in it.

    A model that no file of makers holds has the names of diffusers.
    """
    network = config.denoiser.network
    shapes = flatten(family_of(config).declared(config, network).spec())
    own = {network: {name: KeyEntry(name, shape) for name, shape in shapes.items()}}
    return find_makers_tables(config) or own


def find_makers_tables(config: ModelConfig) -> Mapping[str, KeyTable] | None:
    """Return how the makers' file names its tensors; None if no such file holds the model.

    Families list the layouts of other programs first, and each without a prefix before it with one.
    """
    network = config.denoiser.network
    shapes = flatten(family_of(config).declared(config, network).spec())
    files = family_of(config).files
    alike = [file for file in files if file.description == files[-1].description]
    for file in alike[:1]:
        tables = {network: file.table(config), **(file.others(config) if file.whole else {})}
        if tables[network].keys() == shapes.keys():
            return tables
    return None
