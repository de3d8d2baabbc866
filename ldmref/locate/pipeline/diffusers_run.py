"""A recorded run of a pipeline of diffusers, as a run of ldmref: the same calls, by its names.

| recorded                                         | of a run of ldmref                            |
|--------------------------------------------------|-----------------------------------------------|
| arguments of the pipeline's call                 | the request (`diffusers_request`)             |
| `tokens`, calls of text encoders                 | a call of each encoder for each text          |
| `schedule` timesteps, sigmas, alphas_cumprod     | the same                                      |
| `initial` output                                 | the first state                               |
| `scale_input`, calls of the denoiser             | a call for the predictions of each evaluation |
| `guidance` uncond, cond, scale, output           | the same                                      |
| `sampler` sample, model_output, output, x0       | x, prediction, output, x0 of a step           |

A scheduler with two evaluations in a step has two calls for it. States of diffusers' DDIM and its
relatives are x_t, those of ldmref x0 + sigma eps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from ldmref.families.lookup import networks_of_run
from ldmref.locate.parts.visit import FAILS
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import names_of
from ldmref.locate.pipeline.diffusers_evaluations import NEAR, ROUNDED, TIME
from ldmref.locate.pipeline.diffusers_images import NotARun
from ldmref.locate.pipeline.diffusers_request import DiffusersRequest
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.run import ArrayPart, RunView
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.locate.run.request import NO_PROMPT
from ldmref.locate.run.rows import TABLE
from ldmref.models.model import LatentDiffusion
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.samplers.clipping import configured_clip
from ldmref.samplers.diffusers.steps import plms_calls
from ldmref.samplers.path import FLOW
from ldmref.trace.model import TraceEntry

NO_SIGNAL = 1e-3  # relative error of a step from alpha-bar 2^-24 instead of 0
SCHEDULE, DECODER = "schedule/", "vae.decode/"
CALLBACK = "callback_on_step_end"
CHANGED = "it is another one; the callback of the run may have changed its {}"
SAMPLER, SCALING = "sampler", "scale_input"
STATES = ("sample", OUTPUT)
TIMES = ("timestep",)
LEVELS = ("sigma", "sigma_next", "timestep")
PNDM = "pndm"  # whose first step has two calls


class ViewedRun(NamedTuple):
    """A recorded run of diffusers under the names of a run of ldmref.

    Attributes:
        view: The run.
        model: The model that has its scheduler.
        apart: Parts that are not of the run: "tokens" of further prompts, "sizes" of other images,
            a "schedule" that is not followed to its end, "controls" of ControlNets, whose outputs
            the denoiser was given, and "references" that it reads.
        unread: Why its arrays may be others than those of a run of ldmref; "": they may not.
    """

    view: RunView
    model: LatentDiffusion
    apart: Collection[str] = ()
    unread: str = ""


def view_run(context: PipelineContext) -> ViewedRun | str:
    """Return a recorded run of diffusers as one of ldmref.

    Args:
        context: The recorded run.

    Returns:
        The run, or in words why ldmref has no such run.
    """
    request = DiffusersRequest(context)
    try:
        request.require_known()
        view = RunView(context.port, request.request, request.arrays)
        calls = _ViewedCalls(request, view)
        calls.add_texts()
        request.evaluations.add(view, calls.apart)
        calls.add_schedule()
        calls.add_steps()
        calls.add_scaled()
        calls.add_decoder()
        request.images.add_encoders(view, len(request.state))
        calls.add_callback()
        calls.add_unknown_steps()
    except (NotARun, *FAILS) as error:
        return str(error)
    model = context.model.with_params({}, context.model.backend)
    model.config = replace(context.model.config, scheduler=context.config)
    return ViewedRun(view, model, calls.apart, request.unread)


class _ViewedCalls:
    """Adds the calls of a recorded run to its view.

    Args:
        request: What was asked for.
        view: The view.
    """

    def __init__(self, request: DiffusersRequest, view: RunView):
        self.request = request
        self.view = view
        self.context = request.context
        self.images, self.channels = request.state.shape[:2]
        self.lengths: set[int] = set()  # of texts that are not filled up as those of ldmref
        self.shifts: dict[str, int] = {}  # of padding before a text, by the call of ldmref
        self.apart: set[str] = {"sizes"} if request.other_sizes else set()
        if request.ends_early:
            self.apart.add("schedule")
        if request.images.has_controlnets:
            self.apart.add("controls")
        if request.images.has_references:
            self.apart.add("references")
        config = self.context.config
        clips = config.thresholding_ratio or config.clip_sample_range
        self.clip = configured_clip(config) if clips else None

    # -- texts ------------------------------------------------------------------------------------

    def add_texts(self) -> None:
        """Add the calls of text encoders: one for each text instead of one for a batch."""
        request = self.request
        if not request.has_texts and not request.embeddings:
            for entry in self.context.port.entries:
                if entry.call.kind.startswith(("tokens", "text_encoder")):
                    names = (*names_of(entry, INPUT), *names_of(entry, OUTPUT))
                    self.context.coverage.explain(names, NO_PROMPT)
            return
        guided = request.evaluations.reads_negative
        texts = request.prompts_of(0, guided)
        if not texts:
            return
        first = len(request.encoded_before) if guided else 0  # which come last in ldmref
        order = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        model = self.context.model.with_text_length(request.asked.get("max_sequence_length"))
        for i, config in enumerate(model.config.text_encoders):
            suffix = f"_{i + 1}" if i else ""
            encoder = f"text_encoder{suffix}"
            recorded_order = [*texts[-first:], *texts[:-first]] if first else texts
            rows = [_again(encoder, order[text]) for text in recorded_order]
            own = request.prompts_of(i, guided)
            if len({*zip(texts, own, strict=True)}) > len(order):
                raise NotARun("one prompt has two others for a further text encoder")
            if own != texts:
                self.apart.add("tokens")
            self._note_shifts(encoder, rows, self.context.model.tokenizers[i])
            self._add_encoder(encoder, rows, own == texts, config.max_position_embeddings)
            self._add_tokens(f"tokens{suffix}", rows if own == texts else [])
            if "" in order and self.context.model.config.zero_empty_negative:
                self._add_zeros(_again(encoder, order[texts[0]]), _again(encoder, order[""]))

    def _add_encoder(self, kind: str, rows: list[str], reads_same: bool, length: int) -> None:
        """Add the calls of one text encoder, whose rows are calls of ldmref.

        Args:
            kind: The kind of its calls.
            rows: A call of ldmref for each row.
            reads_same: Whether it reads the prompts of the request.
            length: The tokens to which ldmref fills up a text. Nothing reads those that a program
                lacks.
        """
        for name, calls in self._rows_of(kind, rows):
            tokens = self._shorter(name, length)
            x = self._moved(name, calls)
            if name.side == INPUT and "mask" in name.role and not self._reads_mask(kind):
                recorded = name.tensor_in(self.view.port)
                if recorded is not None:
                    self.view.numbers[name] = np.ones(recorded.shape, np.int64)
            elif name.side == INPUT and (reads_same or name.role != "input_ids"):
                self.view.recorded[name] = tuple(
                    ArrayPart(name._replace(entry=call), channels=tokens) for call in calls
                )
            for i, call in enumerate(calls):
                own = name._replace(entry=call)
                self.view.own.setdefault(own, (ArrayPart(name, slice(i, i + 1)),))
                if name.side == name.role == OUTPUT and tokens is not None and x is not None:
                    more = [(0, 0), (0, length - tokens), *[(0, 0)] * (x.ndim - 2)]
                    self.view.silent.setdefault(own, np.pad(x[i : i + 1], more))
                elif name.side == OUTPUT and name in self.view.changed and x is not None:
                    self.view.silent.setdefault(own, x[i : i + 1])

    def _reads_mask(self, kind: str) -> bool:
        """Return whether a text encoder reads a mask; one that does not reads all tokens."""
        networks = networks_of_run(self.context.model.config)
        return any(x.content == "mask" for net in networks if net.name == kind for x in net.inputs)

    def _note_shifts(self, kind: str, rows: list[str], tokenizer: PromptTokenizer | None) -> None:
        """Note how much padding a program has before the texts of an encoder.

        Args:
            kind: The kind of the encoder's calls.
            rows: A call of ldmref for each row.
            tokenizer: The tokenizer, whose padding the ids begin with. None: the masks say it.
        """
        for name, calls in self._rows_of(kind, rows):
            x = name.tensor_in(self.view.port)
            ids = name.side == INPUT and name.role == "input_ids" and tokenizer is not None
            mask = name.side == INPUT and "mask" in name.role and tokenizer is None
            if x is None or x.ndim != 2 or not (ids or mask):
                continue
            text = x != tokenizer.pad if tokenizer is not None else x != 0
            shifts = np.where(text.any(axis=1), np.argmax(text, axis=1), 0)
            if shifts.any():
                self.shifts |= {call: int(n) for call, n in zip(calls, shifts, strict=True)}

    def _moved(self, name: ArrayName, calls: list[str]) -> np.ndarray | None:
        """Return a text encoder's array with padding behind its texts, as ldmref has it.

        Padding before them is noted. None: the array was not recorded.
        """
        x = name.tensor_in(self.view.port)
        shifts = np.array([self.shifts.get(call, 0) for call in calls])
        ids = name._replace(side=INPUT, role="input_ids").tensor_in(self.view.port)
        if x is None or ids is None or x.shape[:2] != ids.shape or not shifts.any():
            return x
        self.view.changed[name] = partial(_rolled, shifts=shifts)
        return _rolled(x, -shifts)

    def _shorter(self, name: ArrayName, length: int) -> int | None:
        """Return the tokens of a text encoder's array if ldmref's has more; None otherwise."""
        x = name.tensor_in(self.view.port)
        states = name._replace(side=OUTPUT, role=OUTPUT).tensor_in(self.view.port)
        if x is None or states is None or x.ndim < 2 or x.shape[1] != states.shape[1]:
            return None
        if states.shape[1] >= length:
            return None
        self.lengths.add(states.shape[1])
        return states.shape[1]

    def _add_tokens(self, kind: str, rows: list[str]) -> None:
        """Add the tokens of one text encoder, which are what it is given."""
        for name, calls in self._rows_of(kind, rows):
            x = name.tensor_in(self.view.port)
            tokens = None if x is None or x.shape[-1] not in self.lengths else x.shape[-1]
            read = (ArrayName(call, INPUT, "input_ids") for call in calls)
            self.view.recorded[name] = tuple(ArrayPart(ids, channels=tokens) for ids in read)
            shifts = np.array([self.shifts.get(call, 0) for call in calls])
            if shifts.any():
                self.view.changed[name] = partial(_rolled, shifts=shifts)

    def _rows_of(self, kind: str, rows: list[str]) -> Iterator[tuple[ArrayName, list[str]]]:
        """Yield the arrays of calls of a kind, with the calls of ldmref for each of their rows."""
        left = [*rows]
        for entry in self.context.calls(kind):
            names = [ArrayName(entry.name, INPUT, role) for role in entry.inputs]
            names += [ArrayName(entry.name, OUTPUT, role) for role in entry.outputs]
            x = names[0].tensor_in(self.view.port) if names else None
            count = 0 if x is None else len(x)
            calls, left = left[:count], left[count:]
            if len(calls) == count:
                yield from ((name, calls) for name in names)

    def _add_zeros(self, first: str, empty: str) -> None:
        """Add a call for the empty negative prompt: diffusers uses zeros and does not encode it."""
        known = [name for name in self.view.own if name.entry == first and name.side == OUTPUT]
        for name in known:
            x = self.view.own[name][0].taken(lambda part: part.tensor_in(self.view.port))
            other = name._replace(entry=empty)
            if x is not None and other not in self.view.own:
                self.view.silent[other] = np.zeros_like(x)

    # -- the schedule -----------------------------------------------------------------------------

    @cached_property
    def numbers(self) -> list[list[int]]:
        """The numbers of the scheduler's calls in each step."""
        count = len(self.context.calls("sampler"))
        if self._is_pndm:
            return [[*range(min(2, count))], *([i] for i in range(2, count))]
        each = self._calls_of_step
        return [[*range(i, min(i + each, count))] for i in range(0, count, each)]

    @cached_property
    def _calls_of_step(self) -> int:
        return self.context.choose_sampler(self.context.config)[0].nfe

    @property
    def _is_pndm(self) -> bool:
        return self.context.choose_sampler(self.context.config)[0].name == PNDM

    def _level_of(self, number: int) -> int:
        """Return the level at which a call of the scheduler begins, of those of the schedule."""
        if self._is_pndm:
            n = len(self.request.schedule.timesteps)
            return [*plms_calls(n, 0), n][number]
        return (number + self._calls_of_step - 1) // self._calls_of_step

    @cached_property
    def levels(self) -> list[int]:
        """The levels at which the steps begin, and the last one."""
        before = self.request.calls_before
        found = [self._level_of(before + numbers[0]) for numbers in self.numbers]
        return [*found, self.request.last_level]

    def _spread(self, number: int) -> float:
        """Return the spread of the state that a call of the scheduler reads."""
        return self.request.spread(self._level_of(self.request.calls_before + number))

    def add_schedule(self) -> None:
        """Add the schedule, which has the time and the level of each call of the scheduler.

        Raises:
            NotARun: It has more or fewer levels.
        """
        entry = self.context.schedule_entry
        if entry is None:
            return
        view = self.view
        alphas = ArrayName(entry.name, OUTPUT, "alphas_cumprod")
        view.pair(alphas._replace(entry=SCHEDULE), alphas)
        times = alphas._replace(role="timesteps")
        if "schedule" in self.apart:
            return
        before, last = self.request.calls_before, self.request.last_level
        calls = [(k, i) for k, numbers in enumerate(self.numbers) for i in numbers]
        if times.tensor_name_in(view.port) is not None:
            every = [self._level_of(i) for i in range(before + len(calls))]
            first = (every.index(k) for k in sorted({*every}))
            own = times._replace(entry=SCHEDULE)
            view.own[own] = tuple(ArrayPart(times, slice(i, i + 1)) for i in first)
            skipped = (ArrayPart(own, slice(k, k + 1)) for k in every[:before])
            view.recorded[times] = (*skipped, *(self._time(k, i) for k, i in calls))
            view.least[times] = TABLE
            if self.context.path is not FLOW:
                view.nearest[times] = NEAR
        sigmas = alphas._replace(role="sigmas")
        recorded = sigmas.tensor_in(view.port)
        if recorded is None:
            return
        each, most = self._calls_of_step, last
        count = each * (most - 1) + 2  # the first and the last level are those of one call
        if len(recorded) not in (count, count + each * (each > 1)):
            raise NotARun("it has other levels than its steps")
        levels = [min((i + each - 1) // each, most) for i in range(len(recorded))]
        own = sigmas._replace(entry=SCHEDULE)
        rows = [levels.index(k) for k in sorted({*levels})]
        view.own[own] = tuple(ArrayPart(sigmas, slice(i, i + 1)) for i in rows)
        view.recorded[sigmas] = tuple(ArrayPart(own, slice(k, k + 1)) for k in levels)
        view.least[sigmas] = TABLE

    def _time(self, step: int, number: int) -> ArrayPart:
        """Return the timestep of a call of the scheduler in a step."""
        if self.context.path is not FLOW:
            return self._given_time(number)
        later = self.levels[step + (number > self.numbers[step][0])]
        return ArrayPart(ArrayName(SCHEDULE, OUTPUT, "timesteps"), slice(later, later + 1))

    def _given_time(self, index: int) -> ArrayPart:
        """Return the timestep that the denoiser is given at an evaluation."""
        first = self.request.evaluations.first_calls[index]
        call = ArrayName(f"{self.context.denoiser}.{first:03}/", INPUT, "timestep")
        return ArrayPart(call, slice(0, 1))

    # -- steps ------------------------------------------------------------------------------------

    def add_steps(self) -> None:
        """Add the calls of the scheduler.

        Raises:
            NotARun: They are more or fewer than those of its schedule.
        """
        steps = self.context.calls("sampler")
        if sum(map(len, self.numbers)) != len(steps):
            raise NotARun("it has other steps than its schedule")
        for k, numbers in enumerate(self.numbers):
            self._add_draws(k, [steps[i] for i in numbers])
            for i, number in enumerate(numbers):
                self._add_call(k, i, number, steps[number])
        for entry in self.context.calls("initial"):
            x = ArrayName("sampler.000/", INPUT, "x")
            name = ArrayName(entry.name, OUTPUT, OUTPUT)
            noised = self._before(0, 0, 0)
            if noised is None:
                self.view.recorded[name] = (ArrayPart(x, None, 1.0 / self._spread(0)),)
            else:  # the image with noise, which has its own row
                self.view.numbers[name] = noised
            self.view.least[name] = ROUNDED
            for role in entry.inputs:
                self.view.numbers[name._replace(side=INPUT, role=role)] = self.request.arrays[role]

    def _add_draws(self, k: int, entries: list[TraceEntry]) -> None:
        """Add the noises of a step, which the run is given."""
        names = [ArrayName(entry.name, INPUT, "noise") for entry in entries]
        noises = [name for name in names if name.tensor_name_in(self.view.port) is not None]
        for i, name in enumerate(noises):
            own = ArrayName(f"sampler.{k:03}/", INPUT, f"noise.{i}" if i else "noise")
            self.view.own[own] = (ArrayPart(name),)

    def _add_call(self, k: int, i: int, number: int, entry: TraceEntry) -> None:
        """Add the i-th call of the scheduler in a step."""
        view, spread, kept = self.view, self._spread, self.request.images.kept
        own = ArrayName(f"sampler.{k:03}/", INPUT, "")
        read, made = (ArrayName(entry.name, side, "") for side in (INPUT, OUTPUT))
        suffix, last = f".{i}" if i else "", i + 1 == len(self.numbers[k])
        state = own._replace(role=f"x_at{suffix}" if i else "x")
        view.pair(state, read._replace(role="sample"), spread(number))
        before = self._before(k, i, number)
        if before is not None:  # the recorded one has its own row
            view.recorded.pop(read._replace(role="sample"), None)
            view.numbers[read._replace(role="sample")] = before
            if i and kept is not None:  # with the latents of the image put back
                view.unread[read._replace(role="sample")] = kept
        prediction = own._replace(role=f"prediction{suffix}")
        view.pair(prediction, read._replace(role="model_output"))
        x0 = made._replace(role="x0")
        view.pair(own._replace(role=f"x0{suffix}"), x0)
        if self.clip is not None:  # diffusers returns the clipped one
            view.own.pop(own._replace(role=f"x0{suffix}"), None)
            view.changed[x0] = self.clip
        time = read._replace(role="timestep")
        view.recorded[time] = (self._time(k, number),)
        view.least[time] = TABLE
        if self.context.path is not FLOW:
            view.nearest[time] = NEAR
        output, after = made._replace(role=OUTPUT), spread(number + 1)
        if last:
            view.pair(own._replace(side=OUTPUT, role=OUTPUT), output, after)
        else:
            between = own._replace(role=f"x_at.{i + 1}")
            view.recorded[output] = (ArrayPart(between, None, 1.0 / after),)
            if kept is not None:  # with the latents of the image put back
                view.unread[output] = kept
        for name in (read._replace(role="sample"), made._replace(role="x0"), output):
            view.least[name] = ROUNDED
        if self._without_signal(number):
            view.least[x0] = view.least[output] = NO_SIGNAL
        for role in ("sigma", "sigma_next") if len(self.numbers[k]) == 1 else ():
            view.pair(own._replace(role=role), read._replace(role=role))
            view.least[read._replace(role=role)] = TABLE

    def _before(self, k: int, i: int, number: int) -> np.ndarray | None:
        """Return the state that a call of the scheduler should read, as it was recorded.

        It is what the call before returned, in a step of several, or the image with noise. None:
        the run says what it is.
        """
        entries = self.context.calls("sampler")
        if i:
            entry = entries[number - 1]
        elif k == 0 and len(self.context.calls("add_noise")) == 1:
            entry = self.context.calls("add_noise")[0]
        else:
            return None
        x = self.context.read_output(entry)
        state = self.context.read(entries[number], "sample")
        return x if x is not None and state is not None and x.shape == state.shape else None

    def _without_signal(self, number: int) -> bool:
        """Return whether a call of the scheduler begins where some of diffusers keep no signal.

        ldmref has alpha-bar of 2^-24 there, as the others of diffusers.
        """
        first = self._level_of(self.request.calls_before + number) == 0
        return first and self.context.config.rescale_betas_zero_snr

    def add_scaled(self) -> None:
        """Add states that the scheduler scales before the denoiser reads them."""
        evaluations, calls = self.context.evaluations, self.context.calls("scale_input")
        if len(calls) != len(evaluations) or any(len(e.networks) != 1 for e in evaluations):
            return
        recorded = self.view.recorded
        for i, (entry, evaluation) in enumerate(zip(calls, evaluations, strict=True)):
            sample = ArrayName(entry.name, INPUT, "sample")
            network = recorded[ArrayName(evaluation.networks[0].name, INPUT, "sample")]
            scaled = (part._replace(channels=self.channels) for part in network)
            recorded[ArrayName(entry.name, OUTPUT, OUTPUT)] = tuple(scaled)
            recorded[sample._replace(role="timestep")] = (self._given_time(i),)
            self.view.least[sample._replace(role="timestep")] = TIME
            self.view.nearest[sample._replace(role="timestep")] = NEAR
            state = self.context.read(evaluation.step, "sample")
            if state is not None:  # which has its own row
                self.view.numbers[sample] = np.concatenate([state] * len(network))
            for name in (sample, ArrayName(entry.name, OUTPUT, OUTPUT)):
                self.view.least[name] = ROUNDED

    # -- the decoder ------------------------------------------------------------------------------

    def add_decoder(self) -> None:
        """Add the call of the decoder, of which a program may have one for each image.

        A run that returns latents has none. Noise that the last level leaves stays in the latents
        of the schedulers whose states are x0 + sigma eps; ldmref divides by its spread.
        """
        decoders = self.context.calls("vae.decode")
        sigma = float(self.request.schedule.sigmas[self.levels[-1]])
        divided = self.context.states_on_path and sigma > 0.0
        factor = 1.0 / self.context.path.spread(sigma) if divided else 1.0
        own: dict[ArrayName, list[ArrayPart]] = {}
        taken = 0
        for entry in decoders:
            names = [ArrayName(entry.name, INPUT, role) for role in entry.inputs]
            x = names[0].tensor_in(self.view.port) if names else None
            rows = slice(taken, taken + (0 if x is None else len(x)))
            taken = rows.stop
            for name in names:
                latents = name._replace(entry=DECODER)
                self.view.recorded[name] = (ArrayPart(latents, rows, 1.0 / factor),)
                self.view.least[name] = ROUNDED
                own.setdefault(latents, []).append(ArrayPart(name, None, factor))
            for role in entry.outputs:
                name = ArrayName(entry.name, OUTPUT, role)
                own.setdefault(name._replace(entry=DECODER), []).append(ArrayPart(name))
        self.view.own |= {name: tuple(parts) for name, parts in own.items()}
        if not decoders:
            width, height = self.request.size
            image = np.zeros((self.images, 3, height, width), np.float32)
            self.view.silent[ArrayName(DECODER, OUTPUT, OUTPUT)] = image

    def add_callback(self) -> None:
        """Note the arrays that a callback of the run may have changed after its first step."""
        asked = self.request.asked
        if not asked.get(CALLBACK):
            return
        latents = roles_of(self.context, "x")
        others = {x.role for x in self.context.model.denoiser.inputs} - {*latents, *TIMES}
        changed = asked.get(f"{CALLBACK}_tensor_inputs", ["latents"])
        later = {number for numbers in self.numbers for number in numbers[1:]}
        for name in (*self.view.recorded, *self.view.numbers):
            call = name.call
            made = call.kind == SAMPLER and name.side == OUTPUT and call.number not in later
            state = call.kind in (SAMPLER, SCALING) and name.role in STATES
            read = call.kind == self.context.denoiser and call.number > 0 and name.side == INPUT
            decoded = f"{call}/" == DECODER
            if (read and name.role in latents) or (state and call.number > 0) or decoded:
                array = "latents"
            elif read and name.role in others:
                array = "prompt_embeds"
            else:
                continue
            if array in changed and not made:
                self.view.changeable[name] = CHANGED.format(array)

    def add_unknown_steps(self) -> None:
        """Note what a scheduler that ldmref lacks computes; its levels are those of the run."""
        why = self.context.unknown_scheduler
        for name in self.view.recorded if why else ():
            kind, made = name.call.kind, name.side == OUTPUT
            if f"{kind}/" == SCHEDULE:
                self.view.assumed[name] = why
            elif kind in (SAMPLER, SCALING) and (made or name.role in LEVELS):
                self.view.changeable[name] = why
            elif kind == self.context.denoiser and name.role in TIMES:
                self.view.changeable[name] = why


def _rolled(x: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return texts (n, l, ...), each moved by a number of tokens, (n,)."""
    return np.stack([np.roll(row, n, axis=0) for row, n in zip(x, shifts, strict=True)])


def _again(encoder: str, i: int) -> str:
    """Return the entry of the call of a text encoder for the i-th text."""
    return f"{encoder}~{i}/" if i else f"{encoder}/"
