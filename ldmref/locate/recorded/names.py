"""The names of a port's layers and arrays, as ldmref's definition knows them.

Names are the module paths of diffusers and transformers. Some modules of theirs are operations
without parameters in ldmref, and older versions prefix the text encoder; `ALIASES` lists these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN, LayerCall
from ldmref.locate.recorded.layouts import restore_order, without_ones
from ldmref.trace.model import Trace, TraceEntry

# fmt: off
ALIASES = {  # the last part of ldmref's name -> those of other programs
    "silu": (
        "nonlinearity", "act", "conv_act", "activation", "act_fn.silu", "mlp_act_fn.silu",
        "act.silu",
    ),
    "gelu": ("activation_fn", "act_fn"),
    "quick_gelu": ("activation_fn", "act_fn"),
    "gelu_tanh": ("gelu", "act", "activation_fn", "act_fn"),
    "act_mlp": ("gelu",),
    "act": ("gelu",),
    "shared": ("encoder.embed_tokens",),
    "layer_norm": ("norm", "norm2", "norm_final"),
    "layer_norm~1": ("norm2_context",),
}
# fmt: on
ACTIVATIONS = ("silu", "gelu", "quick_gelu", "gelu_tanh", "act_mlp", "act")
PREFIXES = ("text_model.", "vae.", "unet.", "model.")
OF_HEADED = "model."  # before the layers of a language model that has a head
ROLES = {  # arguments of ldmref's layers -> those of diffusers' modules
    "emb": ("temb", "conditioning_embedding", "adaln_input"),
    "pooled": ("pooled_projection",),
    "context": ("encoder_hidden_states",),
    "modulation": ("temb_mod", "temb"),
    "text_modulation": ("temb_mod_context",),
    "rows": ("modulation", "temb_mod"),
    "of_image": ("temb_mod_img",),
    "of_text": ("temb_mod_txt",),
    "ids": ("input_ids",),
    "input": ("hidden_states", "sample", "latent", "x", "timestep", "0"),
}
INDICES = re.compile(  # names of arrays of whole numbers
    r"ids?$|indices|labels?$|mask|position|bucket|^tokens|timestep|"
    r"(embeddings?|embed_tokens|shared|wte|wpe|relative_attention_bias)/input"
)
MODULATIONS = re.compile(
    r"(.*\.)?(norm\w*\.linear|adaLN_modulation\.\d|\w*modulations?(_\w+)?(\.\w+)?)", re.ASCII
)
NUMBERS = re.compile(rf"{AGAIN}\d+", re.ASCII)
PARTS = (1, 2, 3, 4, 6, 9)  # of what a linear layer gives an adaptive norm
WHOLE = {"output": ("output", "sample", "last_hidden_state", "0"), "pooled": ("text_embeds",)}


def find_entry(port: Trace, call: str, layer: LayerCall) -> TraceEntry | None:
    """Return the recorded entry of a layer; None if the port did not record it."""
    return find_layer(port, call, layer.name)


def find_layer(port: Trace, call: str, layer: str) -> TraceEntry | None:
    """Return the recorded entry of a layer by its name; None if the port did not record it.

    The module that another program calls its activation may also multiply by a gate. It then
    returns fewer channels than it reads, and is another layer.
    """
    plain = layer.partition(AGAIN)[0].rpartition(".")[2] not in ACTIVATIONS
    for name in _possible_names(layer):
        entry = port.find(call, name)
        if entry is not None and (plain or name == layer or _keeps_shape(port, entry)):
            return entry
    return None


def _keeps_shape(port: Trace, entry: TraceEntry) -> bool:
    """Return whether a layer returns as many numbers as it reads, as far as it was recorded."""
    sides = [[*side.values()][:1] for side in (entry.inputs, entry.outputs)]
    sizes = [np.size(port.tensors[name]) for names in sides for name in names]
    return len(set(sizes)) <= 1


def _possible_names(name: str) -> list[str]:
    names = [name]
    base, again, count = name.partition(AGAIN)
    parent, _, last = base.rpartition(".")
    number = again + count
    for alias in ALIASES.get(last + number, ()) if number else ():
        names.append(f"{parent}.{alias}" if parent else alias)
    for alias in ALIASES.get(last, ()):
        names.append(f"{parent}.{alias}{number}" if parent else alias + number)
    for prefix in PREFIXES:
        if name.startswith(prefix):
            names.append(name.removeprefix(prefix))
        elif prefix == "text_model.":
            names.append(prefix + name)
    if not name.startswith(PREFIXES):
        names.append(OF_HEADED + name)
    return names


def find_role(roles: Mapping[str, str], role: str, order: Sequence[str] = ()) -> str:
    """Return the name of the tensor that ldmref calls by the name of a role; "" if there is none.

    Args:
        roles: Tensor names by role.
        role: ldmref's role: "input", "emb", "output".
        order: All roles in the order of the arguments, for ports that number them.
    """
    position = str(order.index(role)) if role in order else ""
    others = (*ROLES.get(role, ()), *WHOLE.get(role, ()), position)
    return next((roles[name] for name in (role, *others) if name and name in roles), "")


def read_role(
    port: Trace, roles: Mapping[str, str], role: str, order: Sequence[str] = ()
) -> np.ndarray | None:
    """Return a recorded array by ldmref's name of its role; floats in float64.

    Args:
        port: The trace.
        roles, role, order: As for `find_role`.
    """
    name = find_role(roles, role, order)
    return read_array(port, name) if name else None


def read_output(
    port: Trace, entry: TraceEntry, part: int = 0, only: bool = True
) -> np.ndarray | None:
    """Return an output of a layer; None if it was not recorded.

    Args:
        port: The trace.
        entry: The layer.
        part: Which of several outputs.
        only: Whether it is the one that a layer returns which returns one alone.
    """
    for role in (str(part), f"output.{part}"):
        if role in entry.outputs:
            return read_array(port, entry.outputs[role])
    alone = only and not {"0", "1", "output.0", "output.1"} & entry.outputs.keys()
    return read_role(port, entry.outputs, "output") if alone else None


def read_outputs(
    port: Trace, entry: TraceEntry, shapes: Sequence[tuple[int, ...]], alone: int
) -> list[np.ndarray | None]:
    """Return the outputs of a layer; None for those that were not recorded.

    A program may return several as one array, or in another order, as the image before the text.
    Arrays that do not fit are read in the one order in which all do.

    Args:
        port: The trace.
        entry: The layer.
        shapes: Of the outputs that the layer should return.
        alone: The number of the one that a layer returns which returns one alone.
    """
    joined = split_joined(read_output(port, entry), shapes) if len(shapes) > 1 else []
    if joined:
        return [*joined]
    parts = range(len(shapes))
    found = [read_output(port, entry, part, only=part == alone) for part in parts]

    def fits(order: Sequence[int]) -> bool:
        sizes = [found[part] for part in order]
        return all(
            x is not None and without_ones(x.shape) == without_ones(shape)
            for x, shape in zip(sizes, shapes, strict=True)
        )

    orders = [order for order in permutations(parts) if fits(order)]
    return [found[part] for part in orders[0]] if len(orders) == 1 else found


def split_joined(
    recorded: np.ndarray | None, shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray]:
    """Return the outputs of a layer that a port returned as one array; [] if they are not joined.

    Args:
        recorded: What a layer returned, tokens (n, l, d). None: nothing was recorded.
        shapes: Those of the outputs, tokens (n, l_i, d) whose numbers l_i add up to l.

    >>> [x.shape for x in split_joined(np.ones((1, 8, 4)), ((1, 2, 4), (1, 6, 4)))]
    [(1, 2, 4), (1, 6, 4)]
    """
    if recorded is None or len(shapes) < 2 or {len(s) for s in (recorded.shape, *shapes)} != {3}:
        return []
    lengths = np.cumsum([length for _, length, _ in shapes])
    sizes = {(n, width) for n, _, width in (recorded.shape, *shapes)}
    fits = len(sizes) == 1 and lengths[-1] == recorded.shape[1]
    return np.split(recorded, lengths[:-1], axis=1) if fits else []


def read_inputs(port: Trace, entry: TraceEntry, layer: LayerCall) -> dict[str, np.ndarray]:
    """Return the recorded inputs of a layer by ldmref's names of their roles."""
    found = {role: read_role(port, entry.inputs, role, list(layer.inputs)) for role in layer.inputs}
    return {role: x for role, x in found.items() if x is not None}


def is_apart(port: Trace, entry: TraceEntry, layer: LayerCall) -> bool:
    """Return whether a layer was recorded in other shapes than the run that is assumed.

    Where nothing upstream was recorded, the sizes of images and the number of tokens are guesses.
    """
    for role, recorded in read_inputs(port, entry, layer).items():
        assumed = np.asarray(layer.inputs[role])
        unknown = assumed.dtype.kind == "f" and bool(np.isnan(assumed).any())
        other = recorded.shape != assumed.shape
        if unknown and other and next(restore_order(recorded, assumed.shape), None) is None:
            return True
    return False


def read_array(port: Trace, name: str) -> np.ndarray:
    """Return a recorded array: floats in float64, ids in int64.

    A program may store whole numbers where floats belong. Only ids and what selects rows stay
    whole numbers.

    Raises:
        ValueError: It holds complex numbers.
    """
    x = np.asarray(port.tensors[name])
    if x.dtype.kind == "c":
        raise ValueError(f"{name[:80]!r} holds complex numbers")
    if x.dtype.kind in "iub":
        return x.astype(np.int64 if INDICES.search(name) else np.float64)
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def latent_scale(layer: str, levels: int) -> float | None:
    """Return how many latent pixels a pixel of a layer's input spans; None if it has no pixels.

    >>> latent_scale("down_blocks.1.resnets.0.conv1", 3), latent_scale("decoder.conv_in", 3)
    (2.0, 1.0)
    >>> [latent_scale(f"up_blocks.0.upsamplers.0{inner}", 3) for inner in ("", ".conv")]
    [4.0, 2.0]
    """
    if re.match(r"time_|add_|class_|text_", layer) or ".time_emb_proj" in layer:
        return None
    encoder = layer.startswith("encoder.")
    decoder = layer.startswith("decoder.")
    rest = layer.removeprefix("encoder.").removeprefix("decoder.")
    found = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)", rest)
    whole = 2.0 ** (levels - 1)
    if found is None:
        if rest.startswith("mid_block"):
            return 1.0 if decoder or encoder else whole
        if encoder and not rest.startswith("conv_in"):
            return 1.0
        if decoder:
            return 1.0 if rest.startswith("conv_in") else 1.0 / whole
        return 1.0 / whole if encoder else 1.0
    level = int(found[2])
    if found[1] == "down":
        return 2.0**level / (whole if encoder else 1.0)
    level += re.fullmatch(r".*\.upsamplers\.\d+\..+", rest) is not None  # after its upsampling
    return 2.0**-level if decoder else whole / 2.0**level


def layers_of(tree: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the layers with parameters of a tree."""
    leaves = {key: x for key, x in tree.items() if not isinstance(x, Mapping)}
    if leaves:
        yield name, leaves
    for key, child in tree.items():
        if isinstance(child, Mapping):
            yield from layers_of(child, f"{name}.{key}" if name else key)


def count_modulations(call: LayerCall, width: int = 0) -> int:
    """Return how many parts a linear layer of an adaptive norm gives; 0: it is no such layer.

    Args:
        call: The layer.
        width: The width of what is normalised. 0: that of what the layer reads.
    """
    if not MODULATIONS.fullmatch(call.name) or call.kind != "linear":
        return 0
    rows, columns = call.parameters["weight"].shape
    width = width or columns
    return rows // width if rows in [n * width for n in PARTS] else 0


def neighbours_of(
    call: LayerCall, layers: Iterable[tuple[str, dict[str, np.ndarray]]]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield those of some layers that are next to a layer, and have parameters of its shapes.

    Args:
        call: The layer.
        layers: Layers with their parameters.
    """
    shapes = {name: x.shape for name, x in call.parameters.items()}
    around = call.name.split(".")[:-1]
    while around and around[-1].isdigit():  # `to_out.0` is a neighbour of `to_q`
        around.pop()
    prefix = ".".join(around[:-1] if around[-1:] == ["to_out"] else around)
    for name, leaves in layers:
        beside = name.startswith(prefix) and name != call.name
        if beside and shapes and {k: x.shape for k, x in leaves.items()} == shapes:
            yield name, leaves


def may_hold(layer: str, target: str) -> bool:
    """Return whether a layer may contain another, whatever their numbers are.

    Where a layer and the one around it have one name, `attentions.0` holds `attentions.0~1`, which
    holds `attentions.0.to_q`.

    >>> may_hold("attn~1", "attn.to_q~1"), may_hold("attn", "attn2.to_q")
    (True, False)
    """
    plain, inner = NUMBERS.sub("", layer), NUMBERS.sub("", target)
    return inner == plain or inner.startswith(f"{plain}.")


def is_norm(name: str, kind: str) -> bool:
    """Return whether a layer is a norm, by its name or the name of what computes it.

    >>> is_norm("blocks.0.norm1~1", "linear"), is_norm("blocks.0", "RMSNorm"), is_norm("norm.0", "")
    (True, True, False)
    """
    own = (name.rpartition(".")[2].lower(), kind.lower())
    return any("norm" in part or "rms" in part for part in own)


def parts_of(result: object) -> tuple[Any, ...]:
    """Return the arrays of a network's result."""
    return result if isinstance(result, tuple) else (result,)
