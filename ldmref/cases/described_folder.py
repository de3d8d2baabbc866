"""Folders that a manifest describes, file by file: suites of golden cases, and kits for ports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ldmref.errors import CorruptModelError, InputError, OutputError
from ldmref.io.atomic import require_own
from ldmref.support.files import MAX_TABLE_VALUES, check_input_path, parse_json, read_file, shown

Described = TypeVar("Described")
WriteFile = Callable[[str, bytes], None]  # write(path, data): a file of such a folder


@dataclass(frozen=True)
class FolderKind:
    """A kind of folders.

    Attributes:
        name: What such a folder is called, "suite".
        manifest: The name of its manifest.
        format: The format that the manifest names.
        version: The version that is written; those with the same first number are read.
        code: The code of errors.
        most: The largest file, in bytes.
        older: The first numbers of older versions that are read as well.
    """

    name: str
    manifest: str
    format: str
    version: str
    code: str
    most: int
    older: tuple[str, ...] = ()

    def read(
        self, folder: str | Path, hint: str, parse: Callable[[Path, Mapping[str, Any]], Described]
    ) -> Described:
        """Read the manifest of a folder.

        Args:
            folder: The folder.
            hint: How such a folder is made.
            parse: Makes the result from the folder and the manifest; a field that it does not find,
                or cannot read, is an error of the manifest.

        Raises:
            InputError: The folder has no manifest.
            CorruptModelError: The manifest is damaged, or has another version.
        """
        folder = check_input_path(folder, f"the folder of a {self.name}", self.code)
        path = folder / self.manifest
        if not path.is_file():
            reason = f"has no {self.manifest}" if folder.is_dir() else "is not a folder"
            raise InputError(f"{shown(folder)!r} {reason}", code=self.code, hint=hint)
        text = read_file(path, self.most, self.code)
        data = parse_json(text, self.manifest, self.code, most=MAX_TABLE_VALUES)
        if not isinstance(data, dict) or data.get("format") != self.format:
            message = f"{shown(path)!r} is not a manifest of {self.format}"
            raise CorruptModelError(message, code=self.code)
        version = str(data.get("version"))
        again = f"make the {self.name} again"
        known = {self.version.partition(".")[0], *self.older}
        if version.partition(".")[0] not in known:
            message = (
                f"the {self.name} has version {version}, and this program reads {self.version}"
            )
            raise CorruptModelError(message, code=self.code, hint=f"{again}, or update ldmref")
        try:
            return parse(folder, data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"{self.manifest} is damaged: {type(error).__name__}: {error}"
            raise CorruptModelError(message, code=self.code, hint=again) from error

    def check_file(self, folder: Path, path: str, digest: str) -> None:
        """Compare a file with its digest in the manifest.

        Raises:
            CorruptModelError: It is missing or was changed.
        """
        data = read_file(folder / path, self.most, self.code)
        if hashlib.sha256(data).hexdigest() != digest:
            message = f"{path} is not the file that {self.manifest} describes"
            raise CorruptModelError(message, code=self.code, hint=f"make the {self.name} again")

    def check_writable(
        self, folder: Path, overwrite: bool, list_files: Callable[[Path], Collection[str]]
    ) -> None:
        """Require that a folder can be written: it is new or empty, or may be replaced.

        Args:
            folder: The folder.
            overwrite: Whether one of this kind is replaced.
            list_files: Returns the files that the manifest of such a folder names.

        Raises:
            OutputError: It cannot.
        """
        if folder.is_symlink() and not folder.exists():
            message = f"{shown(folder)!r} is a broken link"
            raise OutputError(message, code="E-EXISTS", hint="choose a folder")
        if not folder.exists():
            return
        if not folder.is_dir():
            message = f"{shown(folder)!r} is a file"
            raise OutputError(message, code="E-EXISTS", hint="choose a folder")
        if not any(folder.iterdir()):
            return
        if not (folder / self.manifest).is_file():
            message = f"the folder {shown(folder)!r} is not empty and holds no {self.name}"
            raise OutputError(message, code="E-EXISTS", hint="choose another folder")
        if not overwrite:
            message = f"{shown(folder)!r} holds a {self.name}"
            raise OutputError(message, code="E-EXISTS", hint="--overwrite replaces it")
        require_own(folder, [*list_files(folder), self.manifest])


def write_into(folder: Path, digests: dict[str, str]) -> WriteFile:
    """Return a function that writes a file of a folder, and keeps its SHA-256 in `digests`."""

    def write(path: str, data: bytes) -> None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        digests[path] = hashlib.sha256(data).hexdigest()

    return write
