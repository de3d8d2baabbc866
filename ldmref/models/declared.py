"""A network as data: its function, its parameters, and what it takes and returns by name.

Traces, `ldmref diff`, golden cases and exports read these declarations and keep no lists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from ldmref.models.params import Spec
from ldmref.models.steering import Steerable, SteeredNetwork
from ldmref.samplers.predictions import Steering
from ldmref.support.renames import keep_former


class CallSize(NamedTuple):
    """A size of an array that each call chooses.

    Attributes:
        of: The size of the call that it follows: "batch", "height" and "width" (of the latents),
            "tokens", "references" (tokens of all reference images) or "timesteps".
        times: Its factor; the height of an image is `factor` times that of its latents.
        over: Its divisor; the height of a lower level of the U-Net is that of the latents over 2.
        label: Its name in exported graphs. "": `of`.

    >>> CallSize("height", 8).at({"height": 4})  # of an image
    32
    """

    of: str
    times: int = 1
    over: int = 1
    label: str = ""

    def at(self, sizes: Mapping[str, int]) -> int:
        """Return the size for the sizes of a call.

        Args:
            sizes: The sizes that the call chose, by name.

        Returns:
            The size.
        """
        return sizes[self.of] * self.times // self.over


def same_size(one: int | CallSize, two: int | CallSize) -> bool:
    """Return whether two declared sizes are the same, whatever their names in graphs.

    >>> same_size(CallSize("tokens", label="words"), CallSize("tokens"))
    True
    """
    sizes = [(x.of, x.times, x.over) if isinstance(x, CallSize) else x for x in (one, two)]
    return sizes[0] == sizes[1]


BATCH = CallSize("batch")
HEIGHT = CallSize("height")
WIDTH = CallSize("width")


@dataclass(frozen=True)
class NetworkInput:
    """An array that a network takes.

    Attributes:
        argument: The argument of the network's function.
        role: Its name in traces, as diffusers calls it.
        shape: Its sizes: numbers, or sizes that each call chooses.
        content: "normal" numbers, an "image" in [-1, 1], a "hint" in [0, 1], "timesteps", the
            "ends" to which steps of a flow map lead, "guidance" scales, "sizes" of SDXL, token
            "ids", their "mask" (0 for padding), "labels" of classes, or "classes" of a
            segmentation map (one-hot).
        exported: Its name in exported graphs. "": the role.
        case: Former: golden cases know it.
        also, layers: Former: `FamilyPort.arguments` and `FamilyPort.first_layers`.
        below: For "ids" and "labels": all numbers are below it.
    """

    argument: str
    role: str
    shape: tuple[int | CallSize, ...]
    content: str = "normal"
    exported: str = ""
    case: InitVar[str] = ""
    also: InitVar[tuple[str, ...]] = ()
    layers: InitVar[tuple[tuple[str, str], ...]] = ()
    below: int = 0

    def __post_init__(
        self, case: str, also: tuple[str, ...], layers: tuple[tuple[str, str], ...]
    ) -> None:
        keep_former(self, "ldmref.ports.FamilyPort", case=case, also=also, layers=layers)

    def shape_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape for the sizes of a call.

        Args:
            sizes: The sizes that the call chose, by name.

        Returns:
            The shape.

        >>> NetworkInput("image", "image", (BATCH, 3, CallSize("height", 8))).shape_at(
        ...     {"batch": 1, "height": 4})
        (1, 3, 32)
        """
        return tuple(d.at(sizes) if isinstance(d, CallSize) else d for d in self.shape)

    @property
    def of_references(self) -> bool:
        """Whether it belongs to reference images: a call without them leaves it out."""
        return any(isinstance(d, CallSize) and d.of == "references" for d in self.shape)


class NetworkOutput(NamedTuple):
    """An array that a network returns.

    Attributes:
        role: Its name in traces. "": the only, or first, output.
        exported: Its name in exported graphs.

    >>> NetworkOutput("logvar", "latent_logvar").role
    'logvar'
    """

    role: str
    exported: str


class TextAttention(NamedTuple):
    """The attention of a denoiser in which the image looks at the words of the prompt.

    Attributes:
        layers: How the names of its layers end.
        tokens: What its keys are, in their order: the "text" alone, or "image" and "text" joined
            and the "references", if the denoiser has tokens of reference images. The queries are
            then the same tokens, or the last of them.
        encoders: The numbers of the text encoders whose tokens follow each other in the text.
        padding: The number of tokens after them that are 0.
        begin: How the names of its layers begin, where others end as well.
        multiple: The tokens of the image are filled up to a multiple of it.

    >>> import ldmref
    >>> ldmref.random_model("flux-tiny").denoiser.text_attention.tokens
    ('text', 'image')
    """

    layers: tuple[str, ...]
    tokens: tuple[str, ...] = ("text",)
    encoders: tuple[int, ...] = (0,)
    padding: int = 0
    begin: str = ""
    multiple: int = 1

    def holds(self, layer: str) -> bool:
        """Return whether the image looks at the words in the layer of this name.

        Args:
            layer: The name.

        >>> TextAttention((".attention",), begin="layers.").holds("refiner.0.attention")
        False
        """
        return layer.startswith(self.begin) and layer.endswith(self.layers)

    def find_starts(self, keys: int, image: int, references: int = 0) -> dict[str, int]:
        """Return the number of the first key of each kind of tokens.

        Args:
            keys: The number of all keys.
            image: The number of tokens of the image, without those that fill it up.
            references: The number of tokens of all reference images.

        >>> TextAttention((".attn",), ("text", "image", "references")).find_starts(30, 16, 4)
        {'text': 0, 'image': 10, 'references': 26}
        """
        counts = {"image": -(-image // self.multiple) * self.multiple, "references": references}
        counts["text"] = keys - sum(counts[kind] for kind in self.tokens if kind != "text")
        starts: dict[str, int] = {}
        first = 0
        for kind in self.tokens:
            starts[kind] = first
            first = first + counts[kind]
        return starts


@dataclass(frozen=True)
class DeclaredNetwork:
    """A network of a model.

    Attributes:
        name: The name of its calls in a trace: "unet", "vae.decode".
        params: The name of its parameters in the model: "unet", "vae".
        description: What it is, in a few words.
        function: `function(ops, params, **settings, **inputs)`.
        spec: Returns the shapes of its parameters.
        settings: The arguments that are not arrays.
        inputs: The arrays that it takes, in the order of exported graphs.
        outputs: The arrays that it returns, in their order; () if their number is not fixed.
        optional: Arrays that it also takes; cases and exported graphs leave them out.
        exported: The name of its exported graph.
        numbered: Whether a run calls it once per step.
        layers: How the names of its layers begin. (): as those of its parameters.
        ignored: A pattern of the parameters of other programs' modules of which it reads nothing,
            such as the head of a language model. "": there are none.
        text_attention: Where a denoiser attends to the text. None: nowhere.
        steerable: The layers of a denoiser that guidance may replace.
        defaults: What a denoiser gets for each argument after the configuration, the latents and
            the time, in their order, if a call leaves it out: its setting, its default or None.

    >>> import ldmref
    >>> network = ldmref.random_model("tiny").denoiser
    >>> network.name, [x.role for x in network.inputs]
    ('unet', ['sample', 'timestep', 'encoder_hidden_states'])
    """

    name: str
    params: str
    description: str
    function: Callable[..., Any] = field(repr=False)
    spec: Callable[[], Spec] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    inputs: tuple[NetworkInput, ...]
    outputs: tuple[NetworkOutput, ...]
    optional: tuple[NetworkInput, ...] = field(default=(), kw_only=True)
    exported: str = ""
    numbered: bool = False
    layers: tuple[str, ...] = ()
    ignored: str = ""
    text_attention: TextAttention | None = None
    steerable: Steerable = field(default_factory=Steerable)
    defaults: Mapping[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.function).parameters
        defaults = {name: _default(parameters[name]) for name in list(parameters)[5:]}
        settings = {name: self.settings[name] for name in defaults if name in self.settings}
        object.__setattr__(self, "defaults", defaults | settings)

    @property
    def reads_tokens(self) -> bool:
        """Whether it is a text encoder: it reads tokens."""
        return any(x.content == "ids" for x in self.inputs)

    @property
    def arguments(self) -> list[str]:
        """The arguments of the function after those of the network's parameters, in their order."""
        return list(inspect.signature(self.function).parameters)[2:]

    def arrange(self, arrays: Mapping[str, Any]) -> list[Any]:
        """Return the arguments of a denoiser after the configuration, the latents and the time.

        Args:
            arrays: Arrays by argument.

        Returns:
            A value for each argument, that of `defaults` for those that are missing.
        """
        return [arrays.get(name, default) for name, default in self.defaults.items()]

    @cached_property
    def steered(self) -> SteeredNetwork:
        """The function of a denoiser with the argument `steering`, which replaces its layers."""
        tokens = self.text_attention.tokens if self.text_attention else ("text",)
        return SteeredNetwork(self.function, self.steerable, tokens[0] == "text")

    @property
    def block_count(self) -> int:
        """The number of blocks of a denoiser of which some may be left out."""
        return self._skippable if self.steerable.blocks else 0

    @cached_property
    def _skippable(self) -> int:
        return len(self.spec()[self.steerable.blocks])

    @property
    def steerable_parts(self) -> Collection[str]:
        """The parts of a denoiser whose self-attention may become the identity."""
        return self.steerable.parts

    @property
    def reads_by_attention(self) -> bool:
        """Whether a denoiser attends to the text."""
        return self.text_attention is not None

    @property
    def guides_attention(self) -> bool:
        """Whether a denoiser declares how its attention reads two texts."""
        return self.steerable.attention is not None

    def find_unsteerable(self, steering: Iterable[Steering]) -> str:
        """Return why a denoiser cannot be steered like this; "" if it can.

        Args:
            steering: What would replace its layers.

        Returns:
            The rest of a sentence about the model.
        """
        return next(filter(None, (one.find_problem(self) for one in steering)), "")

    def input_of(self, argument: str) -> NetworkInput | None:
        """Return the input of an argument.

        Args:
            argument: The name of the argument.

        Returns:
            The input; None if it is a setting, or not declared.
        """
        every = (*self.inputs, *self.optional)
        return next((x for x in every if x.argument == argument), None)

    @property
    def of_tokens(self) -> list[str]:
        """The arguments whose arrays have a row for each token of the text, (n, l, ...)."""
        second = {x.argument: x.shape[1] for x in self.inputs if len(x.shape) > 1}
        sizes = {name: size for name, size in second.items() if isinstance(size, CallSize)}
        return [name for name, size in sizes.items() if size.of == "tokens"]

    def count_references(self, arrays: Mapping[str, Any]) -> int:
        """Return the number of tokens of all reference images in a call of a denoiser.

        Args:
            arrays: Arrays by argument; without those of references, there are none.
        """
        for x in self.inputs:
            if x.of_references and arrays.get(x.argument) is not None:
                open_sizes = [size.of if isinstance(size, CallSize) else "" for size in x.shape]
                return arrays[x.argument].shape[open_sizes.index("references")]
        return 0

    def role_of(self, argument: str) -> str:
        """Return the name of an argument in traces.

        Args:
            argument: The name of the argument.

        Returns:
            The role of the input, otherwise the argument's own name.
        """
        found = self.input_of(argument)
        return argument if found is None else found.role


def _default(parameter: inspect.Parameter) -> Any:
    """Return the default of a parameter, or None."""
    return None if parameter.default is inspect.Parameter.empty else parameter.default
