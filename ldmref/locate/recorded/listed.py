"""Arguments that are lists with an array for each image, as the arrays of a batch.

Programs may pass images and captions of several sizes as lists. A recording numbers them, `x.0`,
`x.1`. ldmref's networks read arrays (n, ...): images of one size are stacked, and captions are
filled up to the longest one, with a mask of what is theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ldmref.models.declared import DeclaredNetwork, NetworkInput
from ldmref.ports.arguments import names_of
from ldmref.trace.calls import GUIDE_CALLS
from ldmref.trace.model import Trace, TraceEntry

IMAGE_AXES, TEXT_AXES = 4, 3  # of arrays of a batch
OUTPUT = "output"
# A list, or one that is the first of several results; the first word may be left out.
LISTED = re.compile(rf"({OUTPUT}\.)?(0\.)?\d+")


def with_arrays_of_lists(port: Trace, networks: Iterable[DeclaredNetwork]) -> Trace:
    """Return a port whose networks have arrays in the place of lists with an array for each image.

    Args:
        port: The trace.
        networks: The networks of the run.

    Returns:
        The trace. Images of several sizes remain lists, and so does what is an array already.

    >>> import numpy as np
    >>> from ldmref.families.lookup import networks_of_run
    >>> from ldmref.models import preset
    >>> from ldmref.trace import build_trace
    >>> arrays = {"x.0": np.ones((16, 1, 4, 4)), "x.1": np.ones((16, 1, 4, 4)), "t": np.ones(2)}
    >>> arrays |= {"cap_feats.0": np.ones((3, 20)), "cap_feats.1": np.ones((5, 20))}
    >>> trace = build_trace({f"transformer.000//input.{k}": x for k, x in arrays.items()})
    >>> found = with_arrays_of_lists(trace, networks_of_run(preset("z-image-tiny")))
    >>> {role: found.tensors[name].shape for role, name in found.entries[0].inputs.items()}
    {'t': (2,), 'sample': (2, 16, 4, 4), 'encoder_hidden_states': (2, 5, 20), \
'encoder_attention_mask': (2, 5)}
    """
    by_name = {network.name: network for network in networks}
    tensors: dict[str, np.ndarray] = {}
    entries = []
    for entry in port.entries:
        network = by_name.get(entry.call.kind.removeprefix(GUIDE_CALLS))
        known = network is not None and not entry.layer
        entries.append(_joined(port, entry, network, tensors) if known and network else entry)
    if not tensors:
        return port
    return replace(port.with_entries(entries), tensors={**port.tensors, **tensors})


def _joined(
    port: Trace, entry: TraceEntry, network: DeclaredNetwork, tensors: dict[str, np.ndarray]
) -> TraceEntry:
    """Return a call whose lists are arrays, which are added to the tensors."""
    inputs, made = dict(entry.inputs), dict[str, np.ndarray]()
    images: Sequence[np.ndarray] = ()
    for x in (*network.inputs, *network.optional):
        listed = _list_of(x, names_of(network, x), inputs)
        arrays = [np.asarray(port.tensors[inputs[role]]) for role in listed]
        joined = _join(x, arrays)
        if joined is None:
            continue
        inputs = {role: name for role, name in inputs.items() if role not in listed}
        made[x.role] = joined
        if len(x.shape) == IMAGE_AXES:
            images = arrays
        else:
            made |= _mask_of(network, inputs, arrays)
    for role, array in made.items():
        inputs[role] = f"{entry.name}/input.{role}"
        tensors[inputs[role]] = array
    return replace(entry, inputs=inputs, outputs=_joined_outputs(port, entry, images, tensors))


def _mask_of(
    network: DeclaredNetwork, inputs: Mapping[str, str], texts: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the mask (n, l) of captions by its role; {}: it was recorded, or is not read."""
    mask = next((x for x in network.inputs if x.content == "mask"), None)
    if mask is None or {*names_of(network, mask)} & {*inputs}:
        return {}
    lengths = np.array([len(text) for text in texts])
    return {mask.role: (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)}


def _joined_outputs(
    port: Trace, entry: TraceEntry, images: Sequence[np.ndarray], tensors: dict[str, np.ndarray]
) -> Mapping[str, str]:
    """Return the outputs of a call, with one array for a list of images as those that it read."""
    listed = [role for role in entry.outputs if LISTED.fullmatch(role)]
    arrays = [np.asarray(port.tensors[entry.outputs[role]]) for role in listed]
    if not images or [x.shape for x in arrays] != [x.shape for x in images]:
        return entry.outputs
    name = f"{entry.name}/{OUTPUT}"
    tensors[name] = np.stack([_as_image(array) for array in arrays])
    others = {role: found for role, found in entry.outputs.items() if role not in listed}
    return {OUTPUT: name, **others}


def _list_of(x: NetworkInput, names: Sequence[str], inputs: Mapping[str, str]) -> list[str]:
    """Return the roles of a list that is an input of a network; [] if none is."""
    if {*names} & {*inputs}:
        return []
    for name in names:
        found = [role for role in inputs if re.fullmatch(rf"{re.escape(name)}\.\d+", role)]
        if found:
            return sorted(found, key=lambda role: int(role.rpartition(".")[2]))
    return []


def _join(x: NetworkInput, arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    """Return the array of a batch that a list is; None: it is none, or of images of several sizes.

    Captions are filled up with their last token.
    """
    if not arrays:
        return None
    if len(x.shape) == IMAGE_AXES:
        images = [_as_image(array) for array in arrays]
        same = len({image.shape for image in images}) == 1
        return np.stack(images) if same and images[0].ndim == IMAGE_AXES - 1 else None
    texts = len(x.shape) == TEXT_AXES and all(array.ndim == TEXT_AXES - 1 for array in arrays)
    if not texts or len({array.shape[1] for array in arrays}) > 1 or not all(map(len, arrays)):
        return None
    length = max(map(len, arrays))
    return np.stack([np.pad(a, ((0, length - len(a)), (0, 0)), mode="edge") for a in arrays])


def _as_image(array: np.ndarray) -> np.ndarray:
    """Return an image (c, h, w) that may have an axis of frames, (c, 1, h, w)."""
    frames = array.ndim == IMAGE_AXES and array.shape[1] == 1
    return array[:, 0] if frames else array
