"""The task `inside`: what the networks compute in one step of a run, for the page's overview.

A request has the fields of a `record` and `step`. The result is the file `inside.safetensors`, the
part of a trace that a person can look at:

| tensor    | contents                                                                           |
|-----------|------------------------------------------------------------------------------------|
| `ids`     | the tokens of the prompt, from start to end                                        |
| `hidden`  | what the text encoder makes of each of them, (tokens, width)                       |
| `ids_1`   | the tokens of the next text encoder that the network attends to, and so on         |
| `hidden_1`| what it makes of them                                                              |
| `LEVEL`   | root mean square over the channels of each level of the U-Net, (steps, h, w)       |

Its metadata have one key, `inside`, with JSON: `pieces`, the text of each token; `limit`, how many
the model reads; `cut`, what was left out; `encoder`, the kind of the text encoder; `more`, the same
four of each further one; `levels`, their names in order; and `steps`.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders

from ldmref.apps.server.bodies import check_keys, read_mode
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.inputs import plan_request
from ldmref.apps.server.task_kinds import register
from ldmref.apps.server.tasks import Report
from ldmref.errors import UsageError, short_repr
from ldmref.explore.format import CODE
from ldmref.explore.record import name_encoder, require_one
from ldmref.io.tensors.writer import source, write_to
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.model import LatentDiffusion
from ldmref.modes.generate import Callback, CancelFlag, Progress
from ldmref.modes.run import Plan
from ldmref.trace import Selection, Trace, read_trace, record_trace

KEYS = ("kind", "mode", "model", "parameters", "step")
FILE = "inside.safetensors"
BLOCKS = ("down_blocks.?.resnets.?", "mid_block.resnets.?", "up_blocks.?.resnets.?")
LEVEL = re.compile(r"((?:down|up)_blocks\.\d|mid_block)\.resnets\.\d")
CALLS = (*TEXT_ENCODERS, "unet.*")
PART = "\ufffd"  # what stands for bytes that are no letter


@dataclass(frozen=True)
class InsideTask:
    """A look into one step of a run."""

    plan: Plan = field(repr=False)
    step: int
    kind: str = "inside"
    previews: bool = False

    @property
    def request(self) -> Mapping[str, Any]:
        """The resolved parameters, and the step."""
        return {**self.plan.params, "step": self.step}

    def run(self, model: LatentDiffusion, report: Report, cancel: threading.Event) -> None:
        """Trace the step, and report what is in it."""

        def callback(event: Progress) -> None:
            report.progress(event.step + 1, event.steps)

        content = look_inside(model, self.plan, (self.step,), callback, cancel)
        report.file(FILE, "application/octet-stream", content)


@register("inside")
def make_inside(engine: Engine, body: Mapping[str, Any]) -> InsideTask:
    """Return the task of `{"mode": ..., "parameters": {...}, "step": k}`."""
    check_keys(body, KEYS)
    mode, values = read_mode(body)
    plan = require_one(plan_request(engine, mode, values, body.get("model")))
    step, steps = body.get("step"), plan.job.steps - plan.job.first_step
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < steps:
        message = f"step must be a whole number from 0 to {steps - 1}, not {short_repr(step)}"
        raise UsageError(message, code=CODE)
    return InsideTask(plan, step)


def look_inside(
    model: LatentDiffusion,
    plan: Plan,
    steps: Sequence[int] = (),
    callback: Callback | None = None,
    cancel: CancelFlag | None = None,
) -> bytes:
    """Return the file of a run: its tokens, their hidden states, and the levels of the U-Net.

    Args:
        model: The model.
        plan: A run of one image.
        steps: The steps whose levels are kept; empty: all.
        callback, cancel: As in `record_trace`.
    """
    selection = Selection(BLOCKS, CALLS, tuple(steps), optional=True)
    with TemporaryDirectory(prefix="ldmref-") as folder:
        path = Path(folder) / "trace"
        options: Any = {"selection": selection, "callback": callback, "cancel": cancel}
        record_trace(plan, model, path, whole=False, **options)  # on every backend
        return pack(model, plan, read_trace(path), steps)


def pack(model: LatentDiffusion, plan: Plan, trace: Trace, steps: Sequence[int]) -> bytes:
    """Return the file of a trace."""
    tensors, texts = read_texts(model, plan, trace)
    calls = [call for call in trace.calls if call.startswith("unet.")]
    calls = calls[: len(steps) or None]  # a step may evaluate the network again at another point
    levels = find_levels(trace, calls)
    for level, layer in levels.items():
        tensors[level] = np.stack([level_map(trace, call, layer) for call in calls])
    first = texts[0] if texts else {"pieces": [], "limit": 0, "cut": "", "encoder": ""}
    described = {
        **first,
        "more": texts[1:],
        "levels": list(levels),
        "steps": list(steps) or list(range(len(calls))),
    }
    buffer = io.BytesIO()
    sources = {name: source(tensor) for name, tensor in tensors.items()}
    write_to(buffer, sources, {"inside": json.dumps(described)})
    return buffer.getvalue()


def read_texts(
    model: LatentDiffusion, plan: Plan, trace: Trace
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Return the prompt as each text encoder reads it that the network attends to.

    Returns:
        The tokens and their hidden states, named as in the file; and `pieces`, `limit`, `cut` and
        `encoder` of each. Both are empty for a model that reads no text.
    """
    tensors: dict[str, np.ndarray] = {}
    texts: list[dict[str, Any]] = []
    model = model.with_text_length(plan.job.max_sequence_length)
    attention = model.denoiser.text_attention
    for number in () if attention is None else attention.encoders:
        entry = trace.find(TEXT_ENCODERS[number])
        if entry is None:
            continue
        tokenizer = model.tokenizers[number]
        tokens = tokenizer.tokenize(plan.job.prompts[:1], model.grow(plan.job.prompt_options))
        ids = tokens.ids[0, 0]
        count = int(tokens.mask[0, 0].sum())
        end = f"_{len(texts)}" if texts else ""
        hidden = trace.read_outputs(entry)["output"][0, :count]
        tensors[f"ids{end}"] = ids[:count].astype(np.int32)
        tensors[f"hidden{end}"] = hidden.astype(np.float16)
        described = {
            "pieces": [show_piece(tokenizer.tokenizer, int(number)) for number in ids[:count]],
            "limit": tokenizer.length,
            "cut": next((line for line in tokens.warnings if "left out" in line), ""),
            "encoder": name_encoder(model.config, number),
        }
        texts.append(described)
    return tensors, texts


def show_piece(tokenizer: Tokenizer, number: int) -> str:
    """Return a token for people: without marks of spaces, and of letters where it has bytes.

    A part of a letter, and white space alone, stay as they are written in the vocabulary.
    """
    piece = tokenizer.id_to_token(number) or ""
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        text = tokenizer.decode([number], skip_special_tokens=False).strip()
        return piece if not text or PART in text else text
    return piece.removesuffix("</w>").replace("▁", " ").strip()


def find_levels(trace: Trace, calls: Sequence[str]) -> dict[str, str]:
    """Return the last residual block of each level of the U-Net, by level, in their order."""
    if not calls:
        return {}
    found = (LEVEL.fullmatch(entry.layer) for entry in trace.of_call(calls[0]))
    return {match[1]: match[0] for match in found if match}


def level_map(trace: Trace, call: str, layer: str) -> np.ndarray:
    """Return how strongly each place of a layer is active with the prompt, (h, w)."""
    entry = trace.find(call, layer)
    assert entry is not None
    [output] = trace.read_outputs(entry).values()
    conditional = output[min(1, len(output) - 1)].astype(np.float32)  # after the unconditional one
    return np.sqrt(np.mean(conditional**2, axis=0)).astype(np.float16)
