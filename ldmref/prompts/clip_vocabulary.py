"""Where CLIP's vocabulary is found: in a checkpoint, in installed packages, in a local cache."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers.models import BPE

from ldmref.errors import CorruptModelError, InputError
from ldmref.prompts.clip import END, LENGTH, START, WORD_END, Vocabulary, clip_tokenizer
from ldmref.prompts.tokenizer import PromptTokenizer

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
PACKAGES = ("open_clip", "clip")
REPOSITORY = "models--openai--clip-vit-large-patch14"
MERGES = 49152 - 256 - 2  # of the file's lines, openai/CLIP uses so many
MAX_BYTES = 64 * 2**20


def load_tokenizer(
    source: str | Path | None = None,
    length: int = LENGTH,
    *,
    pad: int | None = None,
    text_clean: str = "none",
) -> PromptTokenizer:
    """The tokenizer of a folder or file; a `tokenizer.json` may also be one of whole words.

    Arguments and errors are those of `read_vocabulary` and `clip_tokenizer`.
    """
    if source is not None and Path(source).suffix == ".json" and not _is_bpe(Path(source)):
        return PromptTokenizer.load(Path(source), length)
    return clip_tokenizer(read_vocabulary(source), length, pad=pad, text_clean=text_clean)


def read_vocabulary(source: str | Path | None = None) -> Vocabulary:
    """CLIP's vocabulary.

    Args:
        source: a tokenizer folder (vocab.json and merges.txt, or tokenizer.json), the folder of a
            checkpoint that holds it as `tokenizer`, a tokenizer.json, or openai/CLIP's
            bpe_simple_vocab_16e6.txt.gz (also unpacked). None looks for the installed package
            open_clip or clip, then for openai/clip-vit-large-patch14 in the cache of Hugging Face
            (HF_HUB_CACHE, HF_HOME); nothing is imported or downloaded.

    Raises:
        InputError: nothing was found; says where to get it.
        CorruptModelError: a file is damaged.
    """
    if source is None:
        source = next((path for path in _places() if path.exists()), None)
        if source is None:
            raise InputError(
                "no CLIP vocabulary is installed here",
                code="E-TOKENIZER-FILES",
                hint="give the tokenizer folder of any Stable Diffusion checkpoint (vocab.json and "
                "merges.txt), or pip install open_clip_torch, or "
                "hf download openai/clip-vit-large-patch14 vocab.json merges.txt",
            )
    path = Path(source)
    if path.is_file():
        return _tokenizer_json(path) if path.suffix == ".json" else _bpe_file(path)
    for folder in (path, path / "tokenizer"):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _folder(folder)
        if (folder / "tokenizer.json").is_file():
            return _tokenizer_json(folder / "tokenizer.json")
    raise InputError(
        f"no CLIP vocabulary in {str(source)!r}",
        code="E-TOKENIZER-FILES",
        hint=f"it should hold vocab.json and merges.txt, or tokenizer.json, or be {BPE_FILE}",
    )


def _places() -> Iterator[Path]:
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            yield Path(folder) / BPE_FILE
    for folder in sorted((hub_cache() / REPOSITORY / "snapshots").glob("*/")):
        yield from (folder / name for name in ("tokenizer.json",))
        if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
            yield folder


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it fetched."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def _folder(folder: Path) -> Vocabulary:
    try:
        vocab, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the library raises bare Exceptions
        raise CorruptModelError(
            f"vocab.json and merges.txt of {folder.name!r} are damaged: {error}", code="E-TOKENIZER"
        ) from error
    added: dict[str, int] = {}
    if (folder / "added_tokens.json").is_file():
        added = _ids(_json(folder / "added_tokens.json"), "added_tokens.json")
    return Vocabulary(vocab, merges, _beyond(added, vocab), _pad_token(folder))


def _tokenizer_json(path: Path) -> Vocabulary:
    data = _json(path)
    try:
        model, padding = data["model"], data.get("padding") or {}
        vocab = _ids(model["vocab"], path.name)
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        merges = [(str(left), str(right)) for left, right in pairs]
        added = {t["content"]: t["id"] for t in data.get("added_tokens") or ()}
        pad = _pad_token(path.parent) or padding.get("pad_token")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptModelError(
            f"{path.name} is no CLIP tokenizer: {error!r}", code="E-TOKENIZER"
        ) from error
    return Vocabulary(vocab, merges, _beyond(_ids(added, path.name), vocab), pad)


def _bpe_file(path: Path) -> Vocabulary:
    """openai/CLIP's file: one line of comment, then merges; ids follow from their order."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            lines = file.read(MAX_BYTES).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorruptModelError(f"{path.name} is damaged: {error}", code="E-TOKENIZER") from error
    merges = [tuple(line.split()) for line in lines[1 : MERGES + 1] if line.strip()]
    if not merges or any(len(pair) != 2 for pair in merges):
        raise CorruptModelError(f"{path.name} is no list of merges", code="E-TOKENIZER")
    letters = byte_letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges)]
    vocab = {token: id for id, token in enumerate([*tokens, START, END])}
    return Vocabulary(vocab, [(a, b) for a, b in merges])


def byte_letters() -> list[str]:
    """A printable letter for each byte, in CLIP's order: the printable Latin-1 bytes come first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(256)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]


def _pad_token(folder: Path) -> str | None:
    """The padding token that the files beside a vocabulary name."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            data = _json(folder / name)
            token = data.get("pad_token") if isinstance(data, dict) else None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return None


def _is_bpe(path: Path) -> bool:
    model = _json(path)
    model = model.get("model") if isinstance(model, dict) else None
    return isinstance(model, dict) and model.get("end_of_word_suffix") == WORD_END


def _beyond(added: dict[str, int], vocab: dict[str, int]) -> dict[str, int]:
    return {token: id for token, id in added.items() if vocab.get(token) != id}


def _ids(data: Any, name: str) -> dict[str, int]:
    if not isinstance(data, dict) or not all(type(id) is int and id >= 0 for id in data.values()):
        raise CorruptModelError(f"{name} is no table of tokens and ids", code="E-TOKENIZER")
    return data


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModelError(f"{path.name} is damaged: {error}", code="E-TOKENIZER") from error
