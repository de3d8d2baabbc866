"""The parameters of prompts and guidance that modes share; see `parameters.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from ldmref.declare import Attachment, Check, Doc, Flag, Range
from ldmref.models.text_config import MOST_TOKENS
from ldmref.modes import validation
from ldmref.modes.guidance_parameter import check_guidance, parse_guidance
from ldmref.modes.guide import GuideSource, read_guide
from ldmref.modes.notation import read_noise
from ldmref.modes.parameters import ARRAY, TEXTS, Unrecorded
from ldmref.samplers import Guidance

SinglePrompt = Annotated[
    str,
    Check(validation.check_single_text, {"type": "string"}),
    Flag((), "TEXT"),
    Doc("Description of an image: one text."),
]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NegativePromptParameter:
    """The negative prompt."""

    negative_prompt: Annotated[
        str | Sequence[str] | None,
        Check(validation.check_texts, TEXTS),
        Flag(("-n", "--negative-prompt"), "TEXT"),
        Doc("Content to avoid: one text for all prompts, or one for each."),
    ] = ""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GuidanceParameters:
    """The guidance by the prompts."""

    cfg_scale: Annotated[
        float | None,
        Range(-1000, 1000),
        Flag(
            ("--cfg",),
            "X",
            help="Guidance: how closely the image follows the prompt. 1 disables it, 0 ignores "
            "the prompt; large values make colours harsh.",
        ),
        Doc(
            "Guidance scale s in u + s (c - u): 1 disables it, 0 ignores the prompt.",
            "the model's setting; 1 for invert and autoguidance, and that of its method for edit",
        ),
    ] = None
    guidance: Annotated[
        str | Guidance | Mapping[str, Any] | None,
        Check(check_guidance, {"type": ["string", "object"]}),
        Flag(
            metavar="NAME[:KEY=VALUE,...]",
            parse=parse_guidance,
            help="The rule that makes the image follow the prompt: a name listed by ldmref "
            "guidance, with its parameters if needed, such as rescale:phi=0.5.",
        ),
        Doc(
            "The rule that combines the predictions: a name in `ldmref.samplers.GUIDANCES`, a "
            '`Guidance`, or {"name": "rescale", "phi": 0.7}.',
            "classifier-free guidance",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GuideParameter:
    """The second model of autoguidance."""

    guide: Annotated[
        GuideSource | None,
        Check(read_guide, {"type": "string"}),
        Attachment("model"),
        Flag(
            metavar="MODEL",
            help="The weaker model of --guidance autoguidance: a name, file or folder, as for "
            "--model.",
        ),
        Unrecorded(),
        Doc(
            "The weaker model that autoguidance needs, loaded or where it is: of the same family "
            "and latents, smaller or trained for a shorter time.",
            "no other guidance has one",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PromptParameters:
    """The reading of prompts."""

    clip_skip: Annotated[
        int | None,
        Range(0, 1000),
        Doc("Number of last layers of the text encoder to leave out."),
    ] = 0
    max_sequence_length: Annotated[
        int | None,
        Range(2, MOST_TOKENS),
        Doc(
            "Number of tokens to which the text of T5 or of a language model is cut or filled up, "
            "as in diffusers: at most 512 for T5 (SD3, Flux.1). Where the model attends to what "
            "fills it up (SD3, Flux.1, FLUX.2), another number gives another image.",
            "256 for SD3, 512 for Flux.1, FLUX.2, Z-Image and Krea 2, 4096 for FLUX.3; "
            "Qwen-Image 2.1 reads the whole prompt",
        ),
    ] = None
    longest_prompt: Annotated[
        int | None,
        Range(1, 65536),
        Doc(
            "Number of tokens of the longest prompt of a call of diffusers, behind which images of "
            "shorter ones are (Qwen-Image 2.1 with rng=torch). Images of a batch record it.",
            "that of the prompts",
        ),
    ] = None
    longest_negative_prompt: Annotated[
        int | None,
        Range(1, 65536),
        Doc("The same of the negative prompts.", "that of the negative prompts"),
    ] = None
    long_prompts: Annotated[
        Literal["truncate", "chunk"],
        Doc("Cut prompts that the text encoder cannot read at once, or read them in chunks."),
    ] = "truncate"
    prompt_weights: Annotated[
        Literal["none", "a1111"], Doc("`none`, or `a1111` for (word:1.3) and [word].")
    ] = "none"
    strict_prompt: Annotated[bool, Unrecorded(), Doc("Refuse prompts that would be truncated.")] = (
        False
    )


EmbeddingArray = Annotated[
    np.ndarray,
    Check(validation.check_embeddings, ARRAY),
    Attachment("array"),
    Flag(metavar="FILE.npy", parse=read_noise),
    Unrecorded(),
]


MaskArray = Annotated[
    np.ndarray,
    Check(validation.check_text_mask, ARRAY),
    Attachment("array"),
    Flag(metavar="FILE.npy", parse=read_noise),
    Unrecorded(),
]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EmbeddingParameters:
    """Hidden states instead of prompts, named as in diffusers."""

    prompt_embeds: Annotated[
        EmbeddingArray | None,
        Doc("Hidden states (n, l, d), instead of n prompts.", "the prompts are encoded"),
    ] = None
    negative_prompt_embeds: Annotated[
        EmbeddingArray | None,
        Doc(
            "Hidden states of the negative prompts, of the same length.",
            "the negative prompts are encoded",
        ),
    ] = None
    pooled_prompt_embeds: Annotated[
        EmbeddingArray | None,
        Doc("Pooled output (n, d) of the prompts (SDXL, SD3, Flux).", "not given"),
    ] = None
    negative_pooled_prompt_embeds: Annotated[
        EmbeddingArray | None,
        Doc("Pooled output (n, d) of the negative prompts (SDXL, SD3).", "not given"),
    ] = None
    prompt_mask: Annotated[
        MaskArray | None,
        Doc(
            "1 for hidden states of prompt_embeds that are read and 0 for padding, (n, l), for "
            "models that read a mask.",
            "all are read",
        ),
    ] = None
    negative_prompt_mask: Annotated[
        MaskArray | None,
        Doc("The same of negative_prompt_embeds.", "all are read"),
    ] = None
