"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ldmref.errors import OutputError


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A file to write beside `path`, which gets that name when all of it is there.

    Raises:
        OutputError: `path` came up meanwhile (unless `overwrite`), or it cannot be written.
    """
    aside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with open(aside, "xb") as file:
            yield file
        _publish(aside, path, overwrite)
    except FileExistsError as error:
        raise OutputError(f"{str(path)!r} exists", code="E-EXISTS") from error
    except OSError as error:
        raise OutputError(
            f"cannot write {str(path)!r}: {error.strerror or error}", code="E-WRITE"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _publish(aside: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name; a file that came up meanwhile is not overwritten."""
    if not overwrite:
        try:
            return os.link(aside, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            pass
    os.replace(aside, path)
