"""How every training begins: checked early, its images read, its folder locked and labelled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

from ldmref.errors import UsageError, counted
from ldmref.io.atomic import atomic_write
from ldmref.prompts.text_checks import is_text
from ldmref.training.checkpoint import DataSummary, read_headers
from ldmref.training.data import Dataset, check_data, load_dataset
from ldmref.training.folder import check_folder, training_folder
from ldmref.training.progress import WARNING
from ldmref.training.recipe_file import AnyRecipe, to_toml
from ldmref.training.resume import changed_data, changed_settings, require_unchanged


def check_early(recipe: AnyRecipe, folder: Path, accept_changes: bool) -> None:
    """Refuse what can be refused before images and libraries are loaded.

    Raises:
        UsageError: the folder was trained with other settings, or a path is no text.
        InputError: no images, captions that cannot be read, or a damaged checkpoint.
        OutputError: the folder cannot be written.
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
    recipe: AnyRecipe, say: Callable[[str], None], cancel: Event | None = None
) -> Dataset:
    """The images of a recipe; says how many there are, and what was left out.

    Raises:
        InputError: they cannot be read.
        Cancelled: `cancel` was set before all of them were read.
    """
    data = load_dataset(recipe.data, cancel)
    for line in data.warnings:
        say(WARNING + line)
    say(f"{counted(len(data.images), 'image')} of {recipe.data.size}x{recipe.data.size}")
    return data


@contextlib.contextmanager
def prepared_folder(
    recipe: AnyRecipe,
    folder: Path,
    summary: DataSummary,
    say: Callable[[str], None],
    accept_changes: bool,
) -> Iterator[bool]:
    """The folder, locked, with the recipe in it; yields whether settings or images changed.

    Raises:
        UsageError: they changed, and that is not accepted.
        OutputError: the folder cannot be written, or is in use.
    """
    from ldmref.training.distributed import on_first_rank, rank

    with training_folder(folder) if rank() == 0 else contextlib.nullcontext():
        headers = read_headers(folder)
        changes = changed_settings(headers, recipe) or changed_data(headers, recipe, summary)
        if not accept_changes:
            require_unchanged(changes, folder)
        for change in changes:
            say(f"changed: {change}")
        on_first_rank(_write_recipe, folder, recipe)
        yield bool(changes)


def _write_recipe(folder: Path, recipe: AnyRecipe) -> None:
    with atomic_write(folder / "recipe.toml", overwrite=True) as file:
        file.write(to_toml(recipe).encode("utf-8", "backslashreplace"))
