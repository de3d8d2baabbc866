"""`Family`: what ldmref knows about a family of models, and where it is found.

A package adds a family with an entry point that names a `Family`:

    [project.entry-points."ldmref.families"]
    dit = "ldmref_dit:DIT"
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.math.arrays import Array
from ldmref.models.conditioning import Conditioning, add_arrays, zero_empty
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.declared_control import DeclaredControl
from ldmref.models.declared_references import DeclaredReferences
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.models.params import Shape
from ldmref.models.text import EncodedText, encode_tokens
from ldmref.models.text_config import MOST_TOKENS
from ldmref.prompts.prompt_template import PromptTemplate
from ldmref.support.plugins import find_declared, list_plugins
from ldmref.support.renames import keep_former

GROUP = "ldmref.families"
BUILT_IN = {
    "latent-diffusion": "ldmref.families.latent_diffusion:LATENT_DIFFUSION",
    "sd3": "ldmref.families.sd3:SD3",
    "flux": "ldmref.families.flux:FLUX",
    "z-image": "ldmref.families.z_image:Z_IMAGE",
    "flux2": "ldmref.families.flux2:FLUX2",
    "flux3": "ldmref.families.flux3:FLUX3",
    "krea2": "ldmref.families.krea2:KREA2",
    "qwen-image-2.1": "ldmref.families.qwen_image_21:QWEN_IMAGE_21",
}

BLOCK_LAYERS = {  # of transformer blocks, as diffusers names them
    "attention": (".to_q", ".to_k", ".to_v", ".to_out.0"),
    "feed_forward": (".ff.net.0.proj", ".ff.net.2"),
}


class CountWork(Protocol):
    """A number of one evaluation of the denoiser for one image, from the latents' size in cells."""

    def __call__(self, config: ModelConfig, width: int, height: int) -> int: ...


@dataclass(frozen=True)
class Averages:
    """Moving averages of weights, which the file of a training holds in addition to the weights.

    Attributes:
        pattern: A pattern of their names.
        counters: Names with this pattern that are numbers of the training, not averages.
        table: Returns a key table with the averages instead of the weights that have one.
        usual: Whether a model of this configuration is sampled with the averages that a file
            holds. The tensors of the file are given under the names of the key tables.

    >>> Averages("ema_.*", (), lambda table: table, lambda config, tensors: True).counters
    ()
    """

    pattern: str
    counters: tuple[str, ...]
    table: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    usual: Callable[[ModelConfig, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class SingleFile:
    """Files of a family that hold the denoiser, under names of their own, and perhaps more.

    Attributes:
        description: What such a file is, in a few words.
        recognise: Returns the configuration that fits a file's names and shapes; None if the file
            is another one. For a whole model that nothing fits, the nearest configuration. None:
            nothing tells such a file from others; it is read with a configuration.
        table: Returns the tensor of the file for each parameter of the denoiser, a `KeyEntry`.
        ignored: A pattern of the names that are not needed but may be present.
        applies: Whether a file of these names and shapes may hold only the denoiser, where the
            family also has files that hold all networks.
        others: Returns, for each other network that such a file may also hold, by name, the tensor
            of the file for each parameter, a `KeyEntry`; or an array, where the parameter has this
            value and no file is asked for it.
        whole: Whether such a file holds all networks. Files are first recognised by the layouts
            that need not.
        rename: Returns the name in `table`, `others` and `ignored` of a stored tensor.
        unneeded: Returns a pattern of further names that a model of this configuration does not
            need, but others do.
        averages: The averages that such a file may also hold. None: it has none.
        refine: Returns the configuration with the settings that the metadata and single numbers of
            a file give, and the names of these numbers. Takes the file, a
            `ModelFile`, the configuration, and whether the user gave it.

    >>> SingleFile("no file", lambda shapes: None, lambda config: {}).description
    'no file'
    """

    description: str
    recognise: Callable[[Mapping[str, Shape]], ModelConfig | None] | None
    table: Callable[[ModelConfig], Mapping[str, Any]]
    ignored: str = ""
    applies: Callable[[Mapping[str, Shape]], bool] = lambda shapes: True
    others: Callable[[ModelConfig], Mapping[str, Mapping[str, Any]]] = lambda config: {}
    whole: bool = False
    rename: Callable[[str], str] = str
    unneeded: Callable[[ModelConfig], str] = lambda config: ""
    averages: Averages | None = None
    refine: Callable[[Any, ModelConfig, bool], tuple[ModelConfig, tuple[str, ...]]] = (
        lambda file, config, stated: (config, ())
    )


@dataclass(frozen=True)
class Work:
    """The cost of one evaluation of a family's denoiser, for one image.

    Attributes:
        flops: Returns its floating-point operations.
        activations: Returns the numbers that it holds at the same time.

    >>> from ldmref.models import preset
    >>> find_family("sd3").work.flops(preset("sd3-tiny"), 16, 16)
    1315072
    """

    flops: CountWork
    activations: CountWork


@dataclass(frozen=True)
class TextPath:
    """The way of a family from prompts to the arrays that its denoiser reads.

    Attributes:
        encode: Encodes tokens; see `encode_tokens`.
        condition: Returns the conditioning of hidden states, pooled output and size (width,
            height).
        optional: The names of text encoders without which a model may be, such as T5 of Stable
            Diffusion 3.
        with_length: Returns the configuration of a model whose longest text has another number of
            tokens, for encoders without a table of positions. None: it is fixed.
        templates: Returns the template of the prompts of each text encoder, by its name. {}: the
            tokenizer's start and end token alone surround a prompt.
        multiple: Hidden states that are padding in all prompts of a run are cut, down to a multiple
            of this number, where the conditioning has the `mask` of the tokens. 0: they are not.
        reads_padding: Whether the denoiser reads the hidden states of padding up to the multiple.
        feels_weights: Whether the denoiser feels the weights of a prompt, which scale the hidden
            state of a token. False: a norm of each token divides its length out.
        together: Returns arrays of the denoiser, by argument, of n images, from the backend, n and
            the number of tokens of the longest text of a request: what diffusers' pipelines make
            of the other texts of a call, which only `rng="torch"` reproduces. It needs the `mask`
            of the tokens. None: every image is that of its text alone.
        longest: The largest number of tokens that `with_length` may be given.
        grows: Whether a longer prompt is read whole, up to `longest` tokens, where nothing asks for
            another number. False: it is cut.
    """

    encode: Callable[..., EncodedText] = encode_tokens
    condition: Callable[
        [Backend, ModelConfig, Array, Array | None, tuple[int, int]], Conditioning
    ] = lambda ops, config, states, pooled, size: Conditioning(states, pooled)
    optional: tuple[str, ...] = ()
    with_length: Callable[[ModelConfig, int], ModelConfig] | None = None
    templates: Callable[[ModelConfig], Mapping[str, PromptTemplate]] = lambda config: {}
    multiple: int = 0
    reads_padding: bool = False
    feels_weights: bool = True
    together: Callable[[Backend, int, int], Mapping[str, Array]] | None = None
    longest: int = MOST_TOKENS
    grows: bool = False

    def condition_text(
        self,
        ops: Backend,
        config: ModelConfig,
        text: EncodedText,
        size: tuple[int, int],
        zeroed: Sequence[str] | None = None,
    ) -> Conditioning:
        """Return the conditioning of encoded prompts, with all arrays that belong to them.

        Args:
            ops: The backend.
            config: The configuration of the model.
            text: The prompts.
            size: Width and height of the images in pixels.
            zeroed: The prompts, if the hidden states of empty ones are zero. None: they are not.
        """
        states, pooled = text.states, text.pooled
        if zeroed is not None:
            states, pooled = zero_empty(ops, zeroed, states, pooled)
        return add_arrays(self.condition(ops, config, states, pooled, size), text.more)


def guide_above_one(scale: float) -> float:
    """Return our guidance scale of that of most of diffusers' pipelines: up to 1, none guides.

    Args:
        scale: Their guidance scale.

    Returns:
        Ours, at least 1.

    >>> guide_above_one(0.0), guide_above_one(7.5)
    (1.0, 7.5)
    """
    return max(scale, 1.0)


def guide_always(scale: float) -> float:
    """Return our guidance scale of that of pipelines that guide by any number except 1: the same.

    Args:
        scale: Their guidance scale.

    Returns:
        The same number.

    >>> guide_always(0.0)
    0.0
    """
    return scale


def guide_by_difference(scale: float) -> float:
    """Return our guidance scale of that of pipelines that add a difference to the prediction.

    Theirs is c + g (c - u) = u + (1 + g) (c - u), and no guidance up to g = 0.

    Args:
        scale: Their guidance scale.

    Returns:
        Ours, at least 1.

    >>> guide_by_difference(4.0), guide_by_difference(-1.0)
    (5.0, 1.0)
    """
    return 1.0 + max(scale, 0.0)


@dataclass(frozen=True)
class GuidanceScale:
    """The `guidance_scale` of a family's published pipelines, which requests may give, too.

    Attributes:
        convert: Returns our guidance scale of theirs, 1 where it does not guide; see `read`.
        reads: Whether their pipeline of a model guides by its scale. False: it ignores it, as
            distilled models need none.

    >>> find_family("z-image").guidance_scale.convert(4.0)
    5.0
    """

    convert: Callable[[float], float] = guide_above_one
    reads: Callable[[ModelConfig], bool] = lambda config: True

    def read(self, config: ModelConfig, scale: float) -> float:
        """Return our guidance scale of the `guidance_scale` of a call.

        Args:
            config: The configuration of the model.
            scale: Their guidance scale.

        Raises:
            UsageError: Their pipeline of this model ignores a scale that asks for guidance.

        >>> from ldmref.models.presets import preset
        >>> [family_of(preset(name)).guidance_scale.read(preset(name), 0.0)
        ...  for name in ("sd15", "z-image-turbo", "flux-dev")]
        [1.0, 1.0, 0.0]
        """
        if self.reads(config):
            return float(scale if config.denoiser.reads_guidance else self.convert(scale))
        if self.convert(scale) > 1.0:
            message = f"diffusers' guidance_scale {scale:g} has no effect on {config.name!r} there"
            here = f"; cfg_scale {scale:g} guides the model here"
            hint = "leave it out" + ("" if config.denoiser.is_flow_map else here)
            raise UsageError(message, code="E-CFG-SCALE", hint=hint)
        return 1.0

    def ask(self, scale: float) -> float:
        """Return their guidance scale of ours; the inverse of `convert`.

        Args:
            scale: Our guidance scale.

        Raises:
            UsageError: No scale of theirs is this one.

        >>> find_family("z-image").guidance_scale.ask(5.0)
        4.0
        """
        asked = scale - (self.convert(scale) - scale)
        if not math.isclose(self.convert(asked), scale):  # their sum may be rounded
            message = f"the pipelines of diffusers have no guidance scale that is {scale:g} here"
            raise UsageError(message, code="E-FAMILY", hint="choose one of at least 1")
        return asked


@dataclass(frozen=True)
class LoraRules:
    """The layers of a family's denoiser that LoRA changes.

    Attributes:
        targets: For each target of a LoRA that `ldmref finetune` trains (`attention`,
            `feed_forward`, `projections`, `convolutions`), how the paths of the layers end that
            belong to it.
        layers: Returns, for parameters of the denoiser, the layers of LoRA files of programs that
            name them neither as ours nor as the files of the makers: a `KeyEntry` by name.
        with_control: Returns the configuration of a model whose denoiser also reads a control
            image, into which a LoRA may turn it. None: no LoRA does.

    >>> list(find_family("latent-diffusion").lora.targets)
    ['attention', 'feed_forward', 'projections', 'convolutions']
    """

    targets: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: BLOCK_LAYERS)
    layers: Callable[[ModelConfig], Mapping[str, Any]] = lambda config: {}
    with_control: Callable[[ModelConfig], ModelConfig] | None = None


@dataclass(frozen=True)
class Family:
    """A family of models as data, which loading, modes, traces, exports and pages read.

    Attributes:
        name: Its name, as in the entry point and in the files of ldmref.
        denoiser: The class of the denoiser's configuration.
        networks: Returns the networks of a model in the order in which a program needs them:
            encoders of the text, the denoiser, the autoencoder. The denoiser is called
            `denoiser.network`; its function takes the backend, the parameters, the configuration,
            the latents (n, c, h, w), timesteps (n,) and the arrays of the conditioning by name.
        work: The cost of an evaluation of the denoiser.
        description: The family in a few words, for `ldmref models`.
        broken_rules: Yields the relations between fields of a configuration that do not hold.
        text: The way from prompts to the arrays of the conditioning.
        control: The ControlNets of the family. None: its denoiser takes none.
        references: How its denoiser reads reference images. None: it reads none.
        presets: Configurations by name.
        files: Single files that hold the denoiser.
        folders: For each class of diffusers' pipelines, a function of the folder and its
            model_index.json that reads the configuration.
        guidance_scale: The `guidance_scale` of these pipelines.
        draws_images: Whether the latents of an image are sampled from the encoder's posterior.
            False: they are its mean.
        lora: The layers that LoRA changes.
        diffusers, training, golden: Former: `ldmref.ports.FamilyPort`,
            `ldmref.training.TrainingRules` and `ldmref.cases.GoldenModels`, each found through an
            entry point of its own. None: not given.

    >>> family = find_family("latent-diffusion")
    >>> "sdxl" in family.presets, "StableDiffusionXLPipeline" in family.folders
    (True, True)
    """

    name: str
    denoiser: type[DenoiserConfig]
    networks: Callable[[ModelConfig], Sequence[DeclaredNetwork]]
    work: Work
    description: str = ""
    broken_rules: Callable[[ModelConfig], Iterable[str]] = lambda config: ()
    text: TextPath = field(default_factory=TextPath)
    control: DeclaredControl | None = None
    references: DeclaredReferences | None = None
    presets: Mapping[str, ModelConfig] = field(default_factory=dict)
    files: Sequence[SingleFile] = ()
    folders: Mapping[str, Callable[[Path, Mapping[str, Any]], ModelConfig]] = field(
        default_factory=dict
    )
    guidance_scale: GuidanceScale = field(default_factory=GuidanceScale)
    draws_images: bool = True
    lora: LoraRules = field(default_factory=LoraRules)
    diffusers: InitVar[Any] = None
    training: InitVar[Any] = None
    golden: InitVar[Any] = None

    def __post_init__(self, diffusers: Any, training: Any, golden: Any) -> None:
        keep_former(self, "ldmref.ports", diffusers=diffusers)
        keep_former(self, "ldmref.training", training=training)
        keep_former(self, "ldmref.cases", golden=golden)
        if diffusers is not None and not self.folders:
            scale = GuidanceScale(diffusers.scale, diffusers.reads_scale)
            object.__setattr__(self, "folders", diffusers.pipelines)
            object.__setattr__(self, "guidance_scale", scale)
            object.__setattr__(self, "draws_images", diffusers.draws_images)

    def declared(self, config: ModelConfig, name: str) -> DeclaredNetwork:
        """Return the declaration of a network of a model.

        Args:
            config: The configuration of the model.
            name: The name of the network's calls.

        Returns:
            The declaration.
        """
        return next(network for network in self.networks(config) if network.name == name)


@cache
def find_family(name: str) -> Family:
    """Return the family of that name.

    Raises:
        UsageError: There is none, or its plug-in cannot be used.

    >>> from ldmref.models.family import find_family
    >>> find_family("latent-diffusion").denoiser.__name__
    'UNetConfig'
    """
    return find_declared(GROUP, BUILT_IN, name, Family, "family", "E-FAMILY")


def family_of(config: ModelConfig) -> Family:
    """Return the family of a configuration.

    >>> from ldmref.models import preset
    >>> family_of(preset("sdxl")).name
    'latent-diffusion'
    """
    return find_family(config.denoiser.family)


def with_text_length(config: ModelConfig, length: int) -> ModelConfig:
    """Return the configuration of a model whose longest text has another number of tokens.

    Args:
        config: The configuration of the model.
        length: The number of tokens of T5, or of the language model that reads the prompts.

    Raises:
        UsageError: The number of tokens of the model is fixed, or its longest text is shorter.

    >>> from ldmref.models import preset
    >>> with_text_length(preset("flux-dev"), 256).text_encoder_2.max_position_embeddings
    256
    """
    text = family_of(config).text
    if text.with_length is None:
        raise UsageError(
            f"{config.name!r} has no T5, whose number of tokens max_sequence_length sets",
            code="E-SEQUENCE-LENGTH",
            hint="leave it out; long_prompts=chunk reads longer prompts",
        )
    if length > text.longest:
        raise UsageError(
            f"{config.name!r} reads at most {text.longest} tokens, as in diffusers, not {length}",
            code="E-SEQUENCE-LENGTH",
            hint=f"set max_sequence_length to {text.longest} or less",
        )
    return text.with_length(config, length)


def family_of_pipeline(kind: str) -> Family | None:
    """Return the family that reads a class of diffusers' pipelines; None if none does.

    Raises:
        UsageError: A plug-in cannot be used.

    >>> family_of_pipeline("StableDiffusionXLPipeline").name
    'latent-diffusion'
    """
    return next((family for family in list_families() if kind in family.folders), None)


def list_families() -> Iterator[Family]:
    """Yield all families: those of ldmref, then those of other packages, by name.

    Raises:
        UsageError: A plug-in cannot be used.
    """
    for name in (*BUILT_IN, *sorted({*list_plugins(GROUP)} - {*BUILT_IN})):
        yield find_family(name)
