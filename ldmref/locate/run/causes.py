"""Causes of a wrong array of a run that was followed: one change of what the run computes it from.

A change is another array of the run in its place, a number with another value, a step or a guidance
with another setting, or a parameter of the request or of the scheduler with another value. The last
ones are tried by making the run again; one that explains an array is tried on all others as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from ldmref.locate.law import choose_cause
from ldmref.locate.layouts import relative_error
from ldmref.locate.parts.guidance_faults import known_guidance_faults
from ldmref.locate.parts.hypotheses import ALIKE, fit, hypotheses
from ldmref.locate.parts.latent_faults import (
    clamp_of,
    decoding_faults,
    encoding_faults,
    unpacking_faults,
)
from ldmref.locate.parts.rules import PLAIN, GuidanceOfSteps, changed, other_guidances
from ldmref.locate.parts.scheduler_faults import (
    fit_shift,
    other_levels,
    other_tables,
    shift_levels,
)
from ldmref.locate.parts.size_faults import ImageSize, size_faults
from ldmref.locate.parts.text_faults import text_faults
from ldmref.locate.parts.token_faults import explain, mask_faults
from ldmref.locate.parts.visit import Visit
from ldmref.locate.precision import round_to
from ldmref.locate.run.calls import INPUT, OUTPUT, SCHEDULE, ArrayName
from ldmref.locate.run.changes import FittedChange, RunChange
from ldmref.locate.run.networks import exact_backend
from ldmref.locate.run.pieces import CHANNELS, ENCODED, LATENTS, POOLED, TEXT, WrongArray
from ldmref.locate.run.steps import TakenSteps
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.models.model import LatentDiffusion
from ldmref.ports.port import port_of
from ldmref.samplers.flow_spacings import shift_factor
from ldmref.samplers.guidances import Rescale
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.samplers.path import FLOW
from ldmref.trace.calls import CONSTRAIN, TraceCall
from ldmref.trace.model import Trace

FoundCause = tuple[str, float]
TriedArray = tuple[str, np.ndarray | None]
Computed = Mapping[ArrayName, np.ndarray]
NEAR = 24  # arrays before and after one that may have been taken in its place
TRIES = 2  # arrays for which the run is made again with changes, each of another kind
NOT_TEXTS = ("sample", "timestep")  # of networks
DECODER, MASK = "vae.decode", "mask"
FORMATS = ("float16", "bfloat16")
DECLARED_FIRST = (SCHEDULE, DECODER, "taesd.decode")  # whose numbers are declared
OTHER_HALF = {"cond": "uncond", "uncond": "cond"}
TIMES = ("timestep", "timesteps", "time", "target", "target_timestep")


@dataclass
class SeenParts:
    """The visits of a run that was followed.

    Attributes:
        guidances: The visits of guidance, by call.
        steps: Those of steps, by batch.
        timesteps: The number of timesteps of training.
        tokens: The number of tokens of an image.
        size: Width and height of an image.
    """

    guidances: dict[str, Visit] = field(default_factory=dict)
    steps: list[TakenSteps] = field(default_factory=list)
    timesteps: int = 1000
    tokens: int = 0
    size: ImageSize | None = None

    def visit_of(self, call: TraceCall, port: Trace) -> Visit | None:
        """Return the guidance that follows a call of the denoiser; None: it is not known."""
        of_kind = [name for name in port.calls if TraceCall(name).kind == call.kind]
        visits = [*self.guidances.values()]
        known = call.network and len(of_kind) == len(visits)
        return visits[call.number] if known and 0 <= call.number < len(visits) else None

    @property
    def is_guided(self) -> bool:
        """Whether networks read the negative prompt in the first half of a batch."""
        return any({"uncond", "cond"} <= {*visit.arrays} for visit in self.guidances.values())


@dataclass
class RunCauses:
    """Finds causes.

    Attributes:
        port: The recorded run.
        model: The model that ran.
        parts: The visits of the run.
        changes: The changes with which it may be made again.
        numbers: Numbers with which it may be made again.
        again: Makes it again with a change, up to an array or to its end, and returns what it
            computed.
        as_recorded: Returns what a run computes by the names of the recorded arrays.
        own_name: Returns the name that the run has for a recorded array. None: it is of several.
    """

    port: Trace
    model: LatentDiffusion
    parts: SeenParts
    changes: Sequence[RunChange]
    numbers: Sequence[FittedChange]
    again: Callable[[RunChange, ArrayName | None], Computed]
    as_recorded: Callable[[Computed], Computed] = lambda computed: computed
    own_name: Callable[[ArrayName], ArrayName | None] = lambda name: name
    _made: dict[str, RunChange] = field(default_factory=dict)
    _explained: dict[str, Computed] = field(default_factory=dict)
    _tried: set[tuple[str, str, str]] = field(default_factory=set)

    def find(
        self, wrong: WrongArray, computed: Computed, error: float, allowed: float
    ) -> FoundCause | None:
        """Return the cause of a wrong array, and the error that it leaves; None: it is not found.

        Args:
            wrong: The array.
            computed: What the run computed.
            error: The error without a cause.
            allowed: The largest error that is rounding.
        """
        name, right = wrong.name, wrong.right
        kind = name.call.kind
        explained = ((words, run.get(name)) for words, run in self._explained.items())
        tiers: list[Iterable[TriedArray]] = [explained]
        if wrong.got.shape == right.shape:
            tiers.append(self._of_visits(name, wrong.got))
        tiers.append(self._of_latents(wrong))
        if kind in DECLARED_FIRST:
            tiers += self._of_runs(name)
        if kind == SCHEDULE:
            tiers.append(self._of_schedule(name, wrong.got))
        if name.call.network and "mask" in name.role and right.ndim == 2:
            tiers.append(mask_faults(right.astype(np.int64)))
        tiers.append(self._of_arrays(wrong, computed))
        return _of_ids(wrong) or choose_first(tiers, wrong, error, allowed)

    def find_by_runs(self, wrong: WrongArray, error: float, allowed: float) -> FoundCause | None:
        """Return the change of the run that explains an array, as `find` does.

        A number is another one, whatever made it.
        """
        if not wrong.got.size or not wrong.right.size:
            return None
        got, right = (np.asarray(x, np.float64) for x in (wrong.got, wrong.right))
        if right.size == got.size == 1:
            return f"{wrong.words} {got.item():.6g} instead of {right.item():.6g}", 0.0
        if got.ndim and np.ptp(got) == 0.0 and np.ptp(right) == 0.0:
            return f"{wrong.words} {got.flat[0]:.6g} instead of {right.flat[0]:.6g}", 0.0
        return choose_first(self._of_runs(wrong.name), wrong, error, allowed)

    def _of_runs(self, name: ArrayName) -> list[Iterable[TriedArray]]:
        """Return what the run computes with each change, and then with each number fitted.

        [] if that was tried of an array of this kind, or of several arrays.
        """
        kind = (name.call.kind, name.side, name.role)
        own = self.own_name(name)
        if own is None or kind in self._tried or len(self._tried) == TRIES:
            return []
        self._tried.add(kind)
        changed = ((x.words, self._changed(x, name, own)) for x in self.changes)
        fits = (self._fitted(number, name, own) for number in self.numbers)
        return [changed, chain.from_iterable(fits)]

    def _changed(self, change: RunChange, name: ArrayName, own: ArrayName) -> np.ndarray | None:
        return self.as_recorded(self.again(change, own)).get(name)

    def _fitted(
        self, number: FittedChange, name: ArrayName, own: ArrayName
    ) -> Iterator[TriedArray]:
        """Yield what the run computes with a number that is fitted to what was recorded."""
        got = name.tensor_in(self.port)

        def at(value: float) -> np.ndarray | None:
            found = self._changed(number.at(number.read(value)), name, own)
            same = found is not None and got is not None and found.shape == got.shape
            return np.asarray(found, np.float64) if same else None

        start = number.read(number.right)
        value = None if got is None else fit(at, start, np.asarray(got, np.float64))
        if value is not None and not math.isclose(value, start, rel_tol=ALIKE):
            words = f"{number.words} {number.read(value):.5g} instead of {number.right:g}"
            self._made[words] = number.at(number.read(value))
            yield words, at(value)

    def _of_visits(self, name: ArrayName, got: np.ndarray) -> Iterator[TriedArray]:
        """Yield what the guidance or the step computes with one of its settings changed."""
        own = self.own_name(name)
        if own is None:
            return
        call = own.call
        if call.kind == COMBINE.call and own.side == OUTPUT and call in self.parts.guidances:
            for words, make in self._of_guidance(call, got):
                yield words, self._recorded(name, own, make())
        elif call.kind == STEP.call:
            steps = next((steps for steps in self.parts.steps if steps.has(call)), None)
            if steps is not None:
                for words, arrays in steps.alternatives.items():
                    if own in arrays:
                        yield words, self._recorded(name, own, arrays[own])
                yield from steps.noises(own, got)

    def _of_schedule(self, name: ArrayName, got: np.ndarray) -> Iterator[TriedArray]:
        """Yield other levels, times and tables of noise."""
        steps = self.parts.steps[0] if self.parts.steps else None
        own = self.own_name(name)
        if steps is None or own is None:
            return
        config, schedule = steps.config, steps.schedule
        others = [*other_levels(config, schedule, self.parts.tokens)]
        found: list[tuple[str, np.ndarray]] = []
        if own.role == "alphas_cumprod":
            found = [*other_tables(config)]
        elif own.role == "sigmas":
            found = [(words, other.sigmas) for words, other in others]
            if got.ndim == 1:
                shift = fit_shift(got, schedule.sigmas)
                words = f"sigma shift {shift:.5g}"
                if schedule.path is FLOW:
                    factor = shift_factor(config, self.parts.tokens, len(schedule.timesteps))
                    words = f"shift {factor * shift:.5g} instead of {factor:.5g}"
                found.append((words, shift_levels(schedule.sigmas, shift)))
            found.append(("the last sigma is missing", schedule.sigmas[:-1]))
            if got.ndim == 1 and got.size:
                last, right = float(got[-1]), float(schedule.sigmas[-1])
                ended = np.append(schedule.sigmas[:-1], last)
                found.append((f"the last sigma is {last:.4g} instead of {right:.4g}", ended))
        elif own.role == "timesteps":
            found = [(words, other.timesteps) for words, other in others]
            words = "the timesteps are truncated to whole numbers"
            found.append((words, np.floor(schedule.timesteps)))
            found.append(("the timesteps are in increasing order", schedule.timesteps[::-1]))
        for words, x in found:
            yield words, self._recorded(name, own, x)

    def _of_guidance(self, call: str, got: np.ndarray) -> Iterator[Any]:
        visits = self.parts.guidances
        order = [*visits]
        i = order.index(call)
        visit = visits[call]
        if isinstance(visit.rule, GuidanceOfSteps):
            visit = visit.rule.visited(visit)
        if visit.rule.name in PLAIN:  # without phi, guidance rescale is classifier-free
            visit = replace(visit, rule=changed(Rescale(), phi=0.0))
        before = visits[order[i - 1]] if i else None
        after = visits[order[i + 1]] if i + 1 < len(order) else None
        rules = other_guidances(visit.rule)
        causes = hypotheses(visit, np.asarray(got, np.float64), before, after, rules)
        yield from chain(known_guidance_faults(visit), causes)

    def _recorded(self, name: ArrayName, own: ArrayName, x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else self.as_recorded({own: x}).get(name)

    def _of_latents(self, wrong: WrongArray) -> Iterator[TriedArray]:
        """Yield latents that lead to an autoencoder, or come from one, with known faults."""
        own = self.own_name(wrong.name) or wrong.name
        right = np.asarray(wrong.right)
        if right.ndim != 4:
            return
        yield from clamp_of(wrong.got, right)
        if own.call.kind == DECODER and own.side == INPUT:
            yield from decoding_faults(self.scale, right)
            if port_of(self.model.family).unpack is not None:
                yield from unpacking_faults(right)
        if wrong.words in ENCODED:
            yield from encoding_faults(self.scale, right)
        if (wrong.channels is not None and wrong.words != LATENTS) or wrong.words == MASK:
            what = wrong.words.removeprefix(CHANNELS.format(""))
            yield f"the {what} is inverted", 1.0 - right if what == "mask" else -right
            yield f"the {what} is zero", np.zeros_like(right)
            yield f"the {what} is one", np.ones_like(right)

    @cached_property
    def scale(self) -> LatentScale:
        """How the latents of the model follow from those of its encoder, in float64."""
        return self.model.latent_scale(exact_backend())

    def _of_arrays(self, wrong: WrongArray, computed: Computed) -> Iterator[TriedArray]:
        """Yield other arrays of the run in its place, and the right one times a declared number."""
        name, right, call = wrong.name, wrong.right, wrong.name.call
        yield from self._of_end(name, computed)
        yield from self._of_texts_alone(name, computed)
        yield from _of_neighbours(name, computed)
        if call.network and right.size:
            yield from self._of_size(wrong)
        if call.kind == COMBINE.call and name.role in OTHER_HALF:
            other = computed.get(name._replace(role=OTHER_HALF[name.role]))
            if other is not None:
                yield "the halves of the batch are exchanged", other
        if right.size > 1 and np.ptp(right):
            if call.network and name.role not in NOT_TEXTS and self.parts.is_guided:
                yield f"the {wrong.words} is zero", np.zeros_like(right)
                yield from _halves(right)
            if wrong.words in (TEXT, POOLED):
                yield from text_faults(self.model.config, right)
            if call.network:
                yield from _rows(wrong)
            yield from self._others(name, right, computed)
        elif name.role in TIMES and np.isfinite(right).all():
            yield from self._of_time(name, np.asarray(right, np.float64))
        if right.dtype.kind == "f":
            yield from self._of_factors(name, right)

    def _of_end(self, name: ArrayName, computed: Computed) -> Iterator[TriedArray]:
        """Yield the time of a step instead of that to which it leads."""
        inputs = self.model.denoiser.inputs
        ends = {x.role for x in inputs if x.content == "ends"}
        times = (x.role for x in inputs if x.argument == "t")
        if name.call.kind == self.model.denoiser.name and name.role in ends:
            for role in times:
                own = computed.get(name._replace(role=role))
                yield "the time to which the step leads is its own", own

    def _of_texts_alone(self, name: ArrayName, computed: Computed) -> Iterator[TriedArray]:
        """Yield what follows from the longest text of a call, from each text alone."""
        denoiser, together = self.model.denoiser, self.model.family.text.together
        inputs = (*denoiser.inputs, *denoiser.optional)
        argument = next((x.argument for x in inputs if x.role == name.role), "")
        masks = (x.role for x in inputs if x.argument == "mask")
        mask = computed.get(name._replace(role=next(masks, "")))
        if together is None or mask is None or name.call.kind != denoiser.name:
            return
        ops = exact_backend()
        if argument in together(ops, 1, 1):
            counts = np.count_nonzero(mask, axis=1)
            alone = [np.asarray(together(ops, 1, int(count))[argument]) for count in counts]
            yield "each row is that of its text alone", np.concatenate(alone)

    def _of_size(self, wrong: WrongArray) -> Iterator[TriedArray]:
        """Yield what the family makes of another size of the image."""
        denoiser = self.model.denoiser
        inputs = (x for x in (*denoiser.inputs, *denoiser.optional) if x.role == wrong.name.role)
        argument = next((x.argument for x in inputs if x.content != "mask"), None)
        if wrong.name.call.kind == denoiser.name and argument is not None and self.parts.size:
            yield from size_faults(self.model, argument, self.parts.size, len(wrong.right))

    def _of_factors(self, name: ArrayName, right: np.ndarray) -> Iterator[TriedArray]:
        """Yield an array without a factor of the run, and with the factor twice."""
        own = self.own_name(name) or name
        call = own.call
        first = next((visit for steps in self.parts.steps for visit in steps.visits), None)
        if first is not None and own == ArrayName(f"{first.call}/", INPUT, "x"):
            scale = self.parts.steps[0].schedule.init_noise_sigma
            for factor in dict.fromkeys((scale, first.interval.sigma)):
                yield "the scale of the initial noise is missing (init_noise_sigma)", right / factor
                yield "the noise is scaled twice", right * factor
        visit = self.parts.visit_of(call, self.port)
        if own.role in ("sample", "x") and visit is not None:
            sigma = visit.inputs["path"].ratio(visit.inputs["sigma"])
            scale = math.hypot(1.0, sigma)
            yield "the scaling of the input is missing (scale_model_input)", right * scale
            yield "the input is scaled twice", right / scale
            yield "the input is divided by sigma", right * scale / max(sigma, 1e-9)

    def _others(
        self, name: ArrayName, right: np.ndarray, computed: Computed
    ) -> Iterator[TriedArray]:
        """Yield arrays of the same shape that the run has computed before, the nearest first."""
        order = [*computed]
        i = order.index(name)
        for other in order[max(i - NEAR, 0) : i][::-1]:
            x = other.tensor_in(self.port)
            if x is not None and x.shape == right.shape and x.dtype.kind == right.dtype.kind:
                side = "" if other.role == other.side else f" {other.role}"
                words = f"{other.entry.rstrip('/')} {other.side}{side} in its place"
                unkept = other._replace(entry=name.entry) == name and name.entry.endswith(CONSTRAIN)
                yield "the known part is not put back" if unkept else words, x

    def _of_time(self, name: ArrayName, right: np.ndarray) -> Iterator[TriedArray]:
        """Yield other times of the network."""
        words = "the " + name.role.replace("_", " ")
        total = float(self.parts.timesteps)
        yield f"{words} is scaled by {total:g}", total * right
        yield f"{words} is scaled by 1/{total:g}", right / total
        yield f"{words} is larger by 1", right + 1.0
        yield f"{words} is smaller by 1", right - 1.0
        yield f"{words} t is {total:g} - t", total - right
        yield f"{words} is truncated to a whole number", np.floor(right)
        for dtype in FORMATS:
            yield f"{words} is rounded to {dtype}", round_to(right, dtype)
            yield (
                f"{words} / {total:g} is rounded to {dtype}",
                total * round_to(right / total, dtype),
            )
        yield "the number of the step", np.full_like(right, float(name.call.number))

    def remember(self, words: str) -> None:
        """Make the whole run again with a change that explained an array."""
        known = self._made | {change.words: change for change in self.changes}
        change = known.get(words)
        if change is not None and words not in self._explained:
            self._explained[words] = self.as_recorded(self.again(change, None))


def choose_first(
    tiers: Iterable[Iterable[TriedArray]], wrong: WrongArray, error: float, allowed: float
) -> FoundCause | None:
    """Return the cause of the first group that has one; None if none has."""
    found = (choose(tier, wrong, error, allowed) for tier in tiers)
    return next((x for x in found if x is not None), None)


def choose(
    tried: Iterable[TriedArray], wrong: WrongArray, error: float, allowed: float
) -> FoundCause | None:
    """Return the cause that explains an error, and what it leaves; None if none does."""
    known = ((words, wrong.take(x)) for words, x in tried if x is not None)
    left = ((words, relative_error(wrong.got, x)) for words, x in known if x.dtype.kind != "c")
    return choose_cause(left, error, allowed)


def _of_ids(wrong: WrongArray) -> FoundCause | None:
    """Return what is wrong with whole numbers, as a tokenizer returns them."""
    got, right = wrong.got, wrong.right
    mask = "mask" in wrong.name.role
    if mask or right.dtype.kind not in "iu" or got.shape != right.shape or right.ndim < 2:
        return None
    n = right.shape[-1]
    rows = zip(got.reshape(-1, n), right.reshape(-1, n), strict=True)
    text = next((explain(x, y, "")[0] for x, y in rows if not np.array_equal(x, y)), "")
    return (text, 0.0) if text else None


def _of_neighbours(name: ArrayName, computed: Computed) -> Iterator[TriedArray]:
    """Yield the same array of the calls before and after."""
    call = name.call
    of_time = name.role in TIMES
    neighbours = {-1: "the call before", 1: "the call after"}
    if of_time:
        neighbours = {-1: "the previous step", 1: "the next step"}
    for distance, words in neighbours.items():
        other = computed.get(name._replace(entry=f"{call.kind}.{call.number + distance:03}/"))
        if other is not None:
            yield f"{f'the {name.role}' if of_time else 'that'} of {words}", other


def _halves(right: np.ndarray) -> Iterator[TriedArray]:
    """Yield the rows of a text in another order of prompts and negative prompts."""
    n = len(right) // 2
    if len(right) != 2 * n:
        return
    negative, positive = right[:n], right[n:]
    yield "prompt and negative prompt are exchanged", np.concatenate([positive, negative])
    yield "both halves are those of the prompt", np.concatenate([positive, positive])
    yield "both halves are those of the negative prompt", np.concatenate([negative, negative])


def _rows(wrong: WrongArray) -> Iterator[TriedArray]:
    """Yield the rows of a batch, each with what is nearest to it in the recorded one."""
    right, got = np.asarray(wrong.right, np.float64), wrong.got
    if got.shape != right.shape or right.ndim < 2 or len(right) < 2 or not np.isfinite(got).all():
        return
    distances = [[float(np.abs(x - y).sum()) for y in right] for x in got.astype(np.float64)]
    order = [int(np.argmin(row)) for row in distances]
    if order != [*range(len(order))]:
        yield "rows of prompts are exchanged", right[order]
