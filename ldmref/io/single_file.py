"""Single files, in the layouts that families declare: which one a file has, compared once.

A user may name the configuration: a preset, a config.json, or the folder of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UsageError, did_you_mean
from ldmref.io.diffusers.folder import DiffusersFolder
from ldmref.io.embedded import EMBEDDED, open_embedded
from ldmref.io.identify import SUPPORTED, refuse_foreign, refuse_variant
from ldmref.io.key_report import KeyReport
from ldmref.io.key_table import KeyEntry, find_matching, fit, list_stored_shapes, to_native
from ldmref.io.locate import NATIVE_INDEX, is_diffusers, is_model
from ldmref.io.native import NativeFolder, read_config
from ldmref.io.stored_model import OpeningOptions, StoredModel
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.open_file import open_model_file
from ldmref.io.tensors.safetensors import TensorView
from ldmref.io.tensors.wrappers import unwrap_file
from ldmref.io.tokenizers import find_tokenizers
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.family import Averages, SingleFile, family_of, list_families
from ldmref.models.networks import model_spec
from ldmref.models.presets import PRESETS, list_presets
from ldmref.models.validate import check_fields
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.support.files import check_input_path

OTHER_SIZES = (
    "for other sizes give config= (--model-config) with a preset or a folder with a configuration"
)


@dataclass(frozen=True)
class SingleCheckpoint(StoredModel):
    """A single file, compared with a layout and a configuration.

    Attributes:
        path: The path of the file.
        file: The file.
        layout: The layout.
        config: The configuration.
        view: The tensors under the names of `table`.
        table: The tensor of the file for each parameter of the networks that it holds.
        fixed: Parameters of these networks that no file holds, with their values.
        report: The comparison of names and shapes.
        averaged: Whether averages are read; None if the file holds none.
        warnings: A warning about the choice of the weights, if nobody made it.
        described: Names of tensors that say something of the configuration.
        beside: The folder of a model whose configuration the user chose, which has the networks
            that the file lacks; or one that may have tokenizers. None: there is neither.
        certain: Whether the user chose the configuration.
    """

    path: Path
    file: ModelFile
    layout: SingleFile
    config: ModelConfig
    view: ModelFile | TensorView = field(repr=False)
    table: Mapping[str, KeyEntry] = field(repr=False)
    fixed: Mapping[str, np.ndarray] = field(repr=False)
    report: KeyReport = field(repr=False)
    averaged: bool | None = None
    warnings: Sequence[str] = ()
    described: Sequence[str] = ()
    beside: NativeFolder | DiffusersFolder | Path | None = None
    certain: bool = False

    @classmethod
    def is_at(cls, path: Path) -> bool:
        return path.is_file()

    @classmethod
    def open(cls, path: Path, options: OpeningOptions) -> SingleCheckpoint:
        file = open_model_file(path)
        if options.config is None:
            found = recognise_file(file, ema=options.ema)
            return replace(found, warnings=[*found.warnings, *file.warnings])
        config, beside = find_named_config(options.config)
        found = recognise_file(file, config, options.ema)
        warnings = [*found.warnings, *file.warnings]
        return replace(found, beside=beside, certain=True, warnings=warnings)

    @property
    def networks(self) -> set[str]:
        """The networks that the file holds, or the folder beside it."""
        held = {name.partition(".")[0] for name in (*self.table, *self.fixed)}
        return held if self._others is None else held | {*self._others.networks}

    @property
    def _others(self) -> NativeFolder | DiffusersFolder | None:
        """The folder with other networks."""
        beside = None if isinstance(self.beside, Path) else self.beside
        return beside if beside is not None and beside.has_weights else None

    @property
    def unused(self) -> list[str]:
        """The names of the tensors that the model does not use."""
        return [name for name in self.report.ignored if name not in self.described]

    @property
    def digest(self) -> Callable[[], str]:
        return self.file.sha256

    def read(self) -> dict[str, np.ndarray]:
        tensors = {**to_native(self.view, self.table), **self.fixed}
        missing = tuple(f"{name}." for name in list_missing(tensors, self.config))
        if missing and self._others is not None:
            others = self._others.read()
            tensors |= {name: x for name, x in others.items() if name.startswith(missing)}
        return tensors

    def load_tokenizers(
        self, config: ModelConfig, vocabulary: str | Path | None
    ) -> list[PromptTokenizer]:
        if vocabulary is None and isinstance(self._others, NativeFolder):
            return self._others.load_tokenizers(config, None)
        beside = self.beside
        place = beside if beside is None or isinstance(beside, Path) else beside.path
        return find_tokenizers(config, place, vocabulary)


def recognise_file(
    file: ModelFile, config: ModelConfig | None = None, ema: bool | None = None
) -> SingleCheckpoint:
    """Find the layout and the configuration that a file fits.

    Args:
        file: The file.
        config: The configuration that it must fit. None: the family's, by names and shapes.
        ema: Whether to read the averaged weights. None: if the file has no other weights, or if
            the family is sampled with them, the set is complete and training updated it.

    Returns:
        The file with its layout and its configuration, completed by what the file says of it.

    Raises:
        KeyMismatchError: It fits none; the message lists the tensors that are missing, unexpected
            or misshapen.
        CorruptModelError: Its shapes or numbers are impossible.
        UsageError: `config` is of a family without single files; `ema` is True, and the file has no
            averages; or it fits several models, which differ in what the network predicts.
    """
    file = unwrap_file(file)
    found = _recognise(file, ema) if config is None else _compare_given(file, config, ema)
    if not found.report.fits:
        _refuse(found, config, ema)
    refined, described = found.layout.refine(file, found.config, config is not None)
    return replace(found, config=refined, described=described)


def _recognise(file: ModelFile, ema: bool | None) -> SingleCheckpoint:
    """Compare a file with the first layout that knows it, else with the nearest of whole models."""
    known = _find_part(file)
    if known is not None:
        return compare_file(file, *known, ema)
    nearest = []
    for family in list_families():
        for layout in family.files:
            found = _recognise_by(layout, file) if layout.whole else None
            if found is not None:
                nearest.append(compare_file(file, layout, found, ema))
    fitting = (one for one in nearest if one.report.fits)
    return next(fitting, max(nearest, key=lambda one: one.report.likeness))


def _recognise_by(layout: SingleFile, file: ModelFile) -> ModelConfig | None:
    """Return the configuration by which a layout knows a file; None if it does not."""
    return None if layout.recognise is None else layout.recognise(_rename(file, layout).shapes)


def _find_part(file: ModelFile) -> tuple[SingleFile, ModelConfig] | None:
    """Return the first layout that knows a file and may lack networks, and the configuration by it.

    Raises:
        CorruptModelError: The configuration is impossible.
    """
    for family in list_families():
        for layout in family.files:
            found = None if layout.whole else _recognise_by(layout, file)
            if found is not None:
                _require_possible(file, layout, found)
                return layout, found
    return None


def _compare_given(file: ModelFile, config: ModelConfig, ema: bool | None) -> SingleCheckpoint:
    """Compare a file with a configuration, in the nearest layout of its family.

    Raises:
        KeyMismatchError: No layout applies.
        UsageError: The family has no single files.
    """
    family = family_of(config)
    if not family.files:
        raise UsageError(
            f"models of the family {family.name!r} are folders, not single files",
            code="E-MODEL",
            hint="give the folder",
        )
    layouts = [x for x in family.files if x.applies(_rename(file, x).shapes)]
    compared = [compare_file(file, layout, config, ema) for layout in layouts]
    if not compared:
        refuse_foreign(file.path.name, file.shapes)
        message = f"{file.path.name} is not a {config.name!r} model"
        raise KeyMismatchError(message, code="E-KEYS", hint=_explain_misfit(file, config))
    return max(compared, key=lambda one: one.report.likeness)


def compare_file(
    file: ModelFile, layout: SingleFile, config: ModelConfig, ema: bool | None = None
) -> SingleCheckpoint:
    """Compare names and shapes of a file with a layout and a configuration.

    Args:
        file: The file.
        layout: The layout.
        config: The configuration.
        ema: Whether to compare the averages instead of the last weights; as for `recognise_file`.

    Returns:
        The comparison, whose report tells whether the file fits.

    Raises:
        UsageError: `ema` is True, and the file has no averages.
    """
    view = _rename(file, layout)
    table: dict[str, KeyEntry] = {}
    fixed: dict[str, np.ndarray] = {}
    networks = {config.denoiser.network: layout.table(config), **layout.others(config)}
    for network, entries in networks.items():
        stored = {name: x for name, x in entries.items() if isinstance(x, KeyEntry)}
        needed = layout.whole or network == config.denoiser.network
        if needed or any(entry.name in view.shapes for entry in stored.values()):
            table |= {f"{network}.{name}": entry for name, entry in stored.items()}
            values = {name: x for name, x in entries.items() if name not in stored}
            fixed |= {f"{network}.{name}": value for name, value in values.items()}
    pattern = "|".join(filter(None, (layout.ignored, layout.unneeded(config))))
    ignorable = find_matching(pattern, view.shapes)
    report = fit(view.shapes, table, ignorable, file.squeezed)
    compared = SingleCheckpoint(file.path, file, layout, config, view, table, fixed, report)
    if layout.averages is not None and _list_averages(compared, layout.averages):
        return _choose_weights(compared, layout.averages, ema)
    if ema:
        raise UsageError(
            f"{file.path.name} holds no averaged weights (model_ema.*)",
            code="E-EMA",
            hint="leave out ema=True (--ema): its only weights are then read",
        )
    return compared


def _choose_weights(
    last: SingleCheckpoint, averages: Averages, ema: bool | None
) -> SingleCheckpoint:
    """Return a file with its averages, or with its last weights.

    Args:
        last: The file, compared by its last weights.
        averages: How its averages are named.
        ema: Whether to read them. None: as for `recognise_file`.
    """
    if ema is False:
        return replace(last, averaged=False)
    shapes = last.view.shapes
    table = averages.table(last.table)
    weights = {*list_stored_shapes(last.table)}
    unread = {*last.report.ignored} - _list_averages(last, averages) | weights
    report = fit(shapes, table, unread, last.file.squeezed)
    mean = replace(last, table=table, report=report, averaged=True)
    if ema:
        return mean
    replaced = weights - {*list_stored_shapes(table)}
    alone = not any(name in shapes for name in replaced)
    usual = averages.usual(last.config, last.view) and mean.report.fits
    selected = mean if alone or usual else replace(last, averaged=False)
    return replace(selected, warnings=[_describe_choice(selected, mean.report.fits)])


def _list_averages(compared: SingleCheckpoint, averages: Averages) -> set[str]:
    """Return the names of the averages in a file; numbers of the training do not count."""
    return find_matching(averages.pattern, compared.view.shapes) - {*averages.counters}


def _describe_choice(selected: SingleCheckpoint, complete: bool) -> str:
    """Return a warning that a file holds averages, with the default choice."""
    what = "averaged weights" if complete else "an incomplete set of averaged weights"
    read, other = "last weights", ": --ema (ema=True) reads the averages"
    if selected.averaged:
        read, other = "averages", ": --no-ema (ema=False) reads the last weights"
    hint = other if complete else ""
    return f"{selected.file.path.name} also holds {what}; the {read} are read{hint}"


def _rename(file: ModelFile, layout: SingleFile) -> ModelFile | TensorView:
    """Return the tensors of a file under the names of a layout."""
    return file if layout.rename is str else TensorView([file], layout.rename)


# -- messages -------------------------------------------------------------------------------------


def _refuse(found: SingleCheckpoint, wanted: ModelConfig | None, ema: bool | None) -> None:
    """Refuse a file that does not fit the layout and the configuration which are nearest.

    Raises:
        KeyMismatchError: The message says what the file is, or lists the problems.
    """
    name = found.file.path.name
    shapes = found.view.shapes
    report = found.report
    whole = found.layout.whole
    hints = ["ema=False (--no-ema) reads the weights without their averages"] if ema else []
    if wanted is not None:
        explained = _explain_misfit(found.file, wanted)
        refuse_variant(name, shapes)
        if whole or 2 * report.shared < len(shapes):
            refuse_foreign(name, shapes)
        hint = "".join(hints) if whole else explained
        report.require(f"{name} is not a {wanted.name!r} model", hint)
    refuse_variant(name, shapes)
    if not whole:
        report.require(f"{name} looks like {found.layout.description}, and differs", OTHER_SIZES)
    refuse_foreign(name, shapes)
    if not report.shared:
        raise KeyMismatchError(
            f"{name} is not a model: none of its {len(shapes)} tensors has a known name "
            f"({', '.join(sorted(shapes)[:3])[:200]})",
            code="E-KEYS",
            hint=SUPPORTED,
        )
    hints.insert(0, OTHER_SIZES)
    nearest = f"{name} fits no known family; nearest is {found.config.name!r}"
    report.require(nearest, hint="; ".join(hints))


def _require_possible(file: ModelFile, layout: SingleFile, found: ModelConfig) -> None:
    """Refuse a file whose shapes no network of its family has, before any table is made of it.

    Raises:
        CorruptModelError: They are out of range, such as tens of thousands of blocks.
    """
    try:
        check_fields(found.denoiser, found.denoiser.network)
    except CorruptModelError as error:
        message = f"{file.path.name} looks like {layout.description}, and cannot be it: {error}"
        raise CorruptModelError(message, code="E-KEYS", hint=error.hint) from error


def _explain_misfit(file: ModelFile, config: ModelConfig) -> str:
    """Return which published model a file is that does not fit a configuration of its family.

    Raises:
        KeyMismatchError: The file is of another family.
    """
    known = _find_part(file)
    if known is None:
        return ""
    layout, found = known
    family = family_of(found)
    if family is not family_of(config):
        raise KeyMismatchError(
            f"{file.path.name} is {layout.description}, and {config.name!r} is of another kind",
            code="E-KEYS",
            hint="config= (--model-config) takes a folder or preset of the same kind",
        )
    if found.name not in family.presets or not compare_file(file, layout, found).report.fits:
        return ""
    return f"it is a {found.name!r} model: give the folder of one as config= (--model-config)"


def require_text_encoders(name: str, tensors: Iterable[str], config: ModelConfig) -> None:
    """Refuse a single file without the text encoders of its model.

    Raises:
        UsageError: It has none, or not all; the message names the autoencoder as well.
    """
    tensors = list(tensors)
    missing = list_missing(tensors, config)
    texts = dict(zip(TEXT_ENCODERS, config.text_encoders, strict=False))
    without = {network: texts[network] for network in missing if network in texts}
    if without:
        parts = describe_texts(without) + (", vae" if "vae" in missing else "")
        also = ", and the autoencoder: vae= (--vae)" if "vae" in missing else ""
        raise UsageError(
            f"{_describe_missing(name, tensors, config)} {parts}",
            code="E-MODEL",
            hint=f"give a file of each text encoder: text_encoders= (--text-encoder){also}; or the "
            "folder of a model that has them: config= (--model-config)",
        )


def describe_texts(texts: Mapping[str, TextConfig]) -> str:
    """Return the text encoders of a model in words.

    >>> from ldmref.models import preset
    >>> describe_texts({"text_encoder": preset("sd15").text_encoder})
    'text_encoder (clip, 12 layers of width 768)'
    """
    return ", ".join(
        f"{name} ({x.model_type}, {x.num_hidden_layers} layers of width {x.hidden_size})"
        for name, x in texts.items()
    )


def require_autoencoder(name: str, tensors: Iterable[str], config: ModelConfig) -> None:
    """Refuse a model without an autoencoder, its own or another one.

    Raises:
        UsageError: It has none.
    """
    if "vae" in list_missing(tensors, config):
        raise UsageError(
            f"{_describe_missing(name, tensors, config)} an autoencoder",
            code="E-VAE",
            hint="give the autoencoder that it was trained with: vae= (--vae)",
        )


def list_missing(tensors: Iterable[str], config: ModelConfig) -> list[str]:
    """Return the networks of a model that its tensors lack."""
    present = {key.partition(".")[0] for key in tensors}
    return [part for part, spec in model_spec(config).items() if spec and part not in present]


def _describe_missing(name: str, tensors: Iterable[str], config: ModelConfig) -> str:
    alone = all(key.partition(".")[0] == config.denoiser.network for key in tensors)
    return f"{name} holds the denoiser alone, without" if alone else f"{name} is without"


def find_named_config(
    name: str | Path,
) -> tuple[ModelConfig, NativeFolder | DiffusersFolder | Path | None]:
    """Read the configuration of a folder or config.json, or return a preset.

    The folder of a model stands for itself, even with the name of a preset, such as `flux-dev`: the
    networks that a single file lacks are read from it as well. So does the embedded model.

    Returns:
        The configuration, and the folder: of a model, or one that may hold tokenizers.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = check_input_path(name, "the name of a configuration", "E-CONFIG")
    if name in EMBEDDED:
        embedded = open_embedded(str(name))
        return embedded.config, embedded
    if is_model(path):
        folder = DiffusersFolder(path) if is_diffusers(path) else NativeFolder(path)
        return folder.config, folder
    presets = PRESETS if str(name) in PRESETS else list_presets()
    if str(name) in presets:
        return presets[str(name)], path if path.is_dir() else None
    file = path if path.suffix == ".json" else path / NATIVE_INDEX
    if not file.is_file():
        hint = did_you_mean(str(name), list_presets())
        raise InputError(f"no configuration {str(name)!r}", code="E-CONFIG", hint=hint)
    return read_config(file), None
