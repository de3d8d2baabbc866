"""Rows 119 to 134, 157: what can be wrong with other files than the weights, and with targets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_cases import PYTHON, TINY, Case, case, command
from fault_images import image_file
from fault_models import file, tiny
from safetensors.numpy import save_file

from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UsageError
from ldmref.io.adapters.lora_keys import lora_file_name
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import preset

Make = Callable[[Path], Path]


def part(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A tokenizer with another part."""
    return lambda words: words.update({name: value})


def pattern(regex: str, behavior: str = "Removed") -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": True}


def model(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda words: words["model"].update(changes)


def replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def with_vectors(words: dict[str, Any]) -> None:
    """A word of as many vectors as there are prompts' tokens, and more."""
    first = max(words["model"]["vocab"].values()) + 1
    names = ["grow", *(f"grow_{i}" for i in range(1, 100))]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    words["added_tokens"] = [
        {"id": first + i, "content": name} | flags for i, name in enumerate(names)
    ]


TWICE = {
    "type": "TemplateProcessing",
    "pair": [],
    "special_tokens": {},
    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
}
TOKENIZERS = {
    # doubled twelve times here: with 40 of them a prompt takes all memory
    "doubling": part("normalizer", {"type": "Sequence", "normalizers": [replace("a", "aa")] * 12}),
    "prepending": part("normalizer", {"type": "Prepend", "prepend": "red " * 9}),
    "no normalizer": part("normalizer", None),
    "backtracking": part("pre_tokenizer", pattern("(x+x+)+y")),
    "another order": part("pre_tokenizer", pattern("[#*!&]|[\\p{L}\\p{N}]+")),
    "isolated": part("pre_tokenizer", pattern("[\\p{L}\\p{N}]+|[#*!&]", "Isolated")),
    "template": part("post_processor", TWICE),
    "decoder": part("decoder", {"type": "Fuse"}),
    "word pieces": model(
        type="WordPiece",
        continuing_subword_prefix="##",
        unk_token="<unknown>",
        max_input_chars_per_word=10**9,
    ),
    "another unknown": model(unk_token="<pad>"),
    "a list of words": model(vocab=["<pad>", "<start>"]),
    "negative id": model(vocab={"<pad>": 0, "<start>": 1, "<end>": 2, "<unknown>": -1}),
    "word of a hundred vectors": with_vectors,
    "nothing": lambda words: words.clear(),
}


def image_folder(name: str = "", content: bytes | str | None = None) -> Make:
    """A folder with an image and a second file; text names the target of a link."""

    def make(folder: Path) -> Path:
        out = folder / "images"
        out.mkdir()
        (out / "cat.png").write_bytes(image_file()(folder).read_bytes())
        path = out / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "fifo":
            os.mkfifo(path)
        elif content == "folder":
            path.mkdir()
        elif content:
            path.symlink_to(content)
        return out

    return make


def fifo(name: str) -> Make:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def train(title: str, make: Make) -> Case:
    return command(120, title, InputError, "E-DATA", "train", "--data", make, "-o", "out")


def shared(count: int) -> Make:
    """A checkpoint in which many names share one storage."""

    def make(folder: Path) -> Path:
        torch = pytest.importorskip("torch")

        tensor = torch.zeros(1000)
        path = folder / "model.ckpt"
        torch.save({f"t{i}": tensor for i in range(count)}, path)
        return path

    return make


def lora(alpha: float = 1.0, made_for: str = "tiny") -> Make:
    """A LoRA of one matrix of a model."""

    def make(folder: Path) -> Path:
        config = preset(made_for)
        shapes = {n: s for n, s in flatten(model_spec(config)).items() if n.endswith("to_q.weight")}
        tensor, (rows, columns) = next(iter(shapes.items()))
        names = {role: lora_file_name(config, tensor, role) for role in ("down", "up", "alpha")}
        tensors = {
            names["down"]: np.full((1, columns), 1e3, np.float32),
            names["up"]: np.full((rows, 1), 1e3, np.float32),
            names["alpha"]: np.asarray(alpha, np.float32),
        }
        path = folder / "lora.safetensors"
        save_file(tensors, path)
        return path

    return make


def weighted(weight: Any) -> Callable[[Path], Any]:
    return lambda folder: [(lora(1e-6)(folder), weight)]


LARGE = b"#" * 1_000_001
TARGET = ("-m", TINY, "--steps", "1", "-o")

OTHER_FILES: list[Case] = [
    *(case(119, title, CorruptModelError, "E-TOKENIZER", prompt="a red heart xxxxxxxxxxxxxxxx",
           model=tiny(tokenizer=change)) for title, change in TOKENIZERS.items()),
    *(train(f"{name}, {what}", image_folder(name, what))
      for name in ("cat.txt", "metadata.jsonl", "metadata.csv")
      for what in ("fifo", "/dev/zero", "folder")),
    train("captions of 1 MB", image_folder("cat.txt", LARGE)),
    command(120, "recipe, fifo", InputError, "E-RECIPE-FILE", "train", fifo("recipe.toml")),
    command(120, "recipe of 1 MB", InputError, "E-RECIPE-FILE",
            "train", file("recipe.toml", LARGE)),
    command(120, "settings, fifo", InputError, "E-CONFIG-FILE",
            "txt2img", "cat", *TARGET, "a.png", "--config", fifo("ldmref.toml")),
    command(120, "settings of 1 MB", InputError, "E-CONFIG-FILE",
            "txt2img", "cat", *TARGET, "a.png", "--config", file("ldmref.toml", LARGE)),
    command(125, "a hundred names", CorruptModelError, "E-PICKLE-DAMAGED",
            "convert", shared(100), "out.safetensors"),
    *(case(126, f"weight {weight}", UsageError, "E-LORA-WEIGHT", only=PYTHON,
           load={"lora": weighted(weight)}) for weight in (1e300, -101, math.nan, "1", True)),
    *(case(126, f"weight {weight}, allowed", only=PYTHON, load={"lora": weighted(weight)})
      for weight in (-100, 100.0)),
    case(126, "alpha 10^38", CorruptModelError, "E-NONFINITE", load={"lora": lora(1e38)}),
    *(case(157, f"of {name}", KeyMismatchError, "E-KEYS", load={"lora": lora(made_for=name)})
      for name in ("flux-tiny", "sd3-tiny", "sd15")),
    command(126, "weight 1e300", UsageError, "E-LORA-WEIGHT",
            "txt2img", "cat", *TARGET, "a.png", "--lora", "style.safetensors:1e300"),
]  # fmt: skip
