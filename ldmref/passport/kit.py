"""A kit on disk: its manifest `kit.json`, and what a check reads of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends.base import Backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.described_folder import FolderKind
from ldmref.cases.model import digest_of
from ldmref.errors import CorruptModelError, UsageError
from ldmref.io.kit_folder import CHECKPOINT, MANIFEST, KitFolder
from ldmref.io.native import NativeFolder
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import unflatten
from ldmref.passport.form import read_floors, read_manifest
from ldmref.passport.recorded import CODE
from ldmref.support.files import MAX_TABLE_VALUES, parse_json, read_file
from ldmref.trace.files import read_trace
from ldmref.trace.model import Trace

FORMAT = "ldmref-passport"
VERSION = "3.0"
"""The version of the kits that `make_kit` writes."""
FLOORS = "floors.json"
TRACE = "trace"
WRONG = "wrong"
MAX_BYTES = 2**26
KIT_FOLDER = FolderKind("kit", MANIFEST, FORMAT, VERSION, CODE, MAX_BYTES, older=("1", "2"))
SHOWN = 12  # digits of a digest in a label


@dataclass(frozen=True)
class WrongDump:
    """A dump of a port with one known fault.

    Attributes:
        name: Of the file in the folder `wrong`, without its ending.
        node: The layer, `CALL/LAYER`.
        fault: What was changed, in words.
        cause: What `ldmref diff` says of the dump.
        source: Where the fault happened, or why it happens.

    >>> text = "the scale 1/sqrt(d) is missing"
    >>> WrongDump("other_scale", "unet.000/mid_block.attn", text, text, "kernels that scale").path
    'wrong/other_scale.safetensors'
    """

    name: str
    node: str
    fault: str
    cause: str
    source: str

    @property
    def path(self) -> str:
        """The file, relative to the kit."""
        return f"{WRONG}/{self.name}.safetensors"


@dataclass(frozen=True)
class Kit:
    """A kit of a folder.

    Attributes:
        folder: The folder.
        family: The preset of which its model is a small version; the name of a kit of modules.
        version: The version of the kit's format and numbers.
        digests: SHA-256 of each file, by path.
        wrong: The dumps with a known fault.
        request: The parameters of the run: prompts, steps, sampler, size.
        networks: The names of its modules, of a kit of modules that ldmref has no definition of.
        rows: What each argument of a module holds for a row, by network and argument.
        nodes: The number of nodes of its run that have outputs, as its manifest counts them; 0: it
            does not say it.

    >>> Kit(Path("kit"), "sd15", "2.0", {"README.txt": "00"}, ()).label
    'sd15 2.0 (5e0e0c8b6eca)'
    """

    folder: Path
    family: str
    version: str
    digests: Mapping[str, str] = field(repr=False)
    wrong: Sequence[WrongDump] = field(repr=False)
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    networks: tuple[str, ...] = ()
    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    nodes: int = field(default=0, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the list of all files with their digests."""
        return digest_of(self.digests)

    @property
    def label(self) -> str:
        """Return family, version and the first digits of the digest: "sd15 2.0 (0f3a...)"."""
        return f"{self.family} {self.version} ({self.digest[:SHOWN]})"

    @cached_property
    def trace(self) -> Trace:
        """The run, computed in float64."""
        return read_trace(self.folder / TRACE)

    @cached_property
    def floors(self) -> Mapping[str, Mapping[str, float]]:
        """For each format, the error of each output of the run in it, by the tensor's name."""
        data = read_file(self.folder / FLOORS, MAX_BYTES, CODE)
        found = parse_json(data, FLOORS, CODE, most=MAX_TABLE_VALUES)
        try:
            return read_floors(found)
        except ValueError as error:
            raise CorruptModelError(f"{FLOORS} holds no floors: {error}", code=CODE) from error

    @cached_property
    def config(self) -> ModelConfig:
        """The configuration of the kit's model, which is read without its parameters.

        Raises:
            UsageError: It is the kit of a module that ldmref has no definition of.
        """
        self._require_definition()
        return NativeFolder(self.folder / CHECKPOINT).config

    def model(self, backend: Backend | None = None) -> LatentDiffusion:
        """Return the kit's model, read from its checkpoint.

        Args:
            backend: The backend of its networks. None: NumPy in float32.

        Raises:
            UsageError: It is the kit of a module that ldmref has no definition of.
        """
        self._require_definition()
        source = KitFolder(self.folder)
        backend = backend or NumpyBackend(dtype="float32")
        flat = {name: np.asarray(x) for name, x in source.read().items()}
        tokenizers = source.load_tokenizers(source.config, None)
        return LatentDiffusion(
            backend, source.config, unflatten(flat), tokenizers[0], "", *tokenizers[1:]
        )

    def _require_definition(self) -> None:
        """Refuse the kit of a module.

        Raises:
            UsageError: It is the kit of a module that ldmref has no definition of.
        """
        if self.networks:
            message = f"{self.label} is the kit of a PyTorch module, and holds its parameters alone"
            raise UsageError(message, code=CODE, hint="load them into the module")

    def check_files(self) -> None:
        """Compare the digest of every file with the manifest.

        Raises:
            CorruptModelError: A file is missing or was changed, or one that a check reads has no
                digest.
        """
        for path, digest in self.digests.items():
            KIT_FOLDER.check_file(self.folder, path, digest)
        for path in self._files_that_are_read():
            if path not in self.digests:
                message = f"{path} has no digest in {MANIFEST}"
                raise CorruptModelError(message, code=CODE, hint="make the kit again")

    def _files_that_are_read(self) -> list[str]:
        """Return the files of the kit that a check may read, relative to it."""
        found = [self.folder / FLOORS]
        for part in (TRACE, CHECKPOINT, WRONG):
            found += sorted((self.folder / part).glob("*"))
        return [path.relative_to(self.folder).as_posix() for path in found if path.is_file()]


def kit_text(kit: Kit, program: str, described: Mapping[str, Any]) -> str:
    """Return the manifest of a kit as JSON.

    Args:
        kit: The kit.
        program: The program that made it, with its version.
        described: What the files hold, in words.
    """
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": kit.version,
        "family": kit.family,
        "program": program,
    }
    head |= {"networks": list(kit.networks)} if kit.networks else {}
    head |= {"rows": {k: dict(x) for k, x in kit.rows.items()}} if kit.rows else {}
    head |= {"digest": kit.digest, "request": dict(kit.request), **described}
    head["digests"] = dict(kit.digests)
    rows = [json.dumps(asdict(dump), ensure_ascii=False) for dump in kit.wrong]
    lines = ",\n  ".join(rows)
    return json.dumps(head, indent=1)[:-2] + f',\n "wrong": [\n  {lines}\n ]\n}}\n'


def read_kit(folder: str | Path) -> Kit:
    """Read the manifest of a kit.

    Args:
        folder: A folder of `ldmref passport make`.

    Returns:
        The kit; its other files are read when they are used.

    Raises:
        InputError: The folder has no manifest.
        CorruptModelError: The manifest is damaged, or has another version.

    >>> from ldmref.passport import read_kit
    >>> kit = read_kit("kits/z-image")  # doctest: +SKIP
    >>> kit.family, kit.model().config.denoiser.n_layers  # doctest: +SKIP
    ('z-image', 2)
    """
    return KIT_FOLDER.read(folder, "ldmref passport make FAMILY -o FOLDER makes a kit", _parse)


def _parse(folder: Path, data: Mapping[str, Any]) -> Kit:
    found = read_manifest(data)
    wrong = [WrongDump(**row) for row in found.wrong]
    missing = [dump.path for dump in wrong if dump.path not in found.digests]
    if missing:
        raise ValueError(f"{missing[0]} has no digest")
    return Kit(
        folder,
        found.family,
        found.version,
        found.digests,
        wrong,
        found.request,
        found.networks,
        found.rows or {},
        found.nodes,
    )
