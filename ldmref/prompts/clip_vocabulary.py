"""CLIP's vocabulary from a checkpoint, an installed package or the Hugging Face cache."""

from __future__ import annotations

import gzip
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers.models import BPE

from ldmref.errors import InputError
from ldmref.prompts.clip import END, LENGTH, START, WORD_END, Vocabulary, clip_tokenizer
from ldmref.prompts.text_checks import MAX_VALUES, check_id_table, check_lines, check_pieces
from ldmref.prompts.tokenizer import PromptTokenizer, errors_as_corrupt
from ldmref.prompts.words import load_word_tokenizer
from ldmref.support.files import check_input_path, count_values, read_file, read_json

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
PACKAGES = ("open_clip", "clip")
REPOSITORY = "models--openai--clip-vit-large-patch14"
MERGES = 49152 - 256 - 2  # number of lines that openai/CLIP reads from the file
MAX_BYTES = 64 * 2**20
MAX_MERGES = 8 * 2**20  # bytes of openai/CLIP's file, which has 3.2 million, unpacked
SOURCES = (
    "give the tokenizer folder of any Stable Diffusion checkpoint (vocab.json and merges.txt), or "
    "pip install open_clip_torch, or "
    "hf download openai/clip-vit-large-patch14 vocab.json merges.txt"
)


def load_tokenizer(
    source: str | Path | None = None,
    length: int = LENGTH,
    *,
    pad: int | None = None,
    text_clean: str = "none",
) -> PromptTokenizer:
    """Load the tokenizer of a folder or file.

    Args:
        source: As for `read_vocabulary`; a `tokenizer.json` may also hold a tokenizer of whole
            words, as in folders of ldmref. None: as for `read_vocabulary`.
        length: The sequence length of the text encoder.
        pad: As for `clip_tokenizer`. None: the token that the files name, otherwise the end
            token.
        text_clean: As for `clip_tokenizer`.

    Returns:
        The tokenizer; `tokenize(prompts)` returns ids and weights.

    Raises:
        InputError: No vocabulary was found; the hint names sources.
        CorruptModelError: A file is damaged.
        UsageError: `text_clean` is unknown, or no token has the id `pad`.
        BackendUnavailable: `text_clean="openai"` needs ftfy, which is not installed.

    >>> from ldmref.io import find_model
    >>> from ldmref.prompts import load_tokenizer
    >>> tokenizer = load_tokenizer(find_model("emoji") / "tokenizer.json", length=16)
    >>> tokenizer.tokenize(["a red heart"]).ids.shape
    (1, 1, 16)
    """
    if source is not None:
        source = check_input_path(source, "the path of a vocabulary", "E-TOKENIZER-FILES")
        if source.suffix == ".json" and not _is_bpe(source):
            return load_word_tokenizer(source, length)
    return clip_tokenizer(read_vocabulary(source), length, pad=pad, text_clean=text_clean)


def read_vocabulary(source: str | Path | None = None) -> Vocabulary:
    """Read CLIP's vocabulary.

    Args:
        source: A tokenizer folder (vocab.json and merges.txt, or tokenizer.json), a checkpoint
            folder that contains it as `tokenizer`, a tokenizer.json, or openai/CLIP's
            bpe_simple_vocab_16e6.txt.gz (also unpacked). None searches the installed packages
            open_clip and clip, then the Hugging Face cache (HF_HUB_CACHE, HF_HOME) for
            openai/clip-vit-large-patch14; nothing is imported or downloaded.

    Returns:
        The vocabulary, for `clip_tokenizer`.

    Raises:
        InputError: No vocabulary was found; the hint names sources.
        CorruptModelError: A file is damaged.

    >>> from ldmref.prompts import read_vocabulary
    >>> len(read_vocabulary("sd15/tokenizer").vocab)  # doctest: +SKIP
    49408
    """
    if source is None:
        source = next((path for path in _installed() if path.exists()), None)
        if source is None:
            message = "no CLIP vocabulary is installed here"
            raise InputError(message, code="E-TOKENIZER-FILES", hint=SOURCES)
    path = check_input_path(source, "the path of a vocabulary", "E-TOKENIZER-FILES")
    if path.is_file():
        return _read_json(path) if path.suffix == ".json" else _read_merges(path)
    for folder in (path, path / "tokenizer"):
        if _has_vocabulary(folder):
            return _read_folder(folder)
        if (folder / "tokenizer.json").is_file():
            return _read_json(folder / "tokenizer.json")
    hint = f"it should hold vocab.json and merges.txt, or tokenizer.json, or be {BPE_FILE}"
    message = f"no CLIP vocabulary in {str(source)!r}"
    raise InputError(message, code="E-TOKENIZER-FILES", hint=hint)


def _installed() -> Iterator[Path]:
    """Yield the paths at which a vocabulary may be installed."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder) / BPE_FILE
    for folder in sorted((hub_cache() / REPOSITORY / "snapshots").glob("*/")):
        yield folder / "tokenizer.json"
        if _has_vocabulary(folder):
            yield folder


def hub_cache() -> Path:
    """Return the cache folder of huggingface_hub.

    `~` is kept for users that do not exist.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")))


def _has_vocabulary(folder: Path) -> bool:
    return (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()


def _read_folder(folder: Path) -> Vocabulary:
    """Read vocab.json, merges.txt and, if present, added_tokens.json."""
    with errors_as_corrupt(f"vocab.json and merges.txt of {folder.name!r} are damaged"):
        files = [folder / "vocab.json", folder / "merges.txt"]
        data, lines = (read_file(file, MAX_BYTES, "E-TOKENIZER") for file in files)
        if count_values(data) > MAX_VALUES:
            raise ValueError(f"a vocabulary of more than {MAX_VALUES:,} values")
        check_lines(lines)
        vocab, merges = BPE.read_file(*map(str, files))
        check_pieces(vocab)
    added = folder / "added_tokens.json"
    with errors_as_corrupt(f"{added.name} is damaged"):
        words = _without(vocab, check_id_table(_load(added))) if added.is_file() else {}
    return Vocabulary(vocab, merges, words, _pad_token(folder))


def _read_json(path: Path) -> Vocabulary:
    """Read a tokenizer.json."""
    with errors_as_corrupt(f"{path.name} is not a CLIP tokenizer"):
        data = _load(path)
        vocab = check_id_table(data["model"]["vocab"])
        pairs = [m.split(" ") if isinstance(m, str) else m for m in data["model"]["merges"]]
        merges = [(str(left), str(right)) for left, right in pairs]
        added = check_id_table({t["content"]: t["id"] for t in data.get("added_tokens") or ()})
        pad = _pad_token(path.parent) or (data.get("padding") or {}).get("pad_token")
        if not isinstance(pad, str | None):
            raise ValueError(f"a padding token {pad!r:.80}")
    return Vocabulary(vocab, merges, _without(vocab, added), pad)


def _read_merges(path: Path) -> Vocabulary:
    """Read openai/CLIP's file: a comment line, then merges, whose order determines the ids."""
    with errors_as_corrupt(f"{path.name} is not a list of merges"):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            data = file.read(MAX_MERGES + 1)
        if len(data) > MAX_MERGES:
            raise ValueError(f"more than {MAX_MERGES:,} bytes")
        lines = check_lines(data).decode("utf-8").split("\n")[1 : MERGES + 1]
        merges = [(left, right) for left, right in (line.split() for line in lines if line.strip())]
        if not merges:
            raise ValueError("no merges")
    letters = byte_letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters), *map("".join, merges)]
    return Vocabulary({token: id for id, token in enumerate([*tokens, START, END])}, merges)


def byte_letters() -> list[str]:
    """Return a printable letter per byte, in CLIP's order: first the printable Latin-1 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in [*printable, *range(256, 512 - len(printable))]]


def _pad_token(folder: Path) -> str | None:
    """Return the padding token that the files next to a vocabulary name."""
    for path in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        data = _load(path) if path.is_file() else None
        token = data.get("pad_token") if isinstance(data, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None


def _is_bpe(path: Path) -> bool:
    """Whether a tokenizer.json is CLIP's."""
    data = _load(path)
    model = data.get("model") if isinstance(data, dict) else None
    return isinstance(model, dict) and model.get("end_of_word_suffix") == WORD_END


def _without(vocab: dict[str, int], added: dict[str, int]) -> dict[str, int]:
    """Return the added tokens that are not already in the vocabulary."""
    return {token: id for token, id in added.items() if vocab.get(token) != id}


def _load(path: Path) -> Any:
    with errors_as_corrupt(f"{path.name} is damaged"):
        return read_json(path, "E-TOKENIZER", MAX_VALUES)
