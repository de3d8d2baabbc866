"""Models on Hugging Face: in the local cache and, only on request, downloaded into it.

`owner/model` is a diffusers folder, `owner/model/file.safetensors` or `.gguf` a single file;
`@revision` at the end of either is a branch, a tag or a commit. Downloading uses the package
huggingface_hub.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from ldmref.errors import BackendUnavailable, InputError, LdmrefError
from ldmref.io.diffusers.folder import (
    INDICES,
    get_weight_stem,
    list_parts,
    select_weight_names,
)
from ldmref.io.diffusers.ldm import FOLDERS
from ldmref.models.config import TOKENIZERS
from ldmref.prompts.clip_vocabulary import hub_cache
from ldmref.support.files import open_file

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
ENDINGS = (".safetensors", ".gguf")
TOKENIZER_FILES = """
    vocab.json merges.txt tokenizer.json special_tokens_map.json tokenizer_config.json
    added_tokens.json vocab.txt spiece.model
""".split()
MAX_REF = 1000  # bytes; it holds a commit
SITE = "https://huggingface.co/"
# Error of huggingface_hub -> message and hint; the first match counts.
REFUSALS = {
    "GatedRepoError": ("{name} is open only to those who accepted its terms",
                       "accept them on {url}, then hf auth login"),
    "RepositoryNotFoundError": ("Hugging Face has no model {repository}, or it is private",
                                "check the name; for a private model: hf auth login"),
    "RevisionNotFoundError": ("{repository} has no revision {revision!r}",
                              "its branches and tags: {url}"),
    "LocalEntryNotFoundError": (
        "{name} cannot be fetched: {reason}",
        "check the network and HF_HUB_OFFLINE; models in the local cache do not need --fetch"),
    "EntryNotFoundError": ("{name} has no file {file!r}", "its files: {url}/tree/main"),
}  # fmt: skip


@dataclass(frozen=True)
class HubReference:
    """A model on Hugging Face; `file` is "" for a whole folder, `revision` "" for main."""

    repository: str
    file: str = ""
    revision: str = ""

    @property
    def folder(self) -> Path:
        """The repository's folder in the local cache."""
        return hub_cache() / f"models--{self.repository.replace('/', '--')}"

    @property
    def name(self) -> str:
        """Repository and revision."""
        return self.repository + (f"@{self.revision}" if self.revision else "")


def parse_reference(name: str) -> HubReference | None:
    """Parse the name of a model on Hugging Face; None if it cannot be one.

    >>> parse_reference("owner/model/v1-5.safetensors@fp16")
    HubReference(repository='owner/model', file='v1-5.safetensors', revision='fp16')
    """
    path, at, revision = name.partition("@")
    owner, _, rest = path.partition("/")
    model, _, file = rest.partition("/")
    parts = [owner, model, *(file.split("/") if file else ())]
    parts += revision.split("/") if at else []
    if ".." in name or not all(NAME.fullmatch(part) for part in parts):
        return None
    if path.endswith("/") or model.endswith(ENDINGS) or (file and not file.endswith(ENDINGS)):
        return None
    return HubReference(f"{owner}/{model}", file, revision)


def find_cached(reference: HubReference) -> Path | None:
    """Find the folder or file in the local cache; None if the cache does not contain it.

    Without a revision, main is preferred, then the newest one.
    """
    wanted = (reference.file,) if reference.file else INDICES
    ref = reference.folder / "refs" / (reference.revision or "main")
    commit = reference.revision
    if ref.is_file():
        with open_file(ref) as file:
            commit = file.read(MAX_REF).decode("ascii", "replace").strip()
    snapshots = [
        path
        for path in (reference.folder / "snapshots").glob("*")
        if any((path / name).is_file() for name in wanted)
        and (path.name == commit or not reference.revision)
    ]
    best = max(snapshots, key=lambda p: (p.name == commit, p.stat().st_mtime), default=None)
    return best if best is None or not reference.file else best / reference.file


def fetch(reference: HubReference, variant: str | None = None) -> Path:
    """Download a folder or file into the local cache, unless it is there, and return its path.

    From a folder, only the files that ldmref reads are downloaded: configurations, tokenizers, and
    one set of safetensors weights per network (`diffusers.folder.select_weight_names`); never
    pickles. If Hugging Face cannot be reached, the cache is used.

    Raises:
        BackendUnavailable: huggingface_hub is not installed.
        InputError: The model does not exist, is not accessible, holds nothing that ldmref reads, or
            cannot be reached.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        errors = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise BackendUnavailable(
            "fetching a model needs huggingface_hub, which is not installed",
            code="E-FETCH",
            hint="pip install huggingface_hub",
        ) from error
    revision = {"revision": reference.revision} if reference.revision else {}
    options = {"library_name": "ldmref", **revision}
    repository = reference.repository
    try:
        if reference.file:
            return Path(hub.hf_hub_download(repository, reference.file, **options))
        info = hub.HfApi(library_name="ldmref").model_info(repository, **revision)
        names = [sibling.rfilename for sibling in info.siblings or ()]
        patterns = [escape(name) for name in select_files(names, reference.name, variant)]
        return Path(hub.snapshot_download(repository, allow_patterns=patterns, **options))
    except LdmrefError:
        raise
    except Exception as error:  # each version of the package has other classes for a lost network
        kinds = [kind for kind in REFUSALS if isinstance(error, getattr(errors, kind))]
        path = None if kinds else find_cached(reference)
        if path is not None:
            return path
        message, hint = REFUSALS[kinds[0] if kinds else "LocalEntryNotFoundError"]
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        values = {"name": reference.name, "url": SITE + repository, "reason": reason}
        values |= vars(reference)
        raise InputError(
            message.format(**values), code="E-FETCH", hint=hint.format(**values)
        ) from error


def select_files(files: Sequence[str], repository: str, variant: str | None = None) -> list[str]:
    """Select the files of a repository that ldmref reads from a diffusers folder.

    Raises:
        InputError: It is not such a folder, or its weights are pickles or have several variants.
    """
    indices = [name for name in INDICES if name in files]
    if not indices:
        single = [name for name in files if name.endswith(ENDINGS) and "/" not in name]
        raise InputError(
            f"{repository} is not a diffusers folder: it has no {INDICES[0]}",
            code="E-MODEL",
            hint=f"give one of its files: {', '.join(single[:5])}" if single else "",
        )
    inside: dict[str, list[str]] = {}
    for name in files:
        folder, _, rest = name.rpartition("/")
        inside.setdefault(folder, []).append(rest)
    wanted = indices
    for part in list_parts():
        stem = get_weight_stem(part)
        for folder in (part, FOLDERS.get(part, part)):
            if "config.json" in inside.get(folder, ()):
                names = ["config.json", *select_weight_names(inside[folder], stem, folder, variant)]
                wanted += [f"{folder}/{name}" for name in names]
                break
    others = {"scheduler": ("scheduler_config.json",)}
    others |= dict.fromkeys(TOKENIZERS, TOKENIZER_FILES)
    for folder, names in others.items():
        wanted += [f"{folder}/{name}" for name in names if name in inside.get(folder, ())]
    return wanted
