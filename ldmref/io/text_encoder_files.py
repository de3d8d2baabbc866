"""Text encoders in files of their own, such as ComfyUI's `clip_l`, `clip_g` and `t5xxl`.

They have the names of transformers, of OpenCLIP, or of llama.cpp (T5 in GGUF files), with or
without the prefix that they have in files of several networks. Which encoder of a model a file
holds is not asked: it is the one whose tensors have these names and shapes.

Sources: the names of the published files (comfyanonymous/flux_text_encoders,
stabilityai/stable-diffusion-3-medium, city96/t5-v1_1-xxl-encoder-gguf); city96/ComfyUI-GGUF,
loader.py (T5_SD_MAP).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import InputError, KeyMismatchError, UsageError
from ldmref.io.compvis.keys import clip_table, open_clip_table
from ldmref.io.compvis.whole_file import CLIP_MODULES
from ldmref.io.identify import identify_tensors
from ldmref.io.key_report import KeyReport
from ldmref.io.key_table import KeyEntry, KeyTable, find_matching, fit, to_native
from ldmref.io.siblings import require_agreement
from ldmref.io.single_file import describe_texts
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.safetensors import TensorView
from ldmref.io.tensors.wrappers import unwrap_file
from ldmref.models.clip import is_openclip
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.family import family_of
from ldmref.models.presets import list_presets
from ldmref.models.text_kind import kind_of, list_text_encoders
from ldmref.support.files import NOT_THERE, check_input_path

CODE = "E-TEXT-ENCODER"
PREFIXES = (
    "",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.t5xxl.transformer.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
    "text_encoder.",
    "transformer.",
)
PROJECTION = "text_projection.weight"
# Positions, masks, a number of the training, T5's vocabulary, and the second name of its table.
UNUSED = (
    r"(.*\.)?(logit_scale|position_ids)|attn_mask|spiece_model|encoder\.embed_tokens\.weight"
    r"|scaled_fp8"
)
LLAMA = {  # modules of a block of T5 in llama.cpp -> in transformers
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}
LLAMA_ENDS = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm"}


@dataclass(frozen=True)
class TextEncoderFile:
    """A file that holds one text encoder of a model.

    Attributes:
        file: The file.
        network: The name of the encoder in the model, such as `text_encoder_2`.
        view: Its tensors under the names of `table`.
        table: The tensor of the file for each parameter; an array for one that no file holds.
    """

    file: ModelFile
    network: str
    view: TensorView = field(repr=False)
    table: Mapping[str, KeyEntry | np.ndarray] = field(repr=False)

    def read(self) -> dict[str, np.ndarray]:
        """Return its tensors by our names, each read when it is used."""
        stored = {name: x for name, x in self.table.items() if isinstance(x, KeyEntry)}
        fixed = {name: x for name, x in self.table.items() if not isinstance(x, KeyEntry)}
        tensors = to_native(self.view, stored) | fixed
        return {f"{self.network}.{name}": x for name, x in tensors.items()}

    def record(self) -> dict[str, str]:
        """Return the entry of the file in an image's metadata; it reads the whole file."""
        return {"name": self.file.path.stem, "sha256": self.file.sha256()}


def add_text_encoders(
    paths: Sequence[str | Path], config: ModelConfig, held: Collection[str] | None = None
) -> tuple[ModelConfig, list[TextEncoderFile]]:
    """Find the text encoder of a model that each file holds, without reading a tensor.

    Args:
        paths: The files, safetensors or GGUF, also quantised.
        config: The configuration of the model.
        held: The networks in the single file of the model, if nothing else determines its
            configuration. None: something does.

    Returns:
        The configuration, and the files in the order of `paths`. An encoder that the family may
        lack is there if a file holds it. If neither `held` nor `paths` have it, it is left out.

    Raises:
        InputError, CorruptModelError: A file is missing, damaged or not supported.
        KeyMismatchError: A file holds no text encoder of the model, or says that it is another of
            the same shapes.
        UsageError: Two files hold the same one.
    """
    if isinstance(paths, str | Path):
        message = "text_encoders must be a list of paths, not one path"
        raise UsageError(message, code="E-TYPE", hint=f"text_encoders=[{str(paths)!r}]")
    found: dict[str, TextEncoderFile] = {}
    for path in paths:
        file = _open(path)
        candidates = {**_list_texts(config), **_list_left_out(config)}
        one = _match(file, config, candidates, found)
        if one.network in found:
            other = found[one.network].file.path.name
            raise UsageError(
                f"{other} and {file.path.name} are both the model's {one.network}",
                code=CODE,
                hint="give one file for each text encoder",
            )
        require_agreement(file.path.name, [file], candidates[one.network])
        found[one.network] = one
        if one.network not in _list_texts(config):
            config = _with_text(config, one.network, candidates[one.network])
    if paths and held is not None:
        for network in family_of(config).text.optional:
            if network not in found and network not in held:
                config = _with_text(config, network, None)
    return config, list(found.values())


def _with_text(config: ModelConfig, network: str, text: TextConfig | None) -> ModelConfig:
    values: dict[str, Any] = {network: text}
    return replace(config, **values)


def _open(path: str | Path) -> ModelFile:
    path = check_input_path(path, "the path of a text encoder", CODE)
    if path.is_dir():
        raise InputError(
            f"{path.name!r} is a folder, not the file of a text encoder",
            code=CODE,
            hint="give the .safetensors file in it, or the folder around it as config= "
            "(--model-config)",
        )
    if not path.exists():
        raise InputError(f"no text encoder {str(path)!r}", code=CODE, hint=NOT_THERE)
    return unwrap_file(open_model_file(path))


def _list_texts(config: ModelConfig) -> dict[str, TextConfig]:
    return dict(zip(TEXT_ENCODERS, config.text_encoders, strict=False))


def _list_left_out(config: ModelConfig) -> dict[str, TextConfig]:
    """Return the encoders that the family's models may lack and this one does."""
    family = family_of(config)
    missing = {name for name in family.text.optional if getattr(config, name) is None}
    same = (one for one in family.presets.values() if one.denoiser == config.denoiser)
    whole = next(same, next(iter(family.presets.values()), config))
    return {name: text for name, text in _list_texts(whole).items() if name in missing}


def _match(
    file: ModelFile,
    config: ModelConfig,
    candidates: Mapping[str, TextConfig],
    taken: Mapping[str, TextEncoderFile],
) -> TextEncoderFile:
    """Return the encoder that a file fits; of two alike, the first that no other file holds.

    Raises:
        KeyMismatchError: It fits none.
    """
    fitting, reports = _compare(file, view_current(file), config, candidates)
    free = [one for one in fitting if one.network not in taken]
    if fitting:
        return (free or fitting)[0]
    _refuse(file, config, candidates, reports)
    raise AssertionError("a file that fits nothing is refused")


def _compare(
    file: ModelFile, view: TensorView, config: ModelConfig, candidates: Mapping[str, TextConfig]
) -> tuple[list[TextEncoderFile], list[tuple[KeyReport, str]]]:
    """Return the encoders that a file fits, and for each layout of each encoder what differs."""
    fitting = []
    reports: list[tuple[KeyReport, str]] = []
    fixed_arrays = _find_fixed(config)
    for network, text in candidates.items():
        fixed = fixed_arrays.get(network, {})
        unused = find_matching(f"{UNUSED}|{kind_of(text).ignored}", view)
        if fixed or not text.projection_dim:
            unused |= {PROJECTION, "text_projection"}
        for table in _list_tables(text):
            stored = {name: entry for name, entry in table.items() if name not in fixed}
            last = rf"transformer\.resblocks\.{text.num_hidden_layers}\..*"  # SD 2 leaves it out
            unread = unused | find_matching(last, view)
            report = fit(view.shapes, stored, unread, file.squeezed)
            if report.fits:
                fitting.append(TextEncoderFile(file, network, view, {**stored, **fixed}))
            reports.append((report, network))
    return fitting, reports


def list_owners(file: ModelFile) -> list[str]:
    """Return the presets that have the text encoder of a file.

    Args:
        file: A file.

    Returns:
        Their names; none if the file holds something else, or an encoder of another size.
    """
    file = unwrap_file(file)
    tables = {*RENAMES, *(kind.table for kind in list_text_encoders())}
    view = view_current(file)
    if tables.isdisjoint(view):
        return []
    fits: dict[tuple[object, ...], bool] = {}  # for each family and its encoders
    owners = []
    for name, config in list_presets().items():
        texts = _list_texts(config)
        key = (config.denoiser.family, *texts.items())
        if key not in fits:
            fits[key] = bool(_compare(file, view, config, texts)[0])
        if fits[key]:
            owners.append(name)
    return owners


def hash_text_encoder(file: ModelFile) -> tuple[str, str] | None:
    """Return our name of a tensor of a text encoder, and the SHA-256 of its numbers as float32.

    It is the tensor by which the kind is recognised. Siblings of the same shapes differ in it, and
    files that hold the same encoder in bfloat16, float32 or GGUF agree.

    Args:
        file: A file.

    Returns:
        None: the file holds no text encoder of a kind that is recognised so.
    """
    view = view_current(unwrap_file(file))
    for kind in list_text_encoders():
        if kind.table and kind.table in view:
            numbers = np.ascontiguousarray(np.asarray(view[kind.table]), "<f4")
            return kind.table, hashlib.sha256(numbers.tobytes()).hexdigest()
    return None


def _list_tables(text: TextConfig) -> Iterator[KeyTable]:
    """Yield the names that an encoder may have in a file."""
    yield clip_table(text)  # T5's names are those of transformers as well
    if is_openclip(text):
        yield open_clip_table(text)


def view_current(file: ModelFile) -> TensorView:
    """Return the tensors of a text encoder's file without a prefix, under today's names.

    The tensor of a kind, or its table of tokens, says which prefix and names it has; other files
    stay as they are.
    """
    for kind in list_text_encoders():
        prefixes = (*PREFIXES, *(f"text_encoders.{name}.transformer." for name in kind.comfyui))
        for prefix in prefixes if kind.table else ():
            if kind.table in {_rename(prefix, kind.rename, name) for name in file}:
                return TensorView([file], partial(_rename, prefix, kind.rename))
    for prefix in PREFIXES:
        for table, rename in RENAMES.items():
            if prefix + table in file:
                return TensorView([file], partial(_rename, prefix, rename))
    return TensorView([file])


def _rename(prefix: str, rename: Callable[[str], str], name: str) -> str:
    return rename(name.removeprefix(prefix)) if name.startswith(prefix) else name


def _find_fixed(config: ModelConfig) -> dict[str, dict[str, np.ndarray]]:
    """Return the parameters that no file of the family holds, with their values, by network."""
    layout = next(iter(family_of(config).files), None)
    tables = {} if layout is None else layout.others(config)
    return {
        network: {name: x for name, x in table.items() if isinstance(x, np.ndarray)}
        for network, table in tables.items()
    }


def rename_llama(name: str) -> str:
    """Return transformers' name for a tensor of T5 in llama.cpp's files; others stay.

    >>> rename_llama("enc.blk.3.ffn_up.weight")
    'encoder.block.3.layer.1.DenseReluDense.wi_1.weight'
    """
    module, _, leaf = name.rpartition(".")
    block = re.fullmatch(r"enc\.blk\.(\d+)\.(\w+)", module)
    if block and block[2] in LLAMA:
        return f"encoder.block.{block[1]}.{LLAMA[block[2]]}.{leaf}"
    return f"{LLAMA_ENDS[module]}.{leaf}" if module in LLAMA_ENDS else name


def _add_text_model(name: str) -> str:
    return f"text_model.{name}" if name.split(".")[0] in CLIP_MODULES else name


RENAMES: dict[str, Callable[[str], str]] = {  # the table of tokens -> today's name of a tensor
    "text_model.embeddings.token_embedding.weight": str,
    "embeddings.token_embedding.weight": _add_text_model,  # transformers before 2022
    "shared.weight": str,
    "encoder.embed_tokens.weight": lambda name: name.replace("encoder.embed_tokens.", "shared."),
    "token_embedding.weight": str,  # OpenCLIP
    "token_embd.weight": rename_llama,
}


# -- messages -------------------------------------------------------------------------------------


def _refuse(
    file: ModelFile,
    config: ModelConfig,
    candidates: Mapping[str, TextConfig],
    reports: Iterable[tuple[KeyReport, str]],
) -> None:
    """Refuse a file that holds no text encoder of a model.

    Raises:
        KeyMismatchError: The message says what it is, or what differs from the nearest encoder.
    """
    name = file.path.name
    takes = f"{config.name!r} has " + (describe_texts(candidates) or "no text encoder")
    known = identify_tensors(file)
    if known is not None and "text encoder" not in known[0]:
        raise KeyMismatchError(
            f"{name} is {known[0]}, not a text encoder", code=CODE, hint=known[1]
        )
    report, nearest = max(reports, key=lambda pair: pair[0].likeness, default=(None, ""))
    if report is None or not report.shared:
        raise KeyMismatchError(f"{name} is no text encoder of the model", code=CODE, hint=takes)
    report.require(f"{name} is no text encoder of the model; nearest is its {nearest}", takes)
