"""Known faults of what leads from text encoders to the denoiser."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.models.config import ModelConfig
from ldmref.models.text_kind import kind_of


def text_faults(config: ModelConfig, x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what ports make of a text that the denoiser reads: in words, and the text.

    Args:
        config: The configuration of the model.
        x: Hidden states (n, l, d) or pooled vectors (n, d).

    >>> from ldmref.models import preset
    >>> [words for words, _ in text_faults(preset("sd15"), np.ones((1, 2, 4)))]
    ['the tokens are one place later', 'the tokens are one place earlier']
    """
    if x.ndim == 3:
        yield "the tokens are one place later", np.roll(x, 1, axis=1)
        yield "the tokens are one place earlier", np.roll(x, -1, axis=1)
    clip = [text for text in config.text_encoders if kind_of(text).pooled]
    if len(clip) == 2:
        first, second = (text.projection_dim if x.ndim == 2 else text.hidden_size for text in clip)
        parts = x[..., first : first + second], x[..., :first], x[..., first + second :]
        yield "the text encoders are joined in another order", np.concatenate(parts, axis=-1)
