"""Targets that are names and shapes of tensors: models, LoRA, ControlNets, autoencoders, words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.io.adapters import autoencoder
from ldmref.io.adapters.autoencoder import read_vae, require_fit
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import read_loras
from ldmref.io.adapters.lora_keys import lora_names
from ldmref.io.adapters.textual_inversion import read_embeddings
from ldmref.io.compvis import whole_file
from ldmref.io.compvis.keys import autoencoder_table, compvis_table, controlnet_table
from ldmref.io.key_table import list_stored_shapes
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.safetensors import DTYPES, TensorFile
from ldmref.models.controlnet import ControlNetConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import PRESETS
from ldmref.prompts.textual_inversion import add_embeddings
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer

from .cached import constants_cached
from .configs import TINY, VAE
from .files import safetensors_bytes
from .guard import SCRATCH, Target
from .mutate import dump, mutate_json

MICRO = replace(
    TINY,
    name="micro",
    denoiser=replace(
        TINY.unet,
        block_out_channels=(16,),
        attention_levels=(True,),
        num_heads=(2,),
        transformer_layers_per_block=(1,),
    ),
    vae=replace(TINY.vae, block_out_channels=(8,)),
    text_encoder=replace(TINY.text_encoder, num_hidden_layers=1),
)
MICRO_V = replace(MICRO, name="micro-v", scheduler=replace(MICRO.scheduler, prediction_type="v"))
few_stages = mock.patch.object(
    autoencoder, "FIRST_STAGES", {"vq": replace(MICRO.vae, codebook_size=16), "tiny": TINY.vae}
)
families = mock.patch.multiple(
    whole_file,
    FAMILIES=("micro", "micro-v", "tiny"),
    PRESETS=PRESETS | {"micro": MICRO, "micro-v": MICRO_V},
)
LARGEST = 2**22  # bytes of one tensor; the files have holes


def tensor_file(name: str) -> Callable[[bytes], Path]:
    """Prepare a valid safetensors file from a JSON object.

    `tensors`: name -> shape, or [type, shape]; `metadata`; `fill`: the value of every byte;
    `beside`: the content of a config.json next to it, or of adapter_config.json.
    """
    path = SCRATCH / name.removesuffix(".safetensors") / name
    beside = [path.with_name("config.json"), path.with_name("adapter_config.json")]
    path.parent.mkdir()

    def prepare(data: bytes) -> Path:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        content = content if isinstance(content, dict) else {}
        header, end = _header(content.get("tensors"))
        metadata = content.get("metadata")
        if isinstance(metadata, dict) and metadata:
            header["__metadata__"] = {
                k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()
            }
        head = safetensors_bytes(header)
        with path.open("wb") as file:
            file.write(head)
            fill = content.get("fill")
            if type(fill) is int and 0 < fill < 256:
                file.write(bytes([fill]) * end)
            else:
                file.truncate(len(head) + end)
        for other in beside:
            other.unlink(missing_ok=True)
            if "beside" in content:
                other.write_bytes(dump(content["beside"]))
        return path

    return prepare


def _header(tensors: Any) -> tuple[dict[str, Any], int]:
    header = {}
    end = 0
    for name, value in tensors.items() if isinstance(tensors, dict) else ():
        kind, shape = (
            value
            if isinstance(value, list) and len(value) == 2 and isinstance(value[1], list)
            else ("F32", value)
        )
        good = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**32 for n in shape)
        if not good or not isinstance(kind, str) or kind not in DTYPES:
            continue
        size = math.prod(shape) * DTYPES[kind].itemsize
        if size <= LARGEST and name.isprintable():
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
            end += size
    return header, end


def _seed(shapes: Mapping[str, Any], **others: Any) -> bytes:
    return dump({"tensors": {name: list(shape) for name, shape in shapes.items()}} | others)


# -- models ---------------------------------------------------------------------------------------


def _model_seeds() -> list[bytes]:
    shapes = list_stored_shapes(compvis_table(MICRO))
    counters = {"model_ema.decay": [], "model_ema.num_updates": ["I64", []]}
    few = dict(list(shapes.items())[:3])
    ema = {"model_ema." + n.removeprefix("model.").replace(".", ""): s for n, s in shapes.items()}
    return [
        _seed(shapes, metadata={"modelspec.prediction_type": "v"}, fill=1),
        _seed(shapes),
        _seed({f"state_dict.{name}": s for name, s in few.items()}),
        _seed(shapes | counters | ema),
        _seed(few | counters | dict(list(ema.items())[:2])),
        _seed(few | {"scale_factor": [], "v_pred": []}, fill=63),
        _seed({}),
    ]


@families
@constants_cached
def run_model(path: Path) -> None:
    """Read a single file that fits: its configuration, its averages, and the unread rest."""
    file = TensorFile(path)
    for config, ema in ((MICRO, None), (MICRO, True), (None, None))[: 3 if len(file) < 9 else 2]:
        try:
            assert recognise_file(file, config, ema).report.fits
        except LdmrefError as error:
            assert error.code.startswith("E-")


# -- LoRA -----------------------------------------------------------------------------------------


@cache
def _tiny_tensors() -> dict[str, np.ndarray]:
    return flatten(init(model_spec(MICRO)))


def _lora_seeds() -> list[bytes]:
    shapes = flatten(model_spec(MICRO))
    seeds = []
    targets: dict[str, list[tuple[str, str]]] = {}
    for name, ((tensor, role, _), *_) in lora_names(MICRO).items():
        if role in ("down", "up", "alpha"):
            targets.setdefault(tensor, []).append((name, role))
    endings = (
        (".lora_down.weight", ".lora_up.weight", ".alpha"),
        (".lora_A.weight", ".lora_B.weight"),
    )
    for tensor in list(targets)[:: max(1, len(targets) // 6)]:
        shape = shapes[tensor]
        for ends in endings:
            tensors = {}
            for name, role in targets[tensor]:
                if name.endswith(ends) and role not in tensors.values():
                    tensors[name] = {
                        "down": [2, *shape[1:]],
                        "up": [shape[0], 2, *([1, 1] * (len(shape) == 4))],
                        "alpha": [],
                    }[role]
            seeds.append(_seed(dict(list(tensors.items())[: len(ends)]), fill=1))
    recorded = {
        "lora_alpha": 2,
        "use_rslora": True,
        "use_dora": False,
        "alpha_pattern": {"to_q": 1.5},
    }
    for values in (recorded, {f"unet.{name}": value for name, value in recorded.items()}):
        seeds.append(dump(json.loads(seeds[1]) | {"metadata": {"lora_adapter_metadata": values}}))
    return [*seeds, _seed({}, beside={"lora_alpha": 4, "peft_type": "LORA"})]


@constants_cached
def run_lora(path: Path) -> None:
    """Check that an accepted LoRA keeps all shapes, and that weight 0 changes nothing."""
    tensors = _tiny_tensors()
    with np.errstate(all="ignore"):
        merged = apply_loras(MICRO, tensors, read_loras([(path, 0.5)]))
        same = apply_loras(MICRO, tensors, read_loras([(path, 0.0)]))
    assert {n: t.shape for n, t in merged.items()} == {n: t.shape for n, t in tensors.items()}
    for name, tensor in same.items():
        if tensor is not tensors[name] and np.isfinite(merged[name]).all():
            np.testing.assert_array_equal(tensor, tensors[name])


# -- other adapters -------------------------------------------------------------------------------

CONTROL = ControlNetConfig(
    replace(MICRO.unet, in_channels=MICRO.unet.out_channels),
    conditioning_embedding_out_channels=(16, 32, 96, 256),
)


def _control_seeds() -> list[bytes]:
    shapes = list_stored_shapes(controlnet_table(CONTROL))
    return [
        _seed(shapes),
        _seed({f"control_model.{name}": shape for name, shape in shapes.items()}),
    ]


@constants_cached
def run_control(path: Path) -> None:
    """Check that an accepted ControlNet has every tensor in its shape."""
    file = open_controlnet(path, MICRO.unet)
    assert all(tensor.shape == file.table[name].shape for name, tensor in file.tensors().items())


def _autoencoder_seeds() -> list[bytes]:
    shapes = list_stored_shapes(autoencoder_table(MICRO.vae))
    whole = {f"first_stage_model.{name}": shape for name, shape in shapes.items()}
    return [_seed(shapes), _seed(whole), _seed(dict(list(shapes.items())[:4]), beside=VAE)]


@few_stages
@constants_cached
def run_autoencoder(path: Path) -> None:
    """Check that an accepted autoencoder fits the model, or is refused by it."""
    require_fit(MICRO, read_vae(path, MICRO.vae))


def _embedding_seeds() -> list[bytes]:
    return [
        _seed({"<cat>": [4]}, fill=1),
        _seed({"emb_params": [2, 4]}, fill=1),
        _seed({"clip_l": [1, 768], "clip_g": [1, 1280]}),
        _seed({"a": [1], "b": [1]}),
    ]


def run_embedding(path: Path) -> None:
    """Check that an accepted word becomes a token per vector."""
    tokenizer = PromptTokenizer(word_tokenizer(["red heart"], 10), 16)
    size = tokenizer.tokenizer.get_vocab_size()
    for embedding in read_embeddings(path):
        table, extended = add_embeddings(np.zeros((size, 4), np.float32), tokenizer, [embedding])
        assert len(table) == size + len(embedding.vectors) == extended.tokenizer.get_vocab_size()
        extended.tokenize([f"red {embedding.word} heart"])


TARGETS = {
    "single-file": Target(run_model, _model_seeds, tensor_file("model.safetensors"), mutate_json),
    "lora": Target(run_lora, _lora_seeds, tensor_file("lora.safetensors"), mutate_json),
    "controlnet": Target(run_control, _control_seeds, tensor_file("net.safetensors"), mutate_json),
    "autoencoder": Target(
        run_autoencoder, _autoencoder_seeds, tensor_file("autoencoder.safetensors"), mutate_json
    ),
    "embedding": Target(
        run_embedding, _embedding_seeds, tensor_file("word.safetensors"), mutate_json
    ),
}
