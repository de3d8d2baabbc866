"""Folders that are read again, and single files that are recognised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

import numpy as np

from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.io.native import save_folder
from ldmref.loading import load
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.models.family import SingleFile
from ldmref.models.model import LatentDiffusion
from ldmref.models.networks import model_spec
from ldmref.models.params import flatten, unflatten
from ldmref.testing.family.pipelines import each_pipeline, model_of
from ldmref.testing.family.report import Findings, shorten
from ldmref.testing.family.subject import Subject


def check_folders(subject: Subject, found: Findings) -> None:
    """Check that a folder has the configuration, the numbers and the tokens that were saved."""
    with found.about(""):
        for name in subject.require_small():
            with found.about(f"{name!r}"):
                for line in _save_and_load(subject, subject.model(name)):
                    found.problem(f"{name!r}: {line}")


def _save_and_load(subject: Subject, model: LatentDiffusion) -> Iterator[str]:
    """Save a model and load it; yield what is another."""
    folder = subject.place("model")
    tokenizers = model.tokenizers or [model.tokenizer]
    params = unflatten(flatten(model.params))
    save_folder(folder, model.config, params, tokenizers, np.float32)
    again = load(folder, backend="numpy")
    if again.config != model.config:
        yield "the folder has another configuration"
        return
    first, second = flatten(model.params), flatten(again.params)
    wrong = [name for name in first if not np.array_equal(first[name], second[name])]
    if wrong:
        yield f"the folder has other numbers in {shorten(wrong)}"
    prompts = subject.prompts(model.config)
    for i, pair in enumerate(zip(model.tokenizers, again.tokenizers, strict=True)):
        one, two = (tokenizer.encode(prompts)[0] for tokenizer in pair)
        if not np.array_equal(one, two):
            yield f"tokenizer {i + 1} of the folder makes other tokens"


def check_pipeline_folders(subject: Subject, found: Findings) -> None:
    """Check that the folder of a pipeline is a model of the family, which can be saved again."""
    for i, name, live in each_pipeline(subject, found):
        with found.about(name):
            model = model_of(subject, i)
            own = model.family is subject.family
            found.require(own, f"{name}: its folder is a model of {model.family.name!r}")
            kinds = [kind.__name__ for kind in type(live.pipeline).__mro__]
            listed = any(kind in subject.family.folders for kind in kinds)
            found.require(listed, f"{name} is none of the family's pipelines")
            for line in _save_and_load(subject, model):
                found.problem(f"{name}: {line}")


def check_files(subject: Subject, found: Findings) -> None:
    """Check that single files are recognised by names and shapes, and hold each parameter."""
    family = subject.family
    if not family.files:
        found.leave_out("the family declares no single files")
    recognised: dict[str, list[str]] = {}
    for number, file in enumerate(family.files):
        what = f"{file.description} ({number + 1})"
        recognised[what] = []
        for name, config in subject.presets.items():
            with found.about(f"{what} of {name!r}"):
                table = file.table(config)
                if not table:
                    continue
                for line in _broken_table(config, table):
                    found.problem(f"{what} of {name!r}: {line}")
                taken = recognise(subject, file, config)
                if taken is None:
                    continue
                if taken.denoiser == config.denoiser:
                    recognised[what].append(name)
                elif taken.name in family.presets:
                    found.leave_out(f"the file of {name!r} is equal to that of {taken.name!r}")
                else:
                    found.problem(
                        f"{what} of {name!r}: it is taken for {taken.name!r}, whose denoiser has "
                        f"another {shorten(differing_fields(taken.denoiser, config.denoiser))}"
                    )
        if file.recognise is None:
            found.leave_out(f"{what} is read with a configuration")
        elif not recognised[what] and subject.presets:
            found.problem(f"{what}: the file of no preset is recognised")
    for name, config in subject.small.items():
        for number, file in enumerate(family.files):
            with found.about(f"numbers of {file.description} ({number + 1}) of {name!r}"):
                for line in _lost_numbers(file, config):
                    found.problem(f"{file.description} of {name!r}: {line}")


def _broken_table(config: ModelConfig, table: Mapping[str, object]) -> Iterator[str]:
    """Yield the parameters of the denoiser that a table lacks, and those that it invents."""
    spec = flatten(model_spec(config)[config.denoiser.network])
    missing, more = [*spec.keys() - table.keys()], [*table.keys() - spec.keys()]
    if missing:
        yield f"the table lacks {shorten(sorted(missing))}"
    if more:
        yield f"the table has {shorten(sorted(more))}, which are no parameters"
    for name in spec.keys() & table.keys():
        shape = getattr(table[name], "shape", None)
        if shape is not None and tuple(shape) != tuple(spec[name]):
            yield f"{name} is {shape} in the table, {spec[name]} in the network"


def recognise(subject: Subject, file: SingleFile, config: ModelConfig) -> ModelConfig | None:
    """Return the model for which the file of a model is taken; None if it is refused."""
    if file.recognise is None:
        return None
    shapes = list_stored_shapes(file.table(config))
    found = file.recognise({**shapes, **subject.options.also_stored(config)})
    fits = found is not None and list_stored_shapes(file.table(found)) == shapes
    return found if fits else None


def differing_fields(one: DenoiserConfig, two: DenoiserConfig) -> list[str]:
    """Return the fields in which two configurations differ."""
    return [x.name for x in fields(one) if getattr(one, x.name) != getattr(two, x.name, None)]


def _lost_numbers(file: SingleFile, config: ModelConfig) -> Iterator[str]:
    """Yield the tensors of a file that are not the same after reading and writing."""
    table = file.table(config)
    shapes = list_stored_shapes(table)
    rng = np.random.default_rng(0)
    stored = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    again = to_compvis(to_native(stored, table), table)
    lost = [name for name in stored if not np.array_equal(stored[name], again[name])]
    if lost:
        yield f"reading and writing changes {shorten(lost)}"
