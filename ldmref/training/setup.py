"""The start of every training: early checks, the images, the device's dtype, the locked folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from ldmref.datasets.base import Dataset
from ldmref.datasets.config import DataSummary
from ldmref.datasets.loading import check_data, load_dataset
from ldmref.errors import OutputError, UsageError, abbreviated, counted
from ldmref.io.atomic import atomic_write
from ldmref.models.params import flatten
from ldmref.prompts.text_checks import is_text
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.support.files import not_a_file
from ldmref.training.checkpoint import Header, TrainingSettings, read_headers
from ldmref.training.classes import learns_classes
from ldmref.training.monitor.progress import WARNING
from ldmref.training.recipes.file import AnyRecipe, to_toml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def check_early(recipe: AnyRecipe, folder: Path, accept_changes: bool) -> None:
    """Refuse what can be refused before images and libraries are loaded.

    Raises:
        UsageError: The folder was trained with other settings, or a path is not text.
        InputError: There are no images, captions cannot be read, or a checkpoint is damaged.
        OutputError: The folder cannot be written.
    """
    check_folder(folder)
    for path in (str(folder), recipe.data.source):
        if not is_text(path):
            message = f"the path {path!r} is not valid Unicode, and so cannot be recorded"
            raise UsageError(message, code="E-FOLDER", hint="rename it")
    if not accept_changes:
        require_unchanged(changed_settings(read_headers(folder), recipe), folder)
    check_data(recipe.data)


def read_images(
    recipe: AnyRecipe, log: Callable[[str], None], cancel: Event | None = None
) -> Dataset:
    """Return the images of a recipe; log how many there are, and what was left out.

    Raises:
        InputError: They cannot be read.
        Cancelled: `cancel` was set before all of them were read.
    """
    data = load_dataset(recipe.data, cancel)
    for line in data.warnings:
        log(WARNING + line)
    log(f"{counted(len(data.images), 'image')} of {recipe.data.size}x{recipe.data.size}")
    return data


def warn_about_unknown_words(
    data: Dataset, tokenizer: PromptTokenizer, log: Callable[[str], None]
) -> None:
    """Log the words of captions that are not in the vocabulary; training ignores them."""
    unknown: set[str] = set()
    for caption in set(data.vocabulary()):
        encoding = tokenizer.tokenizer.encode(caption, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        unknown |= {caption[start:end] for id, (start, end) in pairs if id == tokenizer.unknown}
    if unknown:
        words = abbreviated(sorted(unknown))
        log(f"{WARNING}words of the captions that the model does not know: {words}")


# -- the dtype ------------------------------------------------------------------------------------


def activation_dtype(dtype: str, device: str) -> str:
    """Return the dtype of activations.

    For "auto" it is bfloat16 if the device multiplies in bfloat16, otherwise float32: other
    processors emulate bfloat16, at a fraction of the speed of float32.
    """
    if dtype != "auto":
        return dtype
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def multiplies_bfloat16(device: str) -> bool:
    """Return whether the device multiplies in bfloat16 without emulating it."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in PyTorch 2.6
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


# -- the folder -----------------------------------------------------------------------------------


@contextlib.contextmanager
def prepared_folder(
    recipe: AnyRecipe,
    folder: Path,
    summary: DataSummary,
    log: Callable[[str], None],
    accept_changes: bool,
) -> Iterator[bool]:
    """Lock the folder and write the recipe into it; yield whether settings or images changed.

    Raises:
        UsageError: They changed, and `accept_changes` is False.
        OutputError: The folder cannot be written, or is in use.
    """
    from ldmref.training.distributed import on_first_rank, rank

    with training_folder(folder) if rank() == 0 else contextlib.nullcontext():
        headers = read_headers(folder)
        changes = changed_settings(headers, recipe) or changed_data(headers, recipe, summary)
        if not accept_changes:
            require_unchanged(changes, folder)
        for change in changes:
            log(f"changed: {change}")
        on_first_rank(_write_recipe, folder, recipe)
        yield bool(changes)


def _write_recipe(folder: Path, recipe: AnyRecipe) -> None:
    with atomic_write(folder / "recipe.toml", overwrite=True) as file:
        file.write(to_toml(recipe).encode("utf-8", "backslashreplace"))


def check_folder(folder: Path) -> None:
    """Check that a folder can be made and written to, before anything is computed.

    Raises:
        OutputError: It is a file, or the first existing folder above it is not writable.
    """
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    if not existing.is_dir():
        raise OutputError(f"{str(existing)!r} is not a folder", code="E-WRITE")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {str(existing)!r}", code="E-WRITE")


@contextlib.contextmanager
def training_folder(folder: Path) -> Iterator[None]:
    """Make the folder, and lock it for one training.

    Leftovers of interrupted writing are removed. The lock ends with the process.

    Raises:
        OutputError: It cannot be made, another training uses it, or it contains a pipe or a device,
            from which a read would never return.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make the folder {str(folder)!r}: {error.strerror}"
        raise OutputError(message, code="E-WRITE") from error
    for path in folder.iterdir():
        if problem := not_a_file(path) if path.exists() and not path.is_dir() else "":
            raise OutputError(f"{str(path)!r} {problem}", code="E-WRITE", hint="give another -o")
    with _lock(folder):
        _remove_temporaries(folder)
        yield


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        message = f"another training is using {str(folder)!r}"
        raise OutputError(message, code="E-IN-USE", hint="give another -o") from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def _remove_temporaries(folder: Path) -> None:
    """Remove the files and folders that `atomic_write` and `atomic_folder` name .NAME.XXXX.part."""
    for path in folder.glob(".*.????????.part"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# -- resuming --------------------------------------------------------------------------------------


ADAPTER = ("method", "lora.", "textual_inversion.", "full.", "distill.")
FIRST = ("seed", "dtype", "data.size", "data.flips", "data.crop", "features.")
DEPENDS_ON = {
    "features": FIRST,
    "autoencoder": (*FIRST, "model.vae.", "autoencoder."),
    "diffusion": (*FIRST, "model.", "autoencoder.", "diffusion.", *ADAPTER),
    "classifier": (*FIRST, "model.vae.", "model.scheduler.", "autoencoder.", "classifier."),
}
FREE = ("model.name", "model.defaults.")  # derived, or of no effect
DERIVED = ".sample_size"  # of the denoiser, from the size of the images


def changed_settings(headers: Mapping[str, Header], recipe: AnyRecipe) -> list[str]:
    """Return "key was 1, now 2" for each changed setting that a checkpoint depends on."""
    changes = {}
    for stage, header in headers.items():
        old = _settings(stage, header.agreed.recipe)
        new = _settings(stage, recipe)
        changes |= {
            k: f"{k} was {old.get(k)!r}, now {v!r}" for k, v in new.items() if old.get(k) != v
        }
    if changes:  # the images are not read yet, so their folder is compared
        agreed = {stage: header.agreed for stage, header in headers.items()}
        changes |= {stage: _data(s, recipe) for stage, s in agreed.items() if _moved(s, recipe)}
    return list(dict.fromkeys(changes.values()))


def changed_data(headers: Mapping[str, Header], recipe: AnyRecipe, data: DataSummary) -> list[str]:
    """Return the same for images and captions, and for classes if a stage learns them."""
    images = replace(data, base="", classes="")
    agreed = {stage: header.agreed for stage, header in headers.items()}
    changed = [s for s in agreed.values() if replace(s.data, base="", classes="") != images]
    bases = {settings.data.base for settings in agreed.values()} - {data.base}
    lines = [f"base was {_base(base)}, now {_base(data.base)}" for base in sorted(bases)]
    learned = {s.data.classes for stage, s in agreed.items() if learns_classes(stage, s.recipe)}
    if learned - {data.classes}:
        lines.append("the classes of the images have changed")
    return [*lines, *dict.fromkeys(_data(settings, recipe, data) for settings in changed)]


def require_unchanged(changes: list[str], folder: object) -> None:
    """Refuse to continue with other settings.

    Raises:
        UsageError: There are changes; the message names each with both values.
    """
    if changes:
        raise UsageError(
            f"{str(folder)!r} was trained with other settings: {'; '.join(changes)}",
            code="E-RESUME-CHANGED",
            hint="repeat the old settings to resume, give another -o to start anew, or add "
            "--accept-changes to continue with the new ones",
        )


def _settings(stage: str, recipe: AnyRecipe) -> dict[str, Any]:
    free = (*FREE, f"{stage}.budget.", f"{stage}.optimizer.shard")
    settings = flatten(recipe.to_dict())
    return {
        key: value
        for key, value in settings.items()
        if key.startswith(DEPENDS_ON[stage]) and not key.startswith(free)
        if not key.endswith(DERIVED)
        if (key, value) != ("dtype", "auto")
    }


def _base(sha256: str) -> str:
    return f"a model (sha256 {sha256[:8]})"


def _moved(settings: TrainingSettings, recipe: AnyRecipe) -> bool:
    return settings.recipe.data.source != recipe.data.source


def _data(settings: TrainingSettings, recipe: AnyRecipe, data: DataSummary | None = None) -> str:
    old = settings.recipe.data.source
    now = f"now {recipe.data.source!r}"
    if data is not None:
        now += f" with {counted(data.images, 'image')} (sha256 {data.sha256[:8]})"
    return (
        f"data.source was {old!r} with {counted(settings.data.images, 'image')} "
        f"(sha256 {settings.data.sha256[:8]}), {now}"
    )
