"""The run of a kit: every named node in float64, and its error in narrower formats.

Two prompts of unequal length, one after the other, as the result of a model is defined for one
image at a time; an image of an odd size; the decoder, and the encoder on the decoded image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np

from ldmref.backends.named import LayerCall
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.golden_models import (
    golden_config,
    golden_model,
    golden_runs,
    make_tokenizers,
    vocabularies_of,
)
from ldmref.cases.parameters import random_array
from ldmref.cases.trace_runs import (
    NEGATIVE,
    GoldenTrace,
    RecordedRun,
    make_recorder,
    record_run,
)
from ldmref.errors import UsageError, did_you_mean
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.precision import round_to
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of, with_text_length
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import tree_map
from ldmref.samplers.registry import SAMPLERS
from ldmref.trace.backend import LayerRecordingBackend
from ldmref.trace.model import TraceEntry

CODE = "E-PASSPORT"
# Of unequal length for each tokenizer, and neither is NEGATIVE. In this order, no latent of the
# quantised autoencoder is so near the middle of two codes that bfloat16 chooses the other one.
PROMPTS = ("red", "red heart")
# Of families whose templates surround a prompt, which fill texts up to multiples of up to 32 tokens
# or mask what is filled up: on both sides of a multiple, with 16 tokens more in the second.
FILLED_PROMPTS = ("red", "red heart red heart red heart red heart red heart")
STEPS = 2
SCALE = 5.0
# Networks that read the scale read it times 1000, and sines of it: 4000 is a number of bfloat16.
# 5000 is not: a right port in bfloat16 would generate another image.
EXACT_SCALE = 4.0
# Rows and columns of an image, of tokens or of the lowest level of a U-Net, which every program can
# run: even and odd, and not square.
CELLS = (2, 3)
TEXT_MULTIPLE = 16  # of the number of tokens that a text with its template is filled up to
MANY = 512  # tokens, more than any prompt and template has
FORMATS = ("float32", "bfloat16", "float16")
WIDE = 256  # numbers of a layer's output up to which they are stored in float64
POSITIONS = "positions"  # the input of a layer that no other node gives
IMAGE = "passport/image"


@dataclass(frozen=True)
class KitRun:
    """The run of a kit.

    Attributes:
        family: The preset of which the model is a small version.
        inputs: The given arrays by name: the noise.
        exact: All calls with all layers, in float64.
        floors: For each format, the relative error of each output where the whole run is computed
            in it, by the name of the tensor.
    """

    family: str
    inputs: Mapping[str, np.ndarray] = field(repr=False)
    exact: RecordedRun = field(repr=False)
    floors: Mapping[str, Mapping[str, float]] = field(repr=False)


def kit_families() -> list[str]:
    """Return the models that have kits: presets with golden runs from a text to an image.

    Returns:
        Their names.

    >>> "sdxl" in kit_families(), "tiny" in kit_families()
    (True, False)
    """
    return list(dict.fromkeys(run.preset for run in golden_runs() if run.mode == "txt2img"))


def kit_trace(family: str) -> GoldenTrace:
    """Return the run of a family's kit.

    Raises:
        UsageError: The family has no kit.
    """
    runs = [run for run in golden_runs((family,)) if run.mode == "txt2img"]
    runs.sort(key=lambda run: SAMPLERS[run.sampler].stochastic)
    if not runs:
        hint = did_you_mean(family, kit_families()) or "ldmref passport list prints all"
        raise UsageError(f"there is no kit of {family!r}", code=CODE, hint=hint)
    config = golden_config(family)
    halvings = (
        len(config.denoiser.block_out_channels) - 1
        if isinstance(config.denoiser, UNetConfig)
        else 0
    )
    height, width = (n * config.size_multiple * 2**halvings for n in CELLS)
    scale = EXACT_SCALE if config.denoiser.reads_guidance else SCALE
    params = {"prompt": list(_prompts(config)), "negative_prompt": NEGATIVE, "cfg_scale": scale}
    params |= {"sampler": runs[0].sampler, "seed": [0, 1], "width": width, "height": height}
    params |= {k: x for k, x in runs[0].params.items() if k != "prompt"}
    if _is_surrounded(config):
        params["max_sequence_length"] = _text_length(family)
    return GoldenTrace(f"{family}.passport", family, "txt2img", params | {"steps": STEPS})


def _is_surrounded(config: ModelConfig) -> bool:
    """Return whether a template surrounds the prompts of a model."""
    templates = family_of(config).text.templates(config)
    return any(template.surrounds for template in templates.values())


def _prompts(config: ModelConfig) -> tuple[str, str]:
    """Return the prompts of a model's kit."""
    return FILLED_PROMPTS if _is_surrounded(config) else PROMPTS


@cache
def _text_length(family: str) -> int:
    """Return the number of tokens that hold each prompt of a kit with its whole template.

    The encoders of golden runs read fewer, in which a template leaves no room for a prompt.
    """
    config = with_text_length(golden_config(family), MANY)
    texts = make_tokenizers(config, vocabularies_of(family))[0].tokenize(
        [*_prompts(config), NEGATIVE]
    )
    uncounted = config.text_encoder.max_position_embeddings - MANY  # tokens of the template
    longest = int(np.sum(texts.mask, axis=(1, 2)).max()) - uncounted
    return -(-longest // TEXT_MULTIPLE) * TEXT_MULTIPLE


def record_kit(family: str) -> KitRun:
    """Run a family's small model in float64, and in each narrower format.

    Raises:
        UsageError: The family has no kit.
    """
    trace = kit_trace(family)
    inputs = trace.inputs()
    model = golden_model(family, NumpyBackend(dtype="float64"))
    exact = record_with_encoder(trace, model, inputs, record_layers)
    floors = {}
    for dtype in FORMATS:
        rounded = partial(RoundedRecording, dtype=dtype)
        low = golden_model(family, NumpyBackend(dtype="float32"))
        params = tree_map(partial(round_to, dtype=dtype), low.params)
        low = low.with_params(params, low.backend)
        with np.errstate(all="ignore"):
            floors[dtype] = dict(_floors(exact, record_with_encoder(trace, low, inputs, rounded)))
    return KitRun(family, inputs, exact, floors)


def record_layers(*args: Any) -> LayerRecordingBackend:
    """Return a backend that records every layer, whatever the backend compiles."""
    inner, recorder, config, _, *prefix = args
    return LayerRecordingBackend(inner, recorder, config, False, *prefix)


class RoundedRecording(LayerRecordingBackend):
    """Records layers whose results are rounded to a number format.

    Args:
        dtype: The format.
    """

    def __init__(self, *args: Any, dtype: str):
        super().__init__(args[0], args[1], args[2], False)
        self.rounded = dtype

    def visit(self, call: LayerCall) -> Any:
        """Record a layer whose results are rounded."""

        def compute(inputs: Mapping[str, Any]) -> Any:
            result = call.compute(inputs)
            if isinstance(result, tuple):
                return tuple(round_to(part, self.rounded) for part in result)
            return round_to(result, self.rounded)

        return super().visit(replace(call, compute=compute))


def record_with_encoder(
    trace: GoldenTrace,
    model: LatentDiffusion,
    inputs: Mapping[str, np.ndarray],
    recording: Callable[..., LayerRecordingBackend],
) -> RecordedRun:
    """Record the run of a kit, and the encoder on an image of its size.

    Args:
        trace: The run.
        model: The kit's model on any backend.
        inputs: The given arrays by name.
        recording: Makes the backend that records.
    """
    found = record_run(trace, model, inputs, recording=recording)
    ops = recording(model.backend, make_recorder(found), model.config, None)
    shape = (1, 3, trace.params["height"], trace.params["width"])
    image = np.clip(0.5 * random_array(IMAGE, shape), -1.0, 1.0)
    model.with_backend(ops).encode_image(image)
    return found


def _floors(exact: RecordedRun, low: RecordedRun) -> Iterator[tuple[str, float]]:
    """Yield the relative error of each output of a run in a narrower format."""
    for entry in exact.entries:
        for name in entry.outputs.values():
            expected = np.asarray(exact.tensors[name])
            if expected.dtype.kind == "f" and name in low.tensors:
                yield name, relative_error(low.tensors[name], expected)


def stored_run(run: KitRun) -> RecordedRun:
    """Return what a kit stores of its run: the outputs of all nodes of the first call of a network.

    Later calls, and what the host computes, have inputs and outputs, without layers.
    Large outputs of layers are rounded to float32.
    """
    config = golden_config(run.family)
    networks = {network.name: network for network in family_of(config).networks(config)}
    kept = []
    whole: set[str] = set()
    for entry in run.exact.entries:
        if not entry.layer:
            kept.append(entry)
            whole |= {*entry.inputs.values(), *entry.outputs.values()}
        elif is_first(entry, networks):
            inputs = {role: name for role, name in entry.inputs.items() if role == POSITIONS}
            kept.append(replace(entry, inputs=inputs))
    names = {name for entry in kept for name in (*entry.inputs.values(), *entry.outputs.values())}
    tensors = {
        name: x if name in whole or x.size <= WIDE else x.astype(np.float32)
        for name, x in run.exact.tensors.items()
        if name in names
    }
    return RecordedRun(tensors | dict(run.inputs), kept, run.exact.manifest)


def is_first(entry: TraceEntry, networks: Mapping[str, Any]) -> bool:
    """Return whether a layer belongs to the first call of a network."""
    network = networks.get(entry.call.network)
    if network is None:
        return False
    return entry.call == (f"{network.name}.000" if network.numbered else network.name)
