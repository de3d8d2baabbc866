"""Other arrays that may be in the place of one of a run: with known faults, or of the same run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ldmref.locate.parts.latent_faults import (
    clamp_of,
    decoding_faults,
    encoding_faults,
    unpacking_faults,
)
from ldmref.locate.parts.size_faults import size_faults
from ldmref.locate.parts.text_faults import text_faults
from ldmref.locate.recorded.layouts import find_order_of_rows
from ldmref.locate.recorded.precision import round_to
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.locate.run.networks import exact_backend
from ldmref.locate.run.pieces import CHANNELS, ENCODED, LATENTS, POOLED, TEXT, WrongArray
from ldmref.locate.run.steps import SeenParts
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.models.clip import pool_end_token
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.model import LatentDiffusion
from ldmref.ports.port import port_of
from ldmref.samplers.parts import COMBINE
from ldmref.trace.calls import CONSTRAIN
from ldmref.trace.model import Trace

TriedArray = tuple[str, np.ndarray | None]
Computed = Mapping[ArrayName, np.ndarray]
NEAR = 24  # arrays before and after one that may have been taken in its place
NOT_TEXTS = ("sample", "timestep")  # of networks
DECODER, MASK = "vae.decode", "mask"
FORMATS = ("float16", "bfloat16")
OTHER_HALF = {"cond": "uncond", "uncond": "cond"}
TIMES = ("timestep", "timesteps", "time", "target", "target_timestep")


@dataclass
class OtherArrays:
    """Makes other arrays in the place of one of a run, each with the words of its cause.

    Attributes:
        port: The recorded run.
        model: The model that ran.
        parts: The visits of the run.
        own_name: Returns the name that the run has for a recorded array. None: it is of several.
    """

    port: Trace
    model: LatentDiffusion
    parts: SeenParts
    own_name: Callable[[ArrayName], ArrayName | None]

    def of_latents(self, wrong: WrongArray) -> Iterator[TriedArray]:
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

    def of_place(self, wrong: WrongArray, computed: Computed) -> Iterator[TriedArray]:
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
                verb = "are" if wrong.words == LATENTS else "is"
                yield f"the {wrong.words} {verb} zero", np.zeros_like(right)
                yield from self._of_halves(wrong, computed)
            if wrong.words in (TEXT, POOLED):
                yield from text_faults(self.model.config, right)
            yield from self._of_pooled(wrong)
            yield from self._of_rows(wrong, computed)
            yield from self._others(name, right, computed)
        elif name.role in TIMES and np.isfinite(right).all():
            yield from self._of_time(name, np.asarray(right, np.float64))
        if right.dtype.kind == "f":
            yield from self._of_factors(name, right)

    def _of_halves(self, wrong: WrongArray, computed: Computed) -> Iterator[TriedArray]:
        """Yield the rows of a text in another order of prompts and negative prompts."""
        n = len(wrong.right) // 2
        if len(wrong.right) != 2 * n or wrong.got.shape != wrong.right.shape:
            return
        negative, positive = [*range(n)], [*range(n, 2 * n)]
        kept = self._kept_tokens(wrong, computed)
        for words, order in (
            ("prompt and negative prompt are exchanged", positive + negative),
            ("both halves are those of the prompt", positive + positive),
            ("both halves are those of the negative prompt", negative + negative),
        ):
            yield words, _in_order(wrong, kept, order)

    def _of_rows(self, wrong: WrongArray, computed: Computed) -> Iterator[TriedArray]:
        """Yield the rows of a batch in the order in which they are nearest to the recorded ones."""
        kept = self._kept_tokens(wrong, computed)
        found = find_order_of_rows(wrong.got, wrong.right, kept)
        if found is not None:
            words, order = found
            yield words, _in_order(wrong, kept, order)

    def _kept_tokens(self, wrong: WrongArray, computed: Computed) -> np.ndarray:
        """Return which tokens of each text are no padding, (n, l); of other arrays, all."""
        shape = wrong.right.shape[:2]
        mask = computed.get(wrong.name._replace(role=self._mask_role))
        of_text = mask is not None and wrong.right.ndim == 3 and mask.shape == shape
        if mask is None or not of_text or not mask.any(axis=1).all():
            return np.ones(shape, bool)
        return mask != 0

    @property
    def _mask_role(self) -> str:
        """The role of the mask that the denoiser reads; "": it reads none."""
        inputs = (*self.model.denoiser.inputs, *self.model.denoiser.optional)
        return next((x.role for x in inputs if x.argument == "mask"), "")

    def _of_pooled(self, wrong: WrongArray) -> Iterator[TriedArray]:
        """Yield pooled texts that are the recorded states of other tokens."""
        if wrong.words != POOLED or wrong.right.ndim != 2:
            return
        n, d = wrong.right.shape
        config = self.model.config
        encoders = dict(zip(TEXT_ENCODERS, config.text_encoders, strict=False))
        for entry in self.port.entries:
            if entry.layer or entry.call.kind not in encoders:
                continue
            states = ArrayName(entry.name, OUTPUT, OUTPUT).tensor_in(self.port)
            ids = ArrayName(entry.name, INPUT, "input_ids").tensor_in(self.port)
            if states is None or states.ndim != 3 or states.shape[::2] != (n, d):
                continue
            yield "pooled at the last token instead of the first end token", states[:, -1]
            if ids is not None and ids.shape == states.shape[:2]:
                pooled = pool_end_token(exact_backend(), encoders[entry.call.kind], ids, states)
                yield "pooled at the end of the tokens that were read", np.asarray(pooled)

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
        mask = computed.get(name._replace(role=self._mask_role))
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


def _in_order(wrong: WrongArray, kept: np.ndarray, order: list[int]) -> np.ndarray:
    """Return rows of an array in another order; padding of a row stays as it was recorded.

    Args:
        wrong: The array.
        kept: Which tokens of each row are no padding.
        order: The number of the row that is in the place of each.
    """
    kept = kept[order]
    shown = kept.reshape(*kept.shape, *[1] * (wrong.right.ndim - kept.ndim))
    return np.where(shown, wrong.right[order], wrong.got)


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
