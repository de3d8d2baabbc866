"""Text encoders of the same shapes: a file that says it holds another one is refused."""

from __future__ import annotations

from collections.abc import Iterable

from ldmref.errors import KeyMismatchError
from ldmref.io.tensors.model_file import ModelFile
from ldmref.models.text_config import TextConfig
from ldmref.models.text_kind import kind_of

HINT = (
    "give the text encoder that the model was trained with; `ldmref info` prints a hash by which "
    "two files are compared"
)


def require_agreement(name: str, files: Iterable[ModelFile], text: TextConfig) -> None:
    """Refuse the weights of a text encoder that say they are another of the same shapes.

    Args:
        name: The name of the file or folder, for errors.
        files: The files.
        text: The configuration, whose shapes they fit.

    Raises:
        KeyMismatchError: The message says by what they are known.
    """
    for file in files:
        reason = kind_of(text).contradicts(file.shapes, file.metadata, text)
        if reason:
            message = f"{name} is not the model's text encoder: {reason}"
            raise KeyMismatchError(message, code="E-TEXT-ENCODER", hint=HINT)
