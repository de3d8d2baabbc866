"""`make_ledger`: two models, or one and a type, compared on runs of the first one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.errors import UsageError
from ldmref.io.checkpoint import Checkpoint, open_checkpoint
from ldmref.io.quantizing import (
    QuantizationRule,
    count_bits,
    quantize_in_memory,
    select_denoiser,
)
from ldmref.ledger.images import ImageMeter, generate, rms
from ldmref.ledger.outputs import OutputErrors, OutputObserver
from ldmref.ledger.rows import LedgerRow, QuantizationLedger
from ldmref.ledger.weights import ChangedWeights, relative, squared
from ldmref.loading import load_checkpoint, open_backend
from ldmref.models.model import LatentDiffusion
from ldmref.modes import plan as make_plan
from ldmref.modes.run import Plan

ShowProgress = Callable[[str], None]
PROMPT = "a red heart"


@dataclass(frozen=True)
class LedgerSettings:
    """The runs by which two models are compared.

    Args:
        prompts: The prompts of the runs; each gives an image.
        steps: The number of steps. None: the model's own.
        seed: The seed of the images.
        controls: The number of random perturbations for each error.
        layers: A pattern of the layers that are exchanged one at a time; "": none is. `*` stands
            for any characters.
        floor: The number format that the run's own is compared with.
        parameters: Further parameters of `modes.txt2img` by name, such as width. None: none.
    """

    prompts: tuple[str, ...] = (PROMPT,)
    steps: int | None = None
    seed: int = 0
    controls: int = 3
    layers: str = "*"
    floor: str = "float64"
    parameters: Any = None


def make_ledger(
    model: str | Path | Checkpoint,
    other: str | Path | Checkpoint | QuantizationRule,
    settings: LedgerSettings | None = None,
    *,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: ShowProgress | None = None,
) -> QuantizationLedger:
    """Compare a model with its quantised form: weights, outputs and images, layer by layer.

    The first model generates the images. Each of its layers is also computed with the other
    weights, on the same inputs; then the run is repeated with one layer exchanged at a time, and
    with all. Only the denoiser is compared.

    Args:
        model: The first model, as for `ldmref.load`, or an opened one.
        other: The second model, or a rule by which the first is quantised in memory.
        settings: What is run. None: one prompt, with the model's own steps.
        backend: The backend that computes. None: as for `ldmref.load`.
        device: Its device. None: as for `ldmref.load`.
        dtype: Its number format. None: as for `ldmref.load`.
        progress: Called with a line of text after each layer. None: nothing is called.

    Returns:
        The ledger.

    Raises:
        InputError: There is no such model, or it is damaged.
        UsageError: The models differ in other things than numbers, or a setting is wrong.
        ResourceError: See `ldmref.errors`.

    >>> from ldmref.io.quantizing import QuantizationRule
    >>> settings = LedgerSettings(steps=2, controls=1, layers="")
    >>> ledger = make_ledger("emoji", QuantizationRule("Q8_0"), settings)
    >>> len(ledger.rows), 0.001 < ledger.weights < 0.01
    (129, True)
    """
    first = model if isinstance(model, Checkpoint) else open_checkpoint(model)
    bench = _Bench(first, settings or LedgerSettings(), open_backend(backend, device, dtype))
    return bench.compare(other, progress or _ignore)


def make_ledgers(
    model: str | Path | Checkpoint,
    rules: Sequence[QuantizationRule],
    settings: LedgerSettings | None = None,
    *,
    backend: str | Backend | None = None,
    device: str | None = None,
    dtype: str | None = None,
    progress: ShowProgress | None = None,
) -> list[QuantizationLedger]:
    """Compare a model with several types of itself; the arguments are those of `make_ledger`.

    Args:
        model: The model.
        rules: The rules by which it is quantised in memory.
        settings: What is run. None: one prompt, with the model's own steps.
        backend: The backend that computes. None: as for `ldmref.load`.
        device: Its device. None: as for `ldmref.load`.
        dtype: Its number format. None: as for `ldmref.load`.
        progress: Called with a line of text. None: nothing is called.

    Returns:
        A ledger for each rule.

    >>> from ldmref.io.quantizing import QuantizationRule
    >>> settings = LedgerSettings(steps=1, controls=1, layers="")
    >>> rules = [QuantizationRule(name) for name in ("Q8_0", "Q2_K")]
    >>> better, worse = make_ledgers("emoji", rules, settings)
    >>> better.image < worse.image
    True
    """
    first = model if isinstance(model, Checkpoint) else open_checkpoint(model)
    bench = _Bench(first, settings or LedgerSettings(), open_backend(backend, device, dtype))
    return [bench.compare(rule, progress or _ignore) for rule in rules]


class _Bench:
    """The first model with its images, which are the same for every other one."""

    def __init__(self, first: Checkpoint, settings: LedgerSettings, ops: Backend):
        if settings.controls < 1 or not settings.prompts:
            what = "controls must be at least 1" if settings.prompts else "a prompt is needed"
            raise UsageError(what, code="E-LEDGER", hint="--controls 3, --prompt 'a red heart'")
        self.first = first
        self.settings = settings
        parameters = dict(settings.parameters or {})
        self.plan: Plan = make_plan(
            "txt2img",
            first.config,
            prompt=list(settings.prompts),
            steps=settings.steps,
            seed=settings.seed,
            **parameters,
        )
        self.floor = get_backend(ops.name, ops.device, settings.floor)
        if self.floor.dtype == ops.dtype:
            message = f"the floor of a run in {ops.dtype} needs another format"
            raise UsageError(message, code="E-LEDGER", hint="--floor float64 or bfloat16")
        self.seeds = tuple(range(settings.controls))
        self.model: LatentDiffusion = load_checkpoint(first, ops)
        self.meter = ImageMeter(self.plan.prepare(self.model))
        again = self.plan.prepare(load_checkpoint(first, self.floor))
        self.image_floor = rms(generate(again) - self.meter.images)

    def compare(
        self, other: str | Path | Checkpoint | QuantizationRule, progress: ShowProgress
    ) -> QuantizationLedger:
        """Return the ledger of another model or type."""
        tensors = select_denoiser(self.first)
        if isinstance(other, QuantizationRule):
            label, bits = other.type, count_bits(self.first.config, tensors, other)
            second = quantize_in_memory(self.first.config, tensors, other)
        else:
            opened = other if isinstance(other, Checkpoint) else self._open(other)
            label, bits = opened.path.name, None
            second = select_denoiser(opened)
        changed = ChangedWeights(tensors, second)
        progress(f"{label}: {len(changed)} of {len(tensors)} parameters differ")
        outputs = self._measure_outputs(changed)
        rows = [self._make_row(changed, name, outputs.get(name)) for name in changed]
        selected = [i for i, row in enumerate(rows) if fnmatchcase(row.layer, self.settings.layers)]
        names = list(changed)
        for done, i in enumerate(selected):
            rows[i] = self._with_image(rows[i], changed, names[i])
            progress(f"{label}: layer {done + 1} of {len(selected)}: {rows[i].layer}")
        return QuantizationLedger(
            self.first.config.name,
            label,
            bits,
            self._describe(),
            tuple(rows),
            changed.equal,
            _sum_errors(changed),
            self.meter.of_all(changed),
            tuple(self.meter.of_all_controls(changed, seed) for seed in self.seeds),
            self.image_floor,
        )

    def _open(self, other: str | Path) -> Checkpoint:
        """Open the second model; a file without a configuration has the first one's."""
        beside = self.first.path if self.first.path.is_dir() else None
        is_file = Path(other).is_file()
        return open_checkpoint(other, beside if is_file else None)

    def _measure_outputs(self, changed: ChangedWeights) -> dict[str, OutputErrors]:
        observer = OutputObserver(changed, self.seeds, self.floor)
        for _ in self.plan.prepare(self.model, observer).generate():
            pass
        return observer.backend.results()

    def _make_row(
        self, changed: ChangedWeights, name: str, outputs: OutputErrors | None
    ) -> LedgerRow:
        return LedgerRow(
            name.removesuffix(".weight"),
            int(np.prod(changed[name][0].shape)),
            changed.error(name),
            None if outputs is None else outputs.other,
            () if outputs is None else outputs.control,
            None if outputs is None else outputs.floor,
        )

    def _with_image(self, row: LedgerRow, changed: ChangedWeights, name: str) -> LedgerRow:
        control = tuple(self.meter.of_control(changed, name, seed) for seed in self.seeds)
        return replace(row, image=self.meter.of_layer(changed, name), image_control=control)

    def _describe(self) -> dict[str, Any]:
        """Return what was run, for JSON."""
        settings = asdict(self.settings) | {"steps": self.plan.job.steps}
        return settings | {"backend": self.model.backend.name, "dtype": self.model.backend.dtype}


def _sum_errors(changed: ChangedWeights) -> float:
    """Return the relative error of all weights that differ."""
    error = size = 0.0
    for first, second in changed.values():
        error += squared(second - first)
        size += squared(first)
    return relative(error, size)


def _ignore(line: str) -> None:
    """Take a line of progress, and do nothing."""
