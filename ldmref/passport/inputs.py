"""What the networks of a kit are given: units, padding and rows, as a page of the kit.

What a porter asks first of an array, and no array says: the unit of a time, whether padding is
read, and how many rows are texts. All of it is declared by the family or stands in the kit's run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.models.declared import CallSize, DeclaredNetwork, NetworkInput
from ldmref.models.family import family_of
from ldmref.models.model import TEXT_ENCODERS, LatentDiffusion
from ldmref.ports.arguments import names_of
from ldmref.ports.port import port_of
from ldmref.trace.model import Trace

UNITS = {
    "timesteps": "0 (the image) to 1000 (noise)",
    "ends": "the time to which the step leads, 0 (the image) to 1000 (noise)",
    "guidance": "the guidance scale",
    "sizes": "pixels",
    "image": "pixels from -1 to 1",
    "mask": "1: a token of the text; 0: padding",
    "ids": "numbers of tokens",
    "labels": "numbers of classes",
}
PREDICTIONS = {
    "eps": "the noise eps",
    "v": "v = alpha eps - sigma x0",
    "x0": "the image x0",
    "flow": "the velocity eps - x0, from the image to the noise",
}
OF_DECODER = "the denoiser's latents, over `scaling_factor` of the autoencoder, plus its shift"
STEP = "the number of a training step, 0 (little noise) to 999"  # of models without a flow
HEAD = """# Inputs of the kit {name}

Arrays are named and measured as in `trace/`. A port may have other units and another order, which
`ldmref diff` recognises. Sizes: n images or texts, l tokens, h and w rows and columns of latents.

| network | input | shape | unit | in this kit |
|---|---|---|---|---|
"""
ENDS = {"prompt": "between the prompt and the text behind it", "end": "at the end"}
IDS = "input_ids"
SIZES = {"batch": "n", "tokens": "l", "height": "h", "width": "w"}


def describe_inputs(model: LatentDiffusion, run: Trace) -> str:
    """Return the page of a kit about the inputs of its networks, as Markdown.

    Args:
        model: The kit's model.
        run: Its run.
    """
    lines = [HEAD.format(name=model.config.name).rstrip("\n")]
    networks = family_of(model.config).networks(model.config)
    for network in networks:
        for x in network.inputs:
            cells = (network.name, f"`{x.role}`", _shape(x), _unit(network, x, model))
            values = _values(run, network, x)
            if values:
                lines.append(f"| {' | '.join((*cells, values))} |")
    lines += ["", *_predictions(model), *_texts(model, run)]
    return "\n".join(lines) + "\n"


def _shape(x: NetworkInput) -> str:
    """Return a declared shape in letters and numbers."""
    sizes = []
    for size in x.shape:
        if not isinstance(size, CallSize):
            sizes.append(str(size))
            continue
        letter = SIZES.get(size.of, size.of)
        sizes.append(f"{size.times} {letter}" if size.times > 1 else letter)
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _follows(x: NetworkInput, of: str) -> bool:
    """Return whether a size of an input is one of the call's."""
    return any(isinstance(size, CallSize) and size.of == of for size in x.shape)


def _unit(network: DeclaredNetwork, x: NetworkInput, model: LatentDiffusion) -> str:
    """Return the unit of an input in words."""
    if x.content == "timesteps" and model.config.scheduler.prediction_type != "flow":
        return STEP
    if x.content in UNITS:
        return UNITS[x.content]
    if _follows(x, "height"):
        return OF_DECODER if network.name.startswith("vae") else "latents"
    if _follows(x, "tokens"):
        return "hidden states of the text"
    return "numbers"


def _arrays(run: Trace, network: DeclaredNetwork, x: NetworkInput) -> Iterator[np.ndarray]:
    """Yield what the calls of a network were given."""
    for call in run.calls:
        entry = run.find(call) if call.network == network.name else None
        role = next((r for r in names_of(network, x) if entry and r in entry.inputs), None)
        if entry is not None and role is not None:
            yield np.asarray(run.tensors[entry.inputs[role]])


def _values(run: Trace, network: DeclaredNetwork, x: NetworkInput) -> str:
    """Return what an input has in a run: its numbers, its texts' lengths or its shapes."""
    arrays = [*_arrays(run, network, x)]
    if not arrays:
        return ""
    if x.content == "mask":
        rows = dict.fromkeys(
            f"{int(np.count_nonzero(row))} of {row.size}" for mask in arrays for row in mask
        )
        return f"tokens of the texts: {', '.join(rows)}"
    if x.content in ("timesteps", "ends", "guidance"):
        found = dict.fromkeys(f"{value:.6g}" for array in arrays for value in np.ravel(array))
        return ", ".join(found)
    return ", ".join(dict.fromkeys(str(array.shape) for array in arrays))


def _predictions(model: LatentDiffusion) -> Iterator[str]:
    """Yield what the denoiser returns, and the order of its batch."""
    config = model.config
    kind = config.scheduler.prediction_type
    halves = port_of(family_of(config)).halves
    yield f"The denoiser returns {PREDICTIONS[kind]}, in the shape of its latents."
    yield "A guided call has the halves " + ", ".join(f"`{half}`" for half in halves) + "."
    yield ""


def _texts(model: LatentDiffusion, run: Trace) -> Iterator[str]:
    """Yield with what texts are filled up, and which rows the denoiser reads."""
    family = family_of(model.config)
    for name, tokenizer in zip(TEXT_ENCODERS, model.tokenizers, strict=False):
        entry = next((e for e in run.entries if e.call.network == name and IDS in e.inputs), None)
        if entry is None:
            continue
        length = np.shape(run.tensors[entry.inputs[IDS]])[-1]
        end = ENDS[tokenizer.template.padding]
        yield (
            f"- `{name}` reads {length} tokens; shorter texts are filled up with the number "
            f"{tokenizer.pad} {end}."
        )
        if dropped := tokenizer.template.dropped:
            yield f"  The denoiser does not read its first {dropped} tokens, a system message."
    denoiser = model.denoiser
    masked = any(x.content == "mask" for x in denoiser.inputs)
    if family.text.multiple > 1:
        yield (
            f"- Rows that are padding in all texts of a run are cut, down to a multiple of "
            f"{family.text.multiple}."
        )
    if masked:
        yield "- The denoiser has a mask: rows where it is 0 change nothing of what it returns."
        if family.text.reads_padding:
            yield "- The mask is 1 for what fills up a text to its length, too: that is read."
    elif any(_follows(x, "tokens") for x in denoiser.inputs):
        yield "- The denoiser has no mask: it reads all rows of the text, those of padding as well."
    attention = denoiser.text_attention
    if attention is not None and attention.multiple > 1:
        yield (
            f"- Image and text are filled up to a multiple of {attention.multiple} tokens with "
            "learned rows, which are read."
        )
