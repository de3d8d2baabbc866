"""Rows of padding, which are not compared: no number that is kept depends on them.

Tokens that a mask hides have states like all others, and right programs differ in them: attention
without a key returns zeros, a mean, or NaN. They matter to no image if nothing that is kept reads
them, which is tried and not assumed. A network is run twice, with other numbers in what the mask
hides. If its result stays the same, the rows that changed on the way are those of padding. Some
networks overwrite what the mask hides (Z-Image begins with zeros there), so other numbers are also
put into the tokens that enter a layer that attends, and that no query of it reads.

A text encoder's padding is read by denoisers without a mask, or with a wider one; the family's own
way from prompts to conditioning says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ldmref.backends.named import LayerCall, NamedBackend
from ldmref.locate.recorded.precision import exact_backend
from ldmref.locate.recorded.unfit import UNFIT
from ldmref.locate.replay.networks import RecordedNetwork
from ldmref.locate.replay.points import PaddingRows
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.declared import CallSize, same_size
from ldmref.models.layers import MASKED
from ldmref.models.model import LatentDiffusion
from ldmref.models.text import EncodedText
from ldmref.prompts.tokens import Tokens
from ldmref.trace.backend import name_outputs

MASK = "mask"  # the content of the input that hides tokens
CHANGED = 1e-9  # of the largest value: more than rounding changes a row, less than other tokens do
SEED = 5


class PaddingFinder:
    """Finds the rows of padding of calls; those of calls of one kind are found once.

    >>> import ldmref
    >>> PaddingFinder().read_later(ldmref.random_model("flux2-tiny"), np.array([[1, 1, 0]]))
    array([[ True,  True,  True]])
    >>> PaddingFinder().read_later(ldmref.random_model("z-image-tiny"), np.array([[1, 1, 0]]))
    array([[ True,  True, False]])
    """

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], PaddingRows] = {}

    def find(self, model: LatentDiffusion, network: RecordedNetwork) -> PaddingRows:
        """Return the rows of padding of a call; {} if its mask hides nothing, or hides no padding.

        Args:
            model: The model, which lives as long as this object.
            network: The network with the recorded arguments.
        """
        masked = [x for x in network.network.inputs if x.content == MASK]
        mask = network.arguments.get(masked[0].argument) if len(masked) == 1 else None
        if not isinstance(mask, np.ndarray) or mask.ndim != 2:
            return {}
        hidden = mask == 0
        if hidden.any() and network.network.name in TEXT_ENCODERS:
            hidden &= ~self.read_later(model, mask)
        if not hidden.any():
            return {}
        kinds = map(_kind, network.arguments.items())
        key = (id(model), network.network.name, hidden.tobytes(), *kinds)
        if key not in self._found:
            self._found[key] = _find(network, hidden, masked[0].shape[1])
        return self._found[key]

    def read_later(self, model: LatentDiffusion, mask: np.ndarray) -> np.ndarray:
        """Return the tokens of a text encoder whose states the denoiser reads, (n, l) bool.

        Args:
            model: The model.
            mask: 1 for tokens, and 0 for padding, (n, l).
        """
        configs = model.config.text_encoders
        if len(configs) != 1:  # nothing says how the others' tokens go with these
            return np.ones(mask.shape, bool)
        order = np.argsort(mask == 0, axis=1, kind="stable")  # a family's padding is behind
        sorted_mask = np.take_along_axis(mask, order, axis=1)[:, None]
        template = model.family.text.templates(model.config).get(TEXT_ENCODERS[0])
        n = len(mask)
        dropped = 0 if template is None else template.dropped
        zeros = np.zeros(sorted_mask.shape, np.int64)
        weights = np.ones(sorted_mask.shape, np.float32)
        tokens = Tokens(zeros, weights, sorted_mask, [1] * n, [0] * n, [], dropped)
        ops = exact_backend()
        text = model.family.text.encode(ops, configs, [tokens], _compile_indices)
        found = np.zeros(mask.shape, bool)
        for row, indices in enumerate(_read_indices(text)):
            found[row, order[row, indices]] = True
        return found


def _compile_indices(function: Callable, name: str) -> Callable:
    """Stand for `compile_network`: the state of a token is its place, from 1 on, (n, l, 1)."""

    def encode(config: object, ids: np.ndarray, *_: object) -> np.ndarray:
        return np.ones(ids.shape)[..., None] * np.arange(1.0, ids.shape[1] + 1.0)[:, None]

    return encode


def _read_indices(text: EncodedText) -> list[np.ndarray]:
    """Return the places of the tokens of each text whose states are read."""
    states = np.asarray(text.states)[:, :, 0]
    mask = text.more.get(MASK)
    read = states if mask is None else np.where(np.asarray(mask) != 0, states, 0.0)
    return [np.unique(row[row > 0]).astype(np.int64) - 1 for row in read]


def _kind(argument: tuple[str, Any]) -> tuple[str, object]:
    """Return the name of an argument, and what of it the rows of padding depend on."""
    name, x = argument
    return name, (x.shape, x.dtype.kind) if isinstance(x, np.ndarray) else repr(x)


class _Digests(NamedTuple):
    """What a run computed: one number for each row of each array, its result's, and who reads what.

    Attributes:
        rows: By layer, role of an input or "" for outputs, and number of the output.
        result: The same of the whole network's outputs.
        unread: By layer that attends, the tokens (n, l) that no query reads.
    """

    rows: Mapping[tuple[str, str, int], np.ndarray]
    result: Mapping[tuple[str, str, int], np.ndarray]
    unread: Mapping[str, np.ndarray]


class _DigestingBackend(NamedBackend):
    """A float64 backend that keeps a number of each row of each array between layers.

    Args:
        changed: By layer, the tokens (n, l) of its input whose numbers are exchanged for others.
    """

    def __init__(self, changed: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(exact_backend())
        self.changed = changed or {}
        self.rows: dict[tuple[str, str, int], np.ndarray] = {}
        self.unread: dict[str, np.ndarray] = {}  # by layer that attends: tokens (n, l) not read

    def visit(self, call: LayerCall) -> Any:
        inputs = dict(call.inputs)
        rows = self.changed.get(call.name)
        if rows is not None:
            inputs = {role: _change_tokens(x, rows) for role, x in inputs.items()}
        if call.kind == "attention":
            self._keep_unread(call)
        for role, x in inputs.items():
            _digest(self.rows, (call.name, role, 0), x)
        result = call.compute(inputs)
        for part, x in enumerate(result if isinstance(result, tuple) else (result,)):
            _digest(self.rows, (call.name, "", part), x)
        return result

    def _keep_unread(self, call: LayerCall) -> None:
        """Keep the tokens that no query of self-attention reads, for it and the layers around it.

        A layer around several attentions keeps what none of them reads.
        """
        queries, keys, bias = (call.inputs.get(role) for role in ("input", "k", "bias"))
        if queries is None or keys is None or queries.shape[2] != keys.shape[2]:
            return
        unread = np.zeros((keys.shape[0], keys.shape[2]), bool)
        if bias is not None:
            unread |= np.all(np.asarray(bias) <= MASKED / 2.0, axis=(1, 2))
        for name in (call.name, *self._scope):
            known = self.unread.get(name, unread)
            same = known.shape == unread.shape
            self.unread[name] = known & unread if same else np.zeros((0, 0), bool)


def _change_tokens(x: Any, rows: np.ndarray) -> Any:
    """Return tokens (n, l, d) or (n, heads, l, d) with other numbers in `rows`, (n, l)."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim not in (3, 4):
        return x
    tokens = rows[:, :, None] if x.ndim == 3 else rows[:, None, :, None]
    if (x.shape[0], x.shape[-2]) != rows.shape:
        return x
    noise = np.random.default_rng(SEED).standard_normal(x.shape)
    return np.where(tokens, max(float(np.sqrt(np.mean(np.square(x)))), 1e-3) * noise, x)


def _digest(
    rows: dict[tuple[str, str, int], np.ndarray], key: tuple[str, str, int], x: object
) -> None:
    """Keep a number of each row of an array of floats, (..., d): its product with random ones."""
    if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim > 1:
        rows[key] = x @ np.random.default_rng(SEED).standard_normal(x.shape[-1])


def _find(network: RecordedNetwork, hidden: np.ndarray, axis: int | CallSize) -> PaddingRows:
    """Return the rows that change with the numbers of hidden tokens, if no result changes.

    Args:
        network: The network.
        hidden: The tokens that are hidden, (n, l).
        axis: The declared size of the tokens.
    """
    arguments = {name: _known(x) for name, x in network.arguments.items()}
    others = dict(arguments)
    for x in network.network.inputs:
        array = arguments.get(x.argument)
        of_tokens = len(x.shape) > 1 and same_size(x.shape[1], axis) and x.content != MASK
        if of_tokens and isinstance(array, np.ndarray) and array.shape[:2] == hidden.shape:
            arguments[x.argument], others[x.argument] = _change(array, hidden)
    try:
        first = _run(network, arguments)
        unread = {name: _hidden_part(rows, hidden) for name, rows in first.unread.items()}
        unread = {name: rows for name, rows in unread.items() if rows.any()}
        for tokens in (unread, {}) if unread else ({},):
            found = _compare(first, _run(network, others, tokens), hidden)
            if found:
                return found
    except UNFIT:  # the replay says why
        pass
    return {}


def _hidden_part(unread: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Return which of the tokens that are not read are hidden; a network may have appended some."""
    return unread & hidden if unread.shape == hidden.shape else unread


def _compare(first: _Digests, second: _Digests, hidden: np.ndarray) -> PaddingRows:
    """Return the rows in which two runs differ; {} if their results differ in what is kept."""
    for key, x in first.result.items():
        changed = _changed(x, second.result[key])
        if changed.shape == hidden.shape:
            changed &= ~hidden
        if changed.any():
            return {}
    found = {key: _changed(x, second.rows[key]) for key, x in first.rows.items()}
    found |= {key: _changed(x, second.result[key]) for key, x in first.result.items()}
    return {key: changed for key, changed in found.items() if changed.any()}


def _known(x: object) -> Any:
    """Return an argument with numbers where it was not recorded."""
    return np.nan_to_num(x, posinf=0.0, neginf=0.0) if isinstance(x, np.ndarray) else x


def _change(x: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an array twice, (n, l, ...), with two different numbers for each hidden token."""
    rows = hidden.reshape(*hidden.shape, *[1] * (x.ndim - 2))
    if x.dtype.kind != "f":
        return np.where(rows, 0, x), np.where(rows, 1, x)
    noise = np.random.default_rng(SEED).standard_normal((2, *x.shape))
    size = max(float(np.sqrt(np.mean(np.square(x)))), 1e-3)
    return np.where(rows, size * noise[0], x), np.where(rows, size * noise[1], x)


def _run(
    network: RecordedNetwork,
    arguments: Mapping[str, Any],
    changed: Mapping[str, np.ndarray] | None = None,
) -> _Digests:
    backend = _DigestingBackend(changed)
    backend.name_parameters(network.params)
    with np.errstate(all="ignore"), backend.observed(network.function.__name__):
        result = network.function(backend, network.params, **arguments)
    found: dict[tuple[str, str, int], np.ndarray] = {}
    for part, x in enumerate(name_outputs(network.network, result).values()):
        _digest(found, ("", "", part), x)
    return _Digests(backend.rows, found, backend.unread)


def _changed(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which rows of two runs differ; those that are not finite do not count as equal."""
    apart = np.abs(x - other)
    return ~(apart <= CHANGED * np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))
