"""Steering: guidance that replaces layers of a denoiser, whose definition knows nothing of it.

    network = model.denoiser.steered
    network(ops, p, config, x, t, context, steering=(PartsPerturbed(("mid",)),))

runs the definition on a stand-in for the backend. Every layer asks it through `call_layer`, and it
returns what the layer computes, or what a `Steering` has in its place. `Steerable` says by the
names of layers which they are, and a family declares its steering as data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from ldmref.backends.base import Backend
from ldmref.math.arrays import Array
from ldmref.math.guidance_norms import normalized_attention_guidance
from ldmref.models.conditioning import get_hidden_states
from ldmref.models.layers import attention, identity_attention, merge_heads, split_heads
from ldmref.models.params import Params, name_parts
from ldmref.models.transformer_layers import NO_PARAMETERS, Heads, join_and_attend
from ldmref.samplers.predictions import Steering

ATTENTION = inspect.unwrap(attention)  # as `call_layer` gets it


@dataclass(frozen=True)
class AttentionGuidance:
    """How a denoiser of n images reads n negative prompts, followed by n prompts.

    Its attention to both is combined by `ldmref.math.normalized_attention_guidance` (arXiv:
    2505.21179). The other fields say how n images and 2 n texts meet: for a layer, the arguments
    that are changed. A layer is the end of its name, or the function that computes it; "" is the
    network itself.

    Attributes:
        layers: The layers in which image tokens attend to the text.
        blend: The weight of the result in published code.
        order: The order of the norms.
        prompts: Arguments of which only the rows of the prompts are used.
        repeated: Arguments that are used for both texts: n rows become 2 n. "control.blocks" is a
            field of an argument.
        texts: Arguments that are those of the network, with the rows of both texts.

    >>> import ldmref
    >>> ldmref.random_model("sd3-tiny").denoiser.steerable.attention.repeated
    {'time_text_embed': ('t',)}
    """

    layers: tuple[str, ...]
    blend: float
    order: int = 1
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    repeated: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Steerable:
    """The layers of a denoiser that guidance may replace.

    Attributes:
        blocks: The name of the list of blocks of which some may be left out (`skip_layers`). "":
            none may.
        kept: The arguments that a block returns that is left out.
        parts: For each part of the network whose self-attention may become the identity
            (`identity_attention`), how the names of its layers begin. These layers are
            `ldmref.models.layers.attention` of tokens to themselves.
        attention: How it takes `attention_guidance`. None: it does not.

    >>> import ldmref
    >>> ldmref.random_model("tiny").denoiser.steerable.parts["mid"]
    'mid_block.'
    """

    blocks: str = ""
    kept: tuple[str, ...] = ("x",)
    parts: Mapping[str, str] = field(default_factory=dict)
    attention: AttentionGuidance | None = None


@dataclass(frozen=True)
class SteeredNetwork:
    """A denoiser whose layers are replaced as one more argument says; a function like its own.

    Args:
        function: The definition.
        steerable: Its layers that may be replaced.
        text_first: Whether tokens of the text come first where one stream holds both.
    """

    function: Callable[..., Array]
    steerable: Steerable = field(hash=False)
    text_first: bool = True
    arguments: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = tuple(inspect.signature(self.function).parameters)[2:]
        object.__setattr__(self, "arguments", names)

    @property
    def __name__(self) -> str:
        return self.function.__name__

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self.function)
        more = inspect.Parameter("steering", inspect.Parameter.KEYWORD_ONLY, default=())
        return own.replace(parameters=[*own.parameters.values(), more])

    def __call__(
        self,
        ops: Backend,
        p: Params,
        *args: Any,
        steering: tuple[Steering, ...] = (),
        **kwargs: Any,
    ) -> Array:
        """Predict as the definition does, with layers replaced.

        Args:
            ops: The backend.
            p: The parameters.
            args, kwargs: The other arguments of the definition.
            steering: What replaces layers; each computes a layer with those after it.

        Returns:
            The result of the definition, for n images.
        """
        arguments = dict(zip(self.arguments, args, strict=False)) | kwargs
        steered = SteeredBackend(ops, p, self, steering, arguments)
        return SteeredLayer(steered, self.function, p, (), arguments, steering).replaced()


class SteeredBackend:
    """Stands in for a backend, calls its operations, and replaces layers.

    Args:
        inner: The backend, which may itself observe layers: it is asked for each that is computed.
        params: The parameters of the network.
        network: The network.
        steering: What replaces layers.
        arguments: The arguments of the network, by name.
    """

    def __init__(
        self,
        inner: Backend,
        params: Params,
        network: SteeredNetwork,
        steering: tuple[Steering, ...],
        arguments: Mapping[str, Any],
    ):
        self.inner = inner
        self.params = params
        self.network = network
        self.steering = steering
        self.arguments = arguments
        self._guided: dict[tuple[float, ...], GuidedAttention] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        setattr(self, name, value)  # found at once from now on
        return value

    def call_layer(
        self, function: Callable, p: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Compute a layer, or what replaces it."""
        if p is NO_PARAMETERS:
            return self.inner.call_layer(function, p, args, kwargs)
        if p.path is None:
            name_parts(self.params)
        return SteeredLayer(self, function, p, args, kwargs, self.steering).replaced()

    def guided_attention(self, numbers: tuple[float, ...]) -> GuidedAttention | None:
        """Return what stands in where image tokens attend to two texts; None: the family has none.

        Args:
            numbers: Of `AttentionGuided`.
        """
        declared = self.network.steerable.attention
        if declared is not None and numbers not in self._guided:
            images = self.arguments[self.network.arguments[1]].shape[0]
            self._guided[numbers] = GuidedAttention(
                self.inner, declared, numbers, images, self.arguments, self.network.text_first
            )
        return self._guided.get(numbers)


class SteeredLayer:
    """A layer of a steered network, or the network itself: a `SteeredCall` of `Steering`.

    Args:
        ops: What stands in for the backend.
        function: What computes it.
        p: Its parameters.
        args, kwargs: Its arguments.
        steering: What replaces it, in this order.
        on: The backend on which it is computed. None: `ops`.
    """

    def __init__(
        self,
        ops: SteeredBackend,
        function: Callable,
        p: Params,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        steering: tuple[Steering, ...],
        on: object = None,
    ):
        self.ops = ops
        self.function = function
        self.p = p
        self.args = args
        self.kwargs = kwargs
        self.steering = steering
        self.on = ops if on is None else on

    @property
    def name(self) -> str:
        """The name of its parameters; "" is the network itself."""
        return "" if self.is_network else self.p.path or ""

    @property
    def is_network(self) -> bool:
        """Whether it is the network itself."""
        return self.function is self.ops.network.function

    @property
    def kind(self) -> str:
        """The name of the function that computes it."""
        return self.function.__name__

    @property
    def arguments(self) -> dict[str, Any]:
        """Its arguments after its parameters, by name."""
        if not self.args:
            return dict(self.kwargs)
        return name_arguments(self.function, self.args, self.kwargs)

    @property
    def block(self) -> int | None:
        """Its number if it is one of the blocks that may be left out."""
        blocks = self.ops.network.steerable.blocks
        around, _, number = self.name.rpartition(".")
        return int(number) if blocks and around == blocks and number.isdecimal() else None

    def leave_out(self) -> Any:
        """Return its input as its output."""
        arguments = self.arguments
        first, *more = (arguments[name] for name in self.ops.network.steerable.kept)
        return (first, *more) if more else first

    def is_self_attention(self, parts: Sequence[str]) -> bool:
        """Return whether it is self-attention in one of these parts of the network."""
        declared = self.ops.network.steerable.parts
        if self.function is not ATTENTION:
            return False
        arguments = self.arguments
        itself = arguments["context"] is arguments["x"]
        return itself and self.name.startswith(tuple(declared[part] for part in parts))

    def attend_identically(self) -> Any:
        """Compute self-attention whose map is the identity."""
        on: Any = self.on
        return identity_attention(on, self.p, self.arguments["x"])

    def guide_attention(self, numbers: Sequence[float]) -> Any:
        """Compute it for two texts; attention to both is combined with these numbers."""
        guided = self.ops.guided_attention(tuple(numbers))
        if guided is None:
            return self.compute()
        rules = find_rules(guided.declared, self.name, "" if self.is_network else self.kind)
        args, kwargs = self.args, self.kwargs
        if rules.changes:
            args, kwargs = (), guided.change(rules, self.arguments)
        on = guided if rules.guided else self.on
        return self._with(args, kwargs, on)

    def compute(self, **changes: Any) -> Any:
        """Compute it, with some arguments changed."""
        if changes:
            return self._with((), {**self.arguments, **changes}, self.on)
        return self._with(self.args, self.kwargs, self.on)

    def _with(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], on: object) -> Any:
        """Compute it with these arguments, as the steering after the first says."""
        rest = self.steering[1:]
        return SteeredLayer(self.ops, self.function, self.p, args, kwargs, rest, on).replaced()

    def replaced(self) -> Any:
        """Compute it as its steering says."""
        if self.steering:
            return self.steering[0].replace(self)
        if self.is_network:
            return self.function(self.on, self.p, *self.args, **self.kwargs)
        function = StandInLayer(self.function, self.on)
        return self.ops.inner.call_layer(function, self.p, self.args, self.kwargs)


class GuidedAttention:
    """Stands in for a backend within a layer in which image tokens attend to two texts.

    Args:
        inner: The backend.
        declared: The declaration of the family.
        numbers: Scale, largest norm and, unless it is the network's own, weight of the result.
        images: The number n of images.
        arguments: The arguments of the network, by name.
        text_first: Whether tokens of the text come first where one stream holds both.
    """

    def __init__(
        self,
        inner: Backend,
        declared: AttentionGuidance,
        numbers: tuple[float, ...],
        images: int,
        arguments: Mapping[str, Any],
        text_first: bool,
    ):
        self.inner = inner
        self.declared = declared
        self.numbers = numbers
        self.images = images
        self.network = arguments
        self.text_first = text_first

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        setattr(self, name, value)  # found at once from now on
        return value

    def change(self, rules: LayerRules, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a layer, or of the network, where n images meet 2 n texts."""
        changed = dict(arguments)
        for name in rules.prompts:
            states = get_hidden_states(changed.get(name))
            changed[name] = None if states is None else states[self.images :, ...]
        for name in rules.repeated:
            name, _, part = name.partition(".")
            value = changed.get(name)
            if part and value is not None:
                repeated = self._repeat_all(getattr(value, part))
                changed[name] = value._replace(**{part: repeated})
            elif value is not None:
                changed[name] = self._repeat(value)
        for name in rules.texts:
            changed[name] = self.network[name]
        return changed

    def call_layer(
        self, function: Callable, p: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Compute a layer within this one; streams that attend jointly are combined."""
        if function is join_and_attend:
            return self._attend_jointly(*args, **kwargs)
        return self.inner.call_layer(StandInLayer(function, self), p, args, kwargs)

    def attention(self, q: Array, k: Array, v: Array, *args: Any, **kwargs: Any) -> Array:
        """Return the combined attention of tokens of the image, (n, heads, l, d).

        Where one stream holds the tokens of image and text, they are (2 n, heads, l, d), with the
        same image for both texts.
        """
        heads = q.shape[1]
        apart = q.shape[0] == self.images
        if apart:
            q = self._repeat(q)
        tokens = merge_heads(self.inner, self.inner.attention(q, k, v, *args, **kwargs))
        if apart:
            return split_heads(self.inner, self._guide(tokens), heads)
        length = get_hidden_states(self.network["context"]).shape[1]
        if not self.text_first:
            length = tokens.shape[1] - length
        first, second = tokens[:, :length, :], tokens[:, length:, :]
        if self.text_first:
            second = self._repeat(self._guide(second))
        else:
            first = self._repeat(self._guide(first))
        return split_heads(self.inner, self.inner.xp.concat([first, second], axis=1), heads)

    def _attend_jointly(
        self, first: Heads, second: Heads, turn: Callable[[Array], Array] | None = None
    ) -> tuple[Array, Array]:
        image_first = first[0].shape[0] == self.images
        if image_first:
            first = self._repeat_all(first)
        else:
            second = self._repeat_all(second)
        one, two = join_and_attend(self.inner, NO_PARAMETERS, first, second, turn)
        return (self._guide(one), two) if image_first else (one, self._guide(two))

    def _guide(self, tokens: Array) -> Array:
        """Combine the attention to negative prompts and to prompts, (2 n, l, d), to (n, l, d)."""
        n = self.images
        scale, largest, *own = self.numbers
        numbers = scale, largest, own[0] if own else self.declared.blend, self.declared.order
        return self.inner.call_function(
            "nag", normalized_attention_guidance, tokens[n:, ...], tokens[:n, ...], *numbers
        )

    def _repeat(self, x: Array) -> Array:
        return self.inner.xp.concat([x, x], axis=0)

    def _repeat_all(self, arrays: tuple[Array, ...]) -> Any:
        return tuple(self._repeat(x) for x in arrays)


class StandInLayer:
    """A layer that is computed on a stand-in for the backend that calls it."""

    def __init__(self, function: Callable, ops: object):
        self.__name__ = function.__name__
        self.__wrapped__ = function
        self._ops = ops

    def __call__(self, ops: Backend, p: Params, *args: object, **kwargs: object) -> Any:
        return self.__wrapped__(self._ops, p, *args, **kwargs)


def name_arguments(
    function: Callable, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a layer after its parameters, by name."""
    code = function.__code__
    names = code.co_varnames[2 : code.co_argcount]
    return dict(zip(names, args, strict=False)) | dict(kwargs)


class LayerRules(NamedTuple):
    """The part of `AttentionGuidance` for one layer.

    Attributes:
        guided: Whether image tokens attend to the text in it.
        prompts, repeated, texts: The arguments that are changed.
    """

    guided: bool
    prompts: list[str]
    repeated: list[str]
    texts: list[str]

    @property
    def changes(self) -> bool:
        """Whether arguments are changed."""
        return bool(self.prompts or self.repeated or self.texts)


@cache
def find_rules(declared: AttentionGuidance, path: str, kind: str) -> LayerRules:
    """Return what is said of the layer of this name and function."""

    def find(rules: Mapping[str, tuple[str, ...]]) -> list[str]:
        return [x for layer, names in rules.items() if is_layer(path, kind, layer) for x in names]

    guided = any(is_layer(path, kind, layer) for layer in declared.layers)
    return LayerRules(guided, find(declared.prompts), find(declared.repeated), find(declared.texts))


def is_layer(path: str, kind: str, layer: str) -> bool:
    """Return whether a layer is called so: by its function, its name, or the end of its name.

    >>> is_layer("mid_block.attentions.0.attn2", "attention", "attn2")
    True
    """
    return layer in (path, kind) or path.endswith(f".{layer}")
