"""Models of Hugging Face: in the local cache and, only when asked for, fetched into it.

`owner/model` is a folder of diffusers, `owner/model/file.safetensors` one file; `@revision` after
either is a branch, a tag or a commit. Fetching is done by the package huggingface_hub.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from ldmref.errors import BackendUnavailable, InputError, LdmrefError
from ldmref.io.diffusers.folder import WEIGHTS, weight_names
from ldmref.io.diffusers.ldm import FOLDERS
from ldmref.prompts.clip_vocabulary import hub_cache

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
ENDING, INDEX = ".safetensors", "model_index.json"
TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer.json", "special_tokens_map.json",
    "tokenizer_config.json", "added_tokens.json", "vocab.txt",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a model is on Hugging Face; `file` is empty for a whole folder, `revision` for main."""

    repository: str
    file: str = ""
    revision: str = ""

    @property
    def folder(self) -> Path:
        """The repository's folder in the local cache."""
        return hub_cache() / f"models--{self.repository.replace('/', '--')}"


def parse(name: str) -> Place | None:
    """The place that a name means, or None where it cannot mean one.

    >>> parse("owner/model/v1-5.safetensors@fp16")
    Place(repository='owner/model', file='v1-5.safetensors', revision='fp16')
    """
    path, at, revision = name.partition("@")
    owner, _, rest = path.partition("/")
    model, _, file = rest.partition("/")
    parts = [owner, model, *(file.split("/") if file else ())]
    parts += revision.split("/") if at else []
    if ".." in name or not all(NAME.fullmatch(part) for part in parts):
        return None
    if path.endswith("/") or model.endswith(ENDING) or (file and not file.endswith(ENDING)):
        return None
    return Place(f"{owner}/{model}", file, revision)


def cached(place: Place) -> Path | None:
    """The folder or file in the local cache: of the revision, else of main, else the newest."""
    snapshots = place.folder / "snapshots"
    reference = place.folder / "refs" / (place.revision or "main")
    commit = reference.read_text("utf-8").strip() if reference.is_file() else place.revision
    found = [p for p in snapshots.glob("*") if (p / (place.file or INDEX)).is_file()]
    if place.revision:
        found = [p for p in found if p.name == commit]
    best = max(found, key=lambda p: (p.name == commit, p.stat().st_mtime), default=None)
    return best if best is None or not place.file else best / place.file


def fetch(place: Place, variant: str | None = None) -> Path:
    """The folder or file, fetched into the local cache as far as it is not there.

    Of a folder only what ldmref reads is fetched: configurations, tokenizers, and one set of
    safetensors weights per network, by the rule of `diffusers.weight_names`; pickles never. Where
    Hugging Face cannot be reached, what the cache holds is taken.

    Raises:
        BackendUnavailable: huggingface_hub is not installed.
        InputError: the model is not there, not open to you, holds nothing that is read, or cannot
            be reached.
    """
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise BackendUnavailable(
            "fetching a model needs huggingface_hub, which is not installed",
            code="E-FETCH",
            hint="pip install huggingface_hub",
        ) from error
    named = {"revision": place.revision} if place.revision else {}
    from_us = {"library_name": "ldmref", **named}
    what = place.repository + (f"@{place.revision}" if place.revision else "")
    try:
        if place.file:
            return Path(hub.hf_hub_download(place.repository, place.file, **from_us))
        told = hub.HfApi(library_name="ldmref").model_info(place.repository, **named)
        files = needed([sibling.rfilename for sibling in told.siblings or ()], what, variant)
        patterns = [escape(name) for name in files]
        return Path(hub.snapshot_download(place.repository, allow_patterns=patterns, **from_us))
    except LdmrefError:
        raise
    except errors.GatedRepoError as error:
        raise _refused(
            f"{what} is open only to those who accepted its terms",
            f"accept them on https://huggingface.co/{place.repository}, then hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _refused(
            f"Hugging Face has no model {place.repository}, or not for you",
            "check the name; for a private model: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise _refused(
            f"{place.repository} has no revision {place.revision!r}",
            f"its branches and tags: https://huggingface.co/{place.repository}",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(what, error) from error
    except errors.EntryNotFoundError as error:
        raise _refused(
            f"{what} has no file {place.file!r}",
            f"its files: https://huggingface.co/{place.repository}/tree/main",
        ) from error
    except Exception as error:  # each version of the package has other classes for a lost network
        found = cached(place)
        if found is None:
            raise _unreachable(what, error) from error
        return found


def needed(files: Sequence[str], repository: str, variant: str | None = None) -> list[str]:
    """Of a repository's files, those that make a folder of diffusers that ldmref reads.

    Raises:
        InputError: it holds no such folder, or weights only as pickles or in several variants.
    """
    if INDEX not in files:
        single = [name for name in files if name.endswith(ENDING) and "/" not in name]
        raise InputError(
            f"{repository} is no folder of diffusers: it has no {INDEX}",
            code="E-MODEL",
            hint=f"give one of its files: {', '.join(single[:5])}" if single else "",
        )
    inside: dict[str, list[str]] = {}
    for name in files:
        folder, _, rest = name.rpartition("/")
        inside.setdefault(folder, []).append(rest)
    wanted = [INDEX]
    for part, stem in WEIGHTS.items():
        for folder in (part, FOLDERS.get(part, part)):
            if "config.json" in inside.get(folder, ()):
                names = ["config.json", *weight_names(inside[folder], stem, folder, variant)]
                wanted += [f"{folder}/{name}" for name in names]
                break
    others = {"scheduler": ("scheduler_config.json",)}
    others |= dict.fromkeys(("tokenizer", "tokenizer_2"), TOKENIZER_FILES)
    for folder, names in others.items():
        wanted += [f"{folder}/{name}" for name in names if name in inside.get(folder, ())]
    return wanted


def _refused(what: str, hint: str) -> InputError:
    return InputError(what, code="E-FETCH", hint=hint)


def _unreachable(what: str, error: Exception) -> InputError:
    why = " ".join(str(error).split())[:150] or type(error).__name__
    return _refused(
        f"{what} cannot be fetched: {why}",
        "check the network and HF_HUB_OFFLINE; what is in the local cache needs no --fetch",
    )
