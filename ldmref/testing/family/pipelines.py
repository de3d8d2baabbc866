"""A live pipeline of another program: nothing found, a wrong layer named, the same images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends.named import AGAIN
from ldmref.loading import load
from ldmref.locate import DiffReport, Row, diff_traces
from ldmref.models.model import LatentDiffusion
from ldmref.testing.family.oracles import LivePipeline
from ldmref.testing.family.report import Findings, shorten
from ldmref.testing.family.runs import WITHIN, pixels_of
from ldmref.testing.family.subject import Subject, require
from ldmref.trace.recording import recording

WRONG = 1.01, 0.01  # a wrong layer returns a x + b
WRONG_LAYERS = 3


def each_pipeline(subject: Subject, found: Findings) -> Iterator[tuple[int, str, LivePipeline]]:
    """Yield the pipelines with their number and name, in a context that collects errors."""
    if not subject.options.pipelines:
        found.leave_out("none was given (pipelines=)")
    for i, live in enumerate(subject.options.pipelines):
        yield i, type(live.pipeline).__name__, live


def folder_of(subject: Subject, i: int) -> Path:
    """Return the folder of a pipeline's model."""
    live = subject.options.pipelines[i]

    def save() -> Path:
        folder = subject.place("pipeline")
        live.pipeline.save_pretrained(folder)
        return folder

    return Path(live.folder) if live.folder is not None else subject.keep(("folder", i), save)


def model_of(subject: Subject, i: int, backend: str = "numpy") -> LatentDiffusion:
    """Return the model of a pipeline in float32."""
    folder = folder_of(subject, i)
    return subject.keep(("model", i, backend), lambda: load(folder, backend=backend))


def diff(subject: Subject, i: int) -> DiffReport:
    """Run a pipeline, record it and return what ldmref finds."""
    live = subject.options.pipelines[i]
    with recording(live.pipeline) as run:
        live.run(live.pipeline)
    return diff_traces(run.trace, model_of(subject, i))


def check_live(subject: Subject, found: Findings) -> None:
    """Check that nothing is found in a live pipeline, and that all it computes is compared."""
    for i, name, live in each_pipeline(subject, found):
        with found.about(name):
            require("torch")
            report = subject.keep(("diff", i), lambda i=i: diff(subject, i))
            for row in report.faults[:3]:
                cause = f": {row.cause}" if row.cause else f" by {row.error:.1e}"
                found.problem(f"{name}: {row.name} ({row.kind}) differs{cause}")
            if len(report.faults) > 3:
                found.problem(f"{name}: {len(report.faults) - 3} further rows differ")
            found.require(report.counts()["equal"] > 0, f"{name}: nothing was compared")
            note = found.problem if live.whole else found.leave_out
            for gap in report.gaps:
                note(f"{name}: {gap}")
            unknown = [f"{row.name} ({row.kind})" for row in report.rows if is_unknown(row)]
            if unknown:
                note(f"{name}: not judged: {shorten(unknown)}")


def is_unknown(row: Row) -> bool:
    """Return whether a row was not judged."""
    return row.verdict == "not judged"


def check_wrong_layers(subject: Subject, found: Findings) -> None:
    """Check that a layer of a live pipeline that is made wrong is named, and no other one."""
    for i, name, live in each_pipeline(subject, found):
        with found.about(name):
            require("torch")
            report = subject.keep(("diff", i), lambda i=i: diff(subject, i))
            network = model_of(subject, i).config.denoiser.network
            module = getattr(live.pipeline, network)
            layers = comparable_layers(report, network, module)
            found.require(bool(layers), f"{name}: no layer of {network} was compared")
            for layer in spread(layers, WRONG_LAYERS):
                named = _faults_of_wrong(subject, i, module.get_submodule(layer))
                found.require(
                    named == {layer},
                    f"{name}: the layer {layer} was made wrong, and named were "
                    f"{shorten(sorted(named)) if named else 'none'}",
                )


def spread(names: list[str], count: int) -> list[str]:
    """Return names from the first to the last, evenly spread.

    >>> spread(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    numbers = np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)
    return [names[i] for i in numbers]


def comparable_layers(report: DiffReport, network: str, module: Any) -> list[str]:
    """Return the layers of the first call that are equal and have weights, in their order."""
    modules = [pair for pair in module.named_modules() if pair[0]]  # the network itself is no layer
    known = {name for name, part in modules if [*part.parameters(recurse=False)]}
    calls = [row.call for row in report.rows if row.call.rpartition(".")[0] == network]
    return [
        row.layer
        for row in report.rows
        if row.call in calls[:1] and row.kind == "own" and row.verdict == "equal"
        if row.layer in known
    ]


def _faults_of_wrong(subject: Subject, i: int, layer: Any) -> set[str]:
    """Return the layers that are named while one returns something else."""
    factor, shift = WRONG

    def change(module: object, args: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return (factor * output[0] + shift, *output[1:])
        return factor * output + shift

    hook = layer.register_forward_hook(change)
    try:
        return {
            row.layer.partition(AGAIN)[0] for row in diff(subject, i).faults
        }  # of all its calls
    finally:
        hook.remove()


def check_pipeline_images(subject: Subject, found: Findings) -> None:
    """Check that ldmref generates a pipeline's image on every backend, within 1/255."""
    for i, name, live in each_pipeline(subject, found):
        if live.request is None:
            found.leave_out(f"{name}: no request was given (LivePipeline.request)")
            continue
        with found.about(name):
            want = pixels_of(live.image(live.run(live.pipeline)))
            for backend, missing in {"numpy": "", **subject.backends}.items():
                if missing:
                    found.leave_out(f"{name} on {backend}: {missing}")
                    continue
                with found.about(f"{name} on {backend}"):
                    model = model_of(subject, i, backend)
                    got = subject.generate(model, live.mode, live.request).images[0]
                    _compare_images(pixels_of(got), want, f"{name} on {backend}", found)


def _compare_images(got: np.ndarray, want: np.ndarray, what: str, found: Findings) -> None:
    if got.shape != want.shape:
        found.problem(f"{what}: the image is {got.shape}, the pipeline's {want.shape}")
        return
    off = int(np.abs(got - want).max())
    found.require(off <= WITHIN, f"{what}: the image is {off}/255 away from the pipeline's")
