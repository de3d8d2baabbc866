"""Checks of configurations from untrusted data: types, choices, ranges and relations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

from ldmref.declare import Invalid, get_fields, read, verify
from ldmref.errors import CorruptModelError, UsageError, did_you_mean, short_repr
from ldmref.models import autoencoder_kind
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of, find_autoencoder
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import Family, family_of, find_family
from ldmref.models.text_kind import config_class, find_text_encoder, kind_of
from ldmref.samplers.config import LEARNED

Section = TypeVar("Section")


def config_from_dict(data: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of the dictionary of `ModelConfig.to_dict`; it is checked.

    Args:
        data: Nested dictionaries, such as those of `config.to_dict()`; fields that are left out
            have their defaults.

    Returns:
        The configuration, whose networks fit together.

    Raises:
        CorruptModelError: A field is unknown, or a value has the wrong type or range.

    >>> from ldmref.models import config_from_dict, preset
    >>> config_from_dict(preset("sd15").to_dict()) == preset("sd15")
    True
    """
    rest = dict(data)
    family = find_named_family(rest.pop("family", UNetConfig.family))
    network = family.denoiser.network
    known = [network if name == "denoiser" else name for name in get_fields(ModelConfig)]
    for key in TEXT_ENCODERS:
        if isinstance(rest.get(key), Mapping):
            rest[key] = _read_text_encoder(rest[key], key)
    if isinstance(rest.get("vae"), Mapping):
        rest["vae"] = _read_autoencoder(rest["vae"])
    with _naming_the_problem():
        for key in rest:
            if key not in known:
                raise Invalid(f"unknown key {key}", str(key), did_you_mean(str(key), known))
        if network in rest:
            rest["denoiser"] = read(family.denoiser, rest.pop(network), network)
        elif family.denoiser is not UNetConfig:
            rest["denoiser"] = family.denoiser()
        config = read(ModelConfig, rest)
    _check_relations(config)
    return config


def find_named_family(name: object) -> Family:
    """Return the family that a configuration names.

    Raises:
        CorruptModelError: There is none of that name here.
    """
    try:
        return find_family(name if isinstance(name, str) else "")
    except UsageError as error:
        raise _error(str(error), error.hint) from None


def _read_text_encoder(values: Mapping[str, Any], where: str) -> TextConfig:
    """Return the configuration of a text encoder, of the class of its kind.

    Raises:
        CorruptModelError: There is no such kind here, or a field is not as declared.
    """
    with _naming_the_problem():
        try:
            kind = config_class(values)
        except UsageError as error:
            name = short_repr(values.get("model_type"))
            raise Invalid(f"unknown {where}.model_type {name}", where, error.hint) from None
        return read(kind, dict(values), where)


def _read_autoencoder(values: Mapping[str, Any]) -> BaseAutoencoderConfig:
    """Return the configuration of an autoencoder, of the class of its kind.

    Raises:
        CorruptModelError: There is no such kind here, or a field is not as declared.
    """
    fields = dict(values)
    name = fields.pop("kind", None)
    with _naming_the_problem():
        try:
            kind = autoencoder_kind.config_class(name)
        except UsageError as error:
            raise Invalid(f"unknown vae.kind {short_repr(name)}", "vae", error.hint) from None
        config = read(kind, fields, "vae")
        if name not in (None, config.kind):
            raise Invalid(
                f"vae.kind is {short_repr(name)}, the fields are of {config.kind!r}", "vae"
            )
    return config


def check_config(config: ModelConfig) -> None:
    """Refuse a configuration with invalid values, or whose networks do not fit together.

    Raises:
        CorruptModelError: Names the first problem.
    """
    with _naming_the_problem():
        verify(config.denoiser, config.denoiser.network)
        verify(config)
    _check_relations(config)


def check_fields(section: object, where: str) -> None:
    """Refuse a dataclass with a field of another type or outside its range or choices.

    Raises:
        CorruptModelError: Names the field.
    """
    with _naming_the_problem():
        verify(section, where)


def read_fields(omitted: Section, values: Mapping[str, Any], where: str) -> Section:
    """Return a dataclass with the values of a file; every value is checked.

    Args:
        omitted: Supplies the values of the fields that the file omits.
        values: Values by field.
        where: The name of the dataclass in messages.

    Raises:
        CorruptModelError: Names the first field that is not as declared.
    """
    with _naming_the_problem():
        return read(type(omitted), values, where, omitted)


def check_network(config: object, name: str) -> None:
    """Refuse the configuration of one network with invalid values; see `check_config`."""
    check_fields(config, name)
    unet = getattr(config, "unet", config)
    rules: Iterator[str] = iter(())
    if isinstance(config, BaseAutoencoderConfig):
        rules = _broken_autoencoder_rules(config)
    elif isinstance(unet, UNetConfig):
        rules = _broken_unet_rules(unet)
    for rule in rules:
        raise _error(rule)


@contextmanager
def _naming_the_problem() -> Iterator[None]:
    """Raise `Invalid` as the error of a model file."""
    try:
        yield
    except Invalid as error:
        raise _error(str(error), error.hint) from None


def _check_relations(config: ModelConfig) -> None:
    _check_autoencoder(config.vae)
    for name in TEXT_ENCODERS:
        text = getattr(config, name)
        if text is not None:
            _check_kind(text, name)
    for rule in _broken_rules(config):
        raise _error(rule)


def _check_kind(text: TextConfig, name: str) -> None:
    """Refuse a text encoder of no known kind, or whose configuration is of another class."""
    try:
        kind = find_text_encoder(text.model_type)
    except UsageError as error:
        unknown = f"unknown {name}.model_type {short_repr(text.model_type)}"
        raise _error(unknown, error.hint) from None
    if not isinstance(text, kind.config):
        raise _error(f"{name} must be a {kind.config.__name__}, not {type(text).__name__}")


def _check_autoencoder(vae: BaseAutoencoderConfig) -> None:
    """Refuse an autoencoder of no known kind, or whose configuration is of another class."""
    try:
        kind = find_autoencoder(vae.kind)
    except UsageError as error:
        raise _error(f"unknown vae.kind {short_repr(vae.kind)}", error.hint) from None
    if type(vae) is not kind.config:
        raise _error(f"vae must be a {kind.config.__name__}, not {type(vae).__name__}")


def _broken_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations between fields that do not hold."""
    yield from _broken_autoencoder_rules(config.vae)
    u = config.denoiser
    v = config.vae
    s = config.scheduler
    texts = config.text_encoders
    z = v.latent_channels
    concat = config.concat
    if u.out_channels != (2 * z if s.variance_type == LEARNED else z):
        problem = "out_channels must equal vae.latent_channels, twice with a learned variance"
        yield f"{u.network}.{problem}"
    extra = {
        "": (0, 1 + z),
        "masked_image": (1 + z,),
        "folded_mask": (z + v.factor**2,),
        "control": (z,),
        "low_resolution": (v.in_channels,),
    }
    if concat in extra and config.image_channels not in extra[concat]:
        widths = " or ".join(str(z + n) for n in extra[concat])
        yield f"{u.network}.in_channels must be {widths} with concat {concat!r}"
    if concat == "segmentation" and config.image_channels <= 0:
        yield f"{u.network}.in_channels must exceed {z} with concat 'segmentation'"
    classes = (1, 65536) if concat == "segmentation" else (0, 0)
    if not classes[0] <= config.segmentation_classes <= classes[1]:
        yield "segmentation_classes must be from 1 to 65536 with concat 'segmentation', otherwise 0"

    names = {text.model_type for text in texts}
    if len(texts) > 1 and not all(names <= {*kind_of(text).comes_with} for text in texts):
        yield f"text encoders of the kinds {' and '.join(sorted(names))} do not come together"
    if config.text_encoder_3 is not None and config.text_encoder_2 is None:
        yield "text_encoder_3 needs text_encoder_2"
    yield from family_of(config).broken_rules(config)
    for text in texts:
        yield from _broken_text_rules(text)

    if not 0 < s.beta_start <= s.beta_end < 1:
        yield "scheduler betas must satisfy 0 < beta_start <= beta_end < 1"
    if s.flow_times and not all(a > b > 0 for a, b in pairwise((1.1, *s.flow_times))):
        yield "scheduler.flow_times must decrease from 1 at most, and be above 0"
    betas = s.trained_betas
    if betas and (len(betas) != s.num_train_timesteps or not all(0 < b < 1 for b in betas)):
        yield "scheduler.trained_betas needs a number in (0, 1) per training timestep, or none"


def _broken_text_rules(text: TextConfig) -> Iterator[str]:
    """Yield the relations that do not hold between fields that the kind of a text encoder reads."""
    kind = kind_of(text)
    names = text.class_names
    if kind.reads_field("num_attention_heads"):
        if text.head_dim == 0 and text.hidden_size % text.num_attention_heads:
            yield "num_attention_heads must divide the text encoder's hidden_size"
    if names and (kind.reads != "class" or len(set(names)) != text.vocab_size - 1):
        yield "class_names needs a different name for every class except for the null class"
    if text.projection_dim and kind.pooled is None:
        yield f"a text encoder of kind {kind.name!r} has no projection_dim"
    if text.head_dim and not kind.reads_field("head_dim"):
        yield f"a text encoder of kind {kind.name!r} has no head_dim"
    if kind.activations and text.hidden_act not in kind.activations:
        known = " or ".join(repr(name) for name in kind.activations)
        yield f"the activation of {kind.name!r} is {known}"
    if text.use_attention_mask and not kind.reads_field("use_attention_mask"):
        yield f"a text encoder of kind {kind.name!r} attends to padding: use_attention_mask"
    if text.relative_attention_num_buckets // 4 >= text.relative_attention_max_distance:
        yield "relative_attention_max_distance must exceed a quarter of the buckets"
    if not 0 <= text.skipped_layers < text.num_hidden_layers:
        yield "skipped_layers must leave a layer of the text encoder"
    yield from kind.broken_rules(text)


def broken_latent_diffusion_rules(config: ModelConfig) -> Iterator[str]:
    """Yield the relations that do not hold in a model with a U-Net."""
    u = config.unet
    texts = config.text_encoders
    yield from _broken_unet_rules(u)
    if len(texts) > 1 and (len(texts) > 2 or any(kind_of(text).pooled is None for text in texts)):
        yield "only CLIP text encoders come in pairs"
    if (u.attention == "cross") != bool(texts):
        yield "a U-Net with cross-attention needs a text encoder, and only such a U-Net has one"
    if any(kind_of(text).function is None for text in texts):
        yield "the text encoder 'label' has no hidden states, which a U-Net reads"
    if texts and u.cross_attention_dim != sum(t.hidden_size for t in texts):
        yield "unet.cross_attention_dim must equal the text encoders' hidden_size"
    pooled = texts[-1].projection_dim if texts else 0
    width = u.projection_class_embeddings_input_dim
    if u.addition_embed_type and not 0 < pooled == width - 6 * u.addition_time_embed_dim:
        yield "unet.projection_class_embeddings_input_dim must be pooled text and six sizes"


def _broken_unet_rules(u: UNetConfig) -> Iterator[str]:
    for name in ("attention_levels", "num_heads", "transformer_layers_per_block"):
        if len(getattr(u, name)) != len(u.block_out_channels):
            yield f"unet.{name} needs an entry per level"
    attends = [*u.attention_levels[:-1], True]  # the mid block has the heads of the last level
    levels = zip(u.block_out_channels, u.num_heads, attends, strict=False)
    if any(attention and c % heads for c, heads, attention in levels):
        yield "unet.num_heads must divide the channels of a level with attention"
    if any(c % u.norm_num_groups for c in u.block_out_channels):
        yield "unet.norm_num_groups must divide every channel count"
    if u.block_out_channels[0] % 2 or u.addition_time_embed_dim % 2:
        yield "unet.block_out_channels[0] and addition_time_embed_dim must be even: sines, cosines"


def _broken_autoencoder_rules(v: BaseAutoencoderConfig) -> Iterator[str]:
    kind = autoencoder_of(v)
    yield from kind.broken_rules(v)
    if len(kind.preview(v)) not in (0, 3 * (v.latent_channels + 1)):
        yield "vae.preview needs a weight per latent channel and a bias for each of three colours"
    if v.latent_channels % v.patch**2 or v.factor % v.patch:
        yield "the patch of vae must divide its latent_channels and its factor"


def _error(message: str, hint: str = "") -> CorruptModelError:
    return CorruptModelError(f"bad model configuration: {message}", code="E-CONFIG", hint=hint)
