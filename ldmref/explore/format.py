"""`RunRecord`: every state and prediction of one run, from its trace.

The file is a trace in one file (`ldmref.trace.single`). `docs/explorer.md` describes it. No pickle,
no code, and nothing that needs ldmref to be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref.errors import CorruptModelError, UsageError, short_repr
from ldmref.explore.distance import Truth
from ldmref.explore.preview import PreviewMatrix
from ldmref.io.images.metadata import encode_png
from ldmref.io.images.pil import to_rgb
from ldmref.prompts.prompt_words import PromptWord
from ldmref.samplers.path import PATHS, VE, NoisePath
from ldmref.trace.memory import add_call
from ldmref.trace.model import Trace
from ldmref.trace.single import save_trace, trace_bytes

STORED_MODES = ("1", "L", "P", "RGB", "RGBA")  # of Pillow images, exactly as PNG
CODE = "E-RECORD"
HINT = "a run record is a file of ldmref record, or of RunRecord.save"


def not_a_record(name: str, why: str) -> CorruptModelError:
    """Return the error about a file that is no run record."""
    return CorruptModelError(f"{name} is not a run record: {why}", code=CODE, hint=HINT)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run of one image: its states, predictions and attention, with n steps.

    Args:
        x: The states before each step and at the end, x0 + sigma eps unless `path` is another,
            (n + 1, c, h, w) float32.
        x0: The guided prediction of the first evaluation of each step, (n, c, h, w) float32.
        x0_uncond: The predictions without the prompt, (n, c, h, w) float32, NaN in steps in which
            the guidance did not compute one; None if it never did.
        x0_cond: The predictions with the prompt, as `x0_uncond`, (n, c, h, w) float32 or None.
        sigmas: The noise levels of `x`, (n + 1,) float64.
        attention: The map of each word at each step, (n, words, h', w') float16; None without
            words. `ldmref.explore.attention` has the formula.
        image: The finished image.
        preview: The linear preview of the model's latents; None if none is known.
        training_alpha_bar: alpha-bar of every training timestep, (T,) float64.
        meta: Parameters and descriptions, JSON-able.
        trace: The trace from which the arrays are, and which `save` writes.
        inputs: What the run was given and its parameters do not hold: images and arrays by name.
        truth: The converged trajectory and the errors of the run. None: they were not computed.

    >>> import ldmref
    >>> from ldmref.explore import record_run
    >>> record = record_run(ldmref.random_model("tiny"), prompt="a red cat", seed=1, steps=3)
    >>> record.x.shape, record.sigmas.shape, [word.text for word in record.words]
    ((4, 4, 8, 8), (4,), ['a', 'red', 'cat'])
    """

    x: np.ndarray = field(repr=False)
    x0: np.ndarray = field(repr=False)
    x0_uncond: np.ndarray | None = field(repr=False)
    x0_cond: np.ndarray | None = field(repr=False)
    sigmas: np.ndarray = field(repr=False)
    attention: np.ndarray | None = field(repr=False)
    image: Image.Image = field(repr=False)
    preview: PreviewMatrix | None = field(repr=False)
    training_alpha_bar: np.ndarray = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    trace: Trace = field(repr=False)
    inputs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    truth: Truth | None = field(default=None, repr=False)

    @property
    def params(self) -> dict[str, Any]:
        """The resolved parameters, which generate the image again; of a branch, its own."""
        return self.meta["params"]

    @property
    def path(self) -> NoisePath:
        """The path of the run."""
        return PATHS[self.meta.get("path", VE.name)]

    @property
    def steps(self) -> int:
        """The number of steps n."""
        return len(self.x0)

    @property
    def words(self) -> list[PromptWord]:
        """The words of the prompt, in the order of the maps."""
        return [
            PromptWord(word["text"], tuple(word["tokens"]), word.get("encoder", ""))
            for word in self.meta["words"]
        ]

    def with_truth(self, truth: Truth) -> RunRecord:
        """Return the record with `truth`, the result of `truth_line`, which it saves."""
        outputs = {"states": truth.states, "distance": truth.distance}
        outputs["local_error"] = truth.local_error
        trace = add_call(self.trace, "truth", outputs, truth.description)
        meta = self.meta | {"truth": truth.description}
        return replace(self, truth=truth, meta=meta, trace=trace)

    def word_map(self, text: str) -> np.ndarray:
        """Return the maps of a word at all steps, (n, h', w') float32.

        Case is ignored; a word that occurs several times has the sum of its maps. The map of a word
        that is not in the prompt is 0 everywhere: it has no tokens that a pixel could attend to.

        Args:
            text: The word, as in the prompt.

        Raises:
            UsageError: The run was recorded without attention.
        """
        if self.attention is None:
            raise UsageError("this run was recorded without attention", code=CODE)
        same = [i for i, word in enumerate(self.words) if word.text.lower() == text.lower()]
        return self.attention[:, same].sum(axis=1, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return trace_bytes(self.trace)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the record, and return its path; the file appears complete or not at all.

        Args:
            path: A name, usually with the ending .safetensors.
            overwrite: Replace an existing file.

        Raises:
            OutputError: The file exists (without `overwrite`), or cannot be written.
        """
        return save_trace(self.trace, path, overwrite=overwrite)

    def __repr__(self) -> str:
        prompt = short_repr(self.params.get("prompt", ""))
        branch = "a branch of " if self.meta.get("branch") else ""
        return f"<RunRecord of {branch}{self.meta['mode']}: {prompt}, {self.steps} steps>"


def pack_input(value: Any) -> np.ndarray:
    """Return an input as an array: images as the bytes of a PNG, (n,) uint8."""
    if isinstance(value, np.ndarray):
        return value
    image = value if value.mode in STORED_MODES else to_rgb(value)
    return np.frombuffer(encode_png(image), np.uint8)
