"""Recognise files that are not models (LoRA, VAE, Flux, ...) from their tensor names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from ldmref.errors import KeyMismatchError
from ldmref.models.params import Shape

SUPPORTED = (
    "supported are Stable Diffusion 1.x, 2.x and XL, their inpainting models, the models of "
    "latent diffusion, Stable Diffusion 3, Flux.1, FLUX.2 and FLUX.3 klein, Z-Image, "
    "Qwen-Image 2.1 and Krea 2"
)
LORA = "give the model it was made for, and this as lora= (--lora)"
EMBEDDING = "give the model, and this as embeddings= (--embedding)"
VAE = "give the model it belongs to, and this as vae= (--vae)"
CONTROL = "give the model it was made for, and this as Control(...) (--control NET:IMAGE)"
OTHERS = (
    "read are LoRA, LoHa, LoKr and DoRA (--lora), ControlNets (--control) and learned words "
    "(--embedding)"
)
ADAPTERS = (EMBEDDING, VAE, CONTROL, OTHERS)  # hints of files that change or complete a model
CHANGE = r"lora|lokr|hada_|\.diff(_b)?$|\.[wb]_norm$"  # in the names of what changes a layer
FOLDER = "give the folder around it, which has a model_index.json"
FOLDER_OR_MODEL = FOLDER + "; or the model with the other networks as config= (--model-config)"
TEXT = "give the model it belongs to, and this as text_encoders= (--text-encoder)"


def _some(pattern: str) -> Callable[[list[str]], bool]:
    search = re.compile(pattern).search
    return lambda names: any(map(search, names))


def _each(*patterns: str) -> Callable[[list[str]], bool]:
    tests = [_some(pattern) for pattern in patterns]
    return lambda names: all(test(names) for test in tests)


def _all(pattern: str) -> Callable[[list[str]], bool]:
    match = re.compile(pattern).match
    return lambda names: all(map(match, names))


def _exactly(*expected: str) -> Callable[[list[str]], bool]:
    return lambda names: set(names) == set(expected)


WHOLE = "not supported; give a whole ControlNet"
_CONTROL = r"(control_model\.)?input_hint_block\.|controlnet_(cond_embedding|blocks|x_embedder)\."

# What changes a U-Net, and is neither a ControlNet nor a LoRA: the test, and what it is.
BESIDE: tuple[tuple[Callable[[list[str]], bool], str], ...] = (
    (_some(r"^lora_controlnet$"), "a control LoRA of Stability, changes to the weights of a U-Net"),
    (_some(r"^(adapter\.)?body\.\d+\.(?!rdb1)"), "a T2I-Adapter, which adds features of an image"),
    (
        _some(r"^(ip_adapter|image_proj|ip_adapter_proj_model)\.|\.ip_adapter_"),
        "an IP-Adapter, which reads an image as text",
    ),
    (_some(r"^lllite_"), "a ControlNet-LLLite, which changes attention"),
)

# Adapters that are not read. Sources: huggingface/peft (tuners), KohakuBlueleaf/LyCORIS (modules),
# comfyanonymous/ComfyUI, comfy/controlnet.py, and the names of the published files.
UNREAD: tuple[tuple[Callable[[list[str]], bool], str, str], ...] = (
    (_some(r"\.boft_[Rs](\.|$)"), "a BOFT, butterfly rotations of weights", OTHERS),
    (_some(r"\.oft_(R|blocks|diag)(\.|$)"), "an OFT or BOFT, rotations of weights", OTHERS),
    (_each(r"\.a1\.weight$", r"\.b2\.weight$"), "a GLoRA, two products for each layer", OTHERS),
    (_some(r"\.(on_input|ia3_l)(\.|$)"), "an (IA)3, factors of activations", OTHERS),
    (_some(r"\.vera_lambda_[bd](\.|$)"), "a VeRA, factors of fixed random matrices", OTHERS),
    (_some(r"\.lora_E(\.|$)"), "an AdaLoRA, singular values and vectors", OTHERS),
    (
        _some(
            r"\.(fourierft_spectrum|hra_u|vblora_\w+|randlora_\w+|shira_weight|c3a_kernel|"
            r"bone_block|miss_block|hira_[AB])(\.|$)"
        ),
        "an adapter of PEFT of another kind",
        OTHERS,
    ),
    *((test, what, OTHERS) for test, what in BESIDE),
    (_all(r"(\d+)\.[01]\.linear\."), "a hypernetwork, layers before keys and values", OTHERS),
)

# (test of the names, what the file is, hint); the first test that holds counts. Sources: the
# families' own code, and the names by which huggingface/diffusers (loaders/single_file_utils.py)
# distinguishes them.
KINDS: tuple[tuple[Callable[[list[str]], bool], str, str], ...] = (
    (_exactly("emb_params"), "a textual inversion", EMBEDDING),
    (_exactly("clip_l", "clip_g"), "a textual inversion of SDXL", EMBEDDING),
    *((_exactly(name), "a textual inversion", EMBEDDING)
      for name in ("clip_l", "clip_g", "string_to_param.*")),
    *UNREAD,
    (_some(r"\.hada_w1_[ab](\.|$)"), "a LoHa", LORA),
    (_some(r"\.lokr_w[12](_[ab])?(\.|$)"), "a LoKr", LORA),
    (_some(r"\.(dora_scale|lora_magnitude_vector|magnitude)(\.|$)"), "a DoRA", LORA),
    (_some(r"lora_down\.weight$|lora\d?\.down\.weight$|lora_A\.(\w+\.)?weight$"), "a LoRA", LORA),
    (_some(r"\.diff(_b)?$|\.[wb]_norm$"), "a LoRA of differences", LORA),
    (_some(_CONTROL), "a ControlNet", CONTROL),
    (_some(r"(^|\.)double_stream_modulation_img\."), "a FLUX.2 model of another kind", SUPPORTED),
    (_some(r"(^|\.)double_blocks\.\d+\.img_attn\."), "a Flux model of another kind", SUPPORTED),
    (_some(r"(^|\.)joint_blocks\.\d+\."), "a Stable Diffusion 3 model of another kind", SUPPORTED),
    (_all(r"(unet|transformer|vae|text_encoder(_[23])?)\."), "the weights of a folder of ldmref",
     "give the folder that they come from, which also holds config.json and tokenizer.json"),
    (_some(r"(^|\.)transformer_blocks\.\d+\.attn\.add_k_proj\."),
     "a transformer of diffusers, without the other networks", FOLDER),
    (_each(r"^model\.diffusion_model\.", r"^text_encoders\."),
     "a checkpoint of a denoiser and text encoders that fits no supported family", SUPPORTED),
    (_some(r"(^|\.)block\.\d+\.layer\.0\.SelfAttention\."), "a T5 text encoder", TEXT),
    (_some(r"^enc\.blk\.\d+\.attn_q\.weight$"), "a T5 text encoder of llama.cpp", TEXT),
    (_some(r"^blk\.\d+\.attn_q_norm\.weight$"), "a Qwen3 text encoder of llama.cpp", TEXT),
    (_some(r"^blk\.\d+\.attn_q\.weight$"), "a text encoder of llama.cpp",
     "no supported model reads it; give Qwen3, or CLIP and T5, as text_encoders= (--text-encoder)"),
    (_some(r"(^|\.)layers\.\d+\.self_attn\.q_norm\.weight$"), "a Qwen3 text encoder", TEXT),
    (_some(r"^conditioner\.embedders\.0\.model\."), "SDXL's refiner",
     "not supported; use the base model alone. " + SUPPORTED),
    (_some(r"^(depth_model|low_scale_model|noise_augmentor|embedder\.model\.visual)\."),
     "a model for depth, upscaling or variations (unCLIP)", SUPPORTED),
    (_all(r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|conv_norm_out|\w+_embedding)\."),
     "a U-Net of diffusers, without the other networks", FOLDER_OR_MODEL),
    (_all(r"(first_stage_model\.)?(state_dict\.)?"
          r"(encoder|decoder|quant_conv|post_quant_conv|quantize|loss|bn)\."),
     "an autoencoder", VAE),
    (_some(r"^(encoder\.downsamples|decoder\.upsamples)\.\d+\.residual\."),
     "an autoencoder of Qwen-Image and Wan 2.1", VAE),
    (_all(r"\d+\.(conv\.\d+\.|skip\.|pool\.\d+\.)?(weight|bias)$"), "one half of TAESD", VAE),
    (_all(r"(text_model|text_projection|logit_scale|embeddings\.|encoder\.layers|final_layer_norm)"),
     "a CLIP text encoder, without the other networks", TEXT),
    (_all(r"(token_embedding|positional_embedding|transformer\.resblocks|ln_final|text_projection"
          r"|logit_scale|attn_mask)"),
     "a text encoder of OpenCLIP, without the other networks", TEXT),
    (_some(r"^vision_model\."), "an image encoder of CLIP, which IP-Adapters read",
     "not supported; " + SUPPORTED),
    (_some(r"^(model\.1\.sub\.\d+|body\.\d+\.rdb1)\."), "a network that enlarges images (ESRGAN)",
     "not supported; upscale= (--upscale) enlarges images with the model itself"),
)  # fmt: skip


def refuse_foreign(name: str, names: Iterable[str]) -> None:
    """Refuse a file that is recognised as something other than a model.

    Args:
        name: The name of the file.
        names: The names of its tensors.

    Raises:
        KeyMismatchError: The message says what it is, and the hint what to do with it.
    """
    kind = identify_tensors(names)
    if kind is not None:
        what, hint = kind
        raise KeyMismatchError(f"{name} is {what}, not a model", code="E-KEYS", hint=hint)


# What looks like a ControlNet, or is used like one, and is something else. Sources: the names of
# the published files; comfyanonymous/ComfyUI, comfy/controlnet.py, which tells them apart.
CONTROLS: tuple[tuple[Callable[[list[str]], bool], str, str], ...] = (
    *((test, what, WHOLE) for test, what in BESIDE),
    (_some(r"^difference$"), "a ControlNet as differences from a U-Net",
     "give one that was not made from differences"),
    (_some(r"^(task_embedding$|control_add_embedding\.)"), "SDXL's union of ControlNets",
     "not supported; give a ControlNet of one kind"),
    (_some(r"^controlnet_blocks\.0\.linear\."), "a ControlNet of MistoLine for Flux.1",
     "not supported; give one of InstantX or XLabs"),
)  # fmt: skip


def refuse_other_control(name: str, names: Iterable[str]) -> None:
    """Refuse a file that is recognised as something other than a ControlNet.

    Args:
        name: The name of the file.
        names: The names of its tensors.

    Raises:
        KeyMismatchError: The message says what it is, and the hint what to do.
    """
    listed = sorted(names)
    found = next(((what, hint) for test, what, hint in CONTROLS if test(listed)), None)
    if found is None and not _some(_CONTROL + r"|(^|\.)zero_convs\.|^pos_embed_input\.")(listed):
        known = identify_tensors(listed)
        found = (known[0], "give a ControlNet") if known else None
    if found is not None:
        what, hint = found
        raise KeyMismatchError(f"{name} is {what}, not a ControlNet", code="E-KEYS", hint=hint)


def identify_tensors(names: Iterable[str]) -> tuple[str, str] | None:
    """Identify a file by its tensors: what it is, and what to do; None if it may be a model.

    >>> identify_tensors({"emb_params"})[0]
    'a textual inversion'
    """
    listed = sorted(names)
    if not listed:
        return "empty", SUPPORTED
    return next(((what, hint) for test, what, hint in (*KINDS, *CONTROLS) if test(listed)), None)


# -- models of other kinds, by names and shapes ---------------------------------------------------

UNET = ("model.diffusion_model.", "")  # prefixes of the U-Net in files
XL_WIDTH = 2048  # of the text that SDXL's U-Net attends to
DEEPEST = "transformer_blocks.9."  # of the ten of SDXL's lowest level
BASE = "not supported; give a model of Stable Diffusion that was trained on noise or velocity"
# What a relative of a supported model is, and what to do.
EDM = "Playground 2.5, trained with the noise levels of EDM", BASE
INSTRUCTIONS = (
    "a model that changes an image by an instruction (InstructPix2Pix)",
    "not supported; give its base model, and the image to img2img",
)
FEWER_LAYERS = (
    "an SDXL with fewer layers, such as SSD-1B, Vega or KOALA",
    "not supported; give SDXL or a model of its size",
)


OMNI = (
    "Z-Image Omni, whose transformer also reads images through SigLIP",
    "not supported; give Z-Image or Z-Image-Turbo",
)


def _some_name(pattern: str) -> Callable[[Mapping[str, Shape]], bool]:
    return lambda shapes: any(re.search(pattern, name) for name in shapes)


def _reads(shapes: Mapping[str, Shape], channels: int) -> bool:
    """Return whether the first layer of a U-Net reads so many channels."""
    first = (shapes.get(f"{prefix}input_blocks.0.0.weight", ()) for prefix in UNET)
    return any(len(shape) == 4 and shape[1] == channels for shape in first)


def _is_shallow(shapes: Mapping[str, Shape]) -> bool:
    """Return whether a U-Net has the text of SDXL, and not its ten transformers in a row."""
    wide = any(
        name.endswith(".attn2.to_k.weight") and shape[1:] == (XL_WIDTH,)
        for name, shape in shapes.items()
    )
    blocks = ("input_blocks.7.1.", "input_blocks.8.1.", "middle_block.1.")
    deep = all(any(f"{block}{DEEPEST}" in name for name in shapes) for block in blocks)
    return wide and not deep


# (test of names and shapes, what the model is, hint). Sources: the names of the published files;
# Comfy-Org/ComfyUI, comfy/supported_models.py and model_base.py.
VARIANTS: tuple[tuple[Callable[[Mapping[str, Shape]], bool], str, str], ...] = (
    (lambda x: "edm_mean" in x, *EDM),
    (
        lambda x: "edm_vpred.sigma_max" in x and _reads(x, 8),
        "CosXL Edit, trained with noise levels of EDM to change an image by an instruction",
        BASE,
    ),
    (lambda x: "edm_vpred.sigma_max" in x, "CosXL, trained with noise levels of EDM", BASE),
    (lambda x: _reads(x, 8), *INSTRUCTIONS),
    (_is_shallow, *FEWER_LAYERS),
    (_some_name(r"(^|\.)siglip_(embedder|refiner)\."), *OMNI),
)


def refuse_variant(name: str, shapes: Mapping[str, Shape]) -> None:
    """Refuse a model that is recognised as a relative of a supported one.

    Args:
        name: The name of the file.
        shapes: Names and shapes of its tensors, which fit no supported model.

    Raises:
        KeyMismatchError: The message says what it is, and the hint what to do.
    """
    for test, what, hint in VARIANTS:
        if test(shapes):
            raise KeyMismatchError(f"{name} is {what}", code="E-KEYS", hint=hint)


def refuse_other_adapters(name: str, names: Iterable[str]) -> None:
    """Refuse a file that was given as a LoRA and is an adapter of a kind that is not read.

    Raises:
        KeyMismatchError: The message says what it is.
    """
    listed = sorted(names)
    for test, what, hint in UNREAD:
        if test(listed):
            raise KeyMismatchError(f"{name!r} is {what}, not a LoRA", code="E-KEYS", hint=hint)


def refuse_networks(name: str, names: Iterable[str]) -> None:
    """Refuse a file that was given as a LoRA and holds weights instead of changes.

    Args:
        name: The name of the file.
        names: The names of its tensors, none of which is a LoRA's.

    Raises:
        KeyMismatchError: The message says what it is, and the hint what to do with it.
    """
    listed = sorted(names)
    what, hint = identify_tensors(listed) or ("", "")
    if hint not in ADAPTERS:
        if any(re.search(CHANGE, one) for one in listed) or not _some(r"\.(weight|bias)$")(listed):
            return
        what = "a whole model, or a network of one"
        hint = "give it as the model itself (-m, ldmref.load); a LoRA is made for such a model"
    raise KeyMismatchError(f"{name!r} is {what}, not a LoRA", code="E-KEYS", hint=hint)


def get_foreign_class(data: Mapping[str, object]) -> str:
    """Return the class in a config.json of diffusers or transformers; "" if it has none."""
    kinds = data.get("architectures")
    kind = data.get("_class_name") or (kinds[0] if isinstance(kinds, list) and kinds else "")
    return str(kind)[:80]
