"""A recorded run of a pipeline of diffusers, as a run of ldmref: a request, and the same calls.

| recorded                                         | of a run of ldmref                            |
|--------------------------------------------------|-----------------------------------------------|
| arguments of the pipeline's call                 | the request                                   |
| `tokens`, calls of text encoders                 | a call of each encoder for each text          |
| `schedule` timesteps, sigmas, alphas_cumprod     | the same                                      |
| `initial` output                                 | the initial noise                             |
| `scale_input`, calls of the denoiser             | a call for the predictions of each evaluation |
| `guidance` uncond, cond, scale, output           | the same                                      |
| `sampler` sample, model_output, output, x0       | x, prediction, output, x0 of a step           |

A scheduler with two evaluations in a step has two calls for it. States of diffusers' DDIM and its
relatives are x_t, those of ldmref x0 + sigma eps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ldmref.locate.parts.visit import FAILS
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.evaluations import RunEvaluation
from ldmref.locate.pipeline.passes import split_passes
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.run import ArrayPart, RunView
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.model import LatentDiffusion
from ldmref.modes.embeddings import NAMES as EMBEDDINGS
from ldmref.samplers import Schedule
from ldmref.samplers.diffusers.steps import plms_calls
from ldmref.samplers.path import FLOW
from ldmref.trace.calls import OF_MODULE
from ldmref.trace.model import TraceEntry

OTHER_CALLS = ("vae.encode", "mask", "control", "add_noise", "posterior")  # of other modes
TABLE = 1e-4  # relative error of numbers of a float32 schedule
TIME = 1e-5  # the same of the times that networks are given
SCHEDULE = "schedule/"
PLAIN = ("uncond", "cond")  # predictions of classifier-free guidance, in ldmref's order
TRUE_CFG = "true_cfg_scale"  # of a network that may read the scale itself
# Arguments of a pipeline's call that the request reads, or that change no array.
READ = (
    "prompt", "negative_prompt", "height", "width", "num_inference_steps", "guidance_scale",
    "guidance_rescale", "num_images_per_prompt", "eta", "clip_skip", "max_sequence_length",
    "sigmas", "timesteps", "mu", "skip_layer_guidance_scale", "skip_layer_guidance_start",
    "skip_layer_guidance_stop", "num_timesteps", "text_encoder_out_layers",
)  # fmt: skip
# Others, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    TRUE_CFG: (1.0,), "cfg_normalization": (False, 0.0), "cfg_truncation": (1.0,),
    "denoising_end": (None,), "crops_coords_top_left": ((0, 0),),
    "negative_crops_coords_top_left": ((0, 0),),
}  # fmt: skip
SIZES = ("original_size", "target_size", "negative_original_size", "negative_target_size")
SECOND = ("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3")


class NotARun(Exception):
    """A recording is no run of ldmref; the message says why."""


def view_run(context: PipelineContext) -> tuple[RunView, LatentDiffusion] | str:
    """Return a recorded run of diffusers as one of ldmref, with the model that has its scheduler.

    Args:
        context: The recorded run.

    Returns:
        The run and the model, or in words why it is no run of ldmref.
    """
    try:
        return _DiffusersRun(context).view()
    except (NotARun, *FAILS) as error:
        return str(error)


@dataclass(frozen=True)
class _DiffusersRun:
    """What is read of a recorded run to make a run of ldmref of it."""

    context: PipelineContext

    def view(self) -> tuple[RunView, LatentDiffusion]:
        """Return the run, and the model that has its scheduler."""
        self._require_known()
        context = self.context
        view = RunView(context.port, self.request, self.arrays)
        self._add_texts(view)
        self._add_schedule(view)
        for index, evaluation in enumerate(context.evaluations):
            self._add_evaluation(view, index, evaluation)
        self._add_steps(view)
        self._add_decoder(view)
        model = context.model.with_params({}, context.model.backend)
        model.config = replace(context.model.config, scheduler=context.config)
        return view, model

    def _require_known(self) -> None:
        """Require that the run is one of ldmref.

        Raises:
            NotARun: It is not.
        """
        context = self.context
        if not context.is_diffusers:
            raise NotARun("its steps are not those of diffusers")
        if context.port.manifest.get("pipeline") not in context.model.family.folders:
            raise NotARun("its pipeline is not known")
        if context.unknown_scheduler:
            raise NotARun(context.unknown_scheduler)
        if len(split_passes(context.port)) > 1:
            raise NotARun("it has several passes")
        other = [e.call for e in context.port.entries if e.call.kind in OTHER_CALLS]
        other += [e.call for e in context.port.entries if e.call.startswith("controlnet")]
        if other:
            raise NotARun(f"{other[0]} is of another mode than txt2img")

    # -- the request ------------------------------------------------------------------------------

    @cached_property
    def asked(self) -> dict[str, Any]:
        """The arguments of the pipeline's call, and what its methods were asked for."""
        return {k: x for k, x in self.context.request.items() if x is not None}

    @cached_property
    def state(self) -> np.ndarray:
        """The first state, (n, c, h, w)."""
        steps = self.context.calls("sampler")
        state = self.context.read(steps[0], "sample") if steps else None
        if state is None or state.ndim != 4:
            raise NotARun("its first state was not recorded")
        return state

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule of the run."""
        made = self.context.make_schedule()
        if made is None:
            raise NotARun("its schedule is not known")
        return made

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the images."""
        factor = self.context.model.config.vae.factor
        return self.state.shape[3] * factor, self.state.shape[2] * factor

    @cached_property
    def scale(self) -> float:
        """The guidance scale; 1: without guidance, as where a pipeline does not say that it guides.
        """
        reads_scale = self.context.model.config.denoiser.reads_guidance
        steps = self.context.calls("sampler")
        says = "guided" in steps[0].attributes or self.context.guider
        if not reads_scale and TRUE_CFG in self.asked:
            return float(self.asked[TRUE_CFG]) if "negative_prompt" in self.asked else 1.0
        if not reads_scale and not says:
            return 1.0
        scale = self.context.asked_scale
        if scale is None:
            raise NotARun("its guidance scale was not recorded")
        return scale

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts, one for each call for texts."""
        return self._texts("prompt")

    @cached_property
    def negative_prompts(self) -> list[str]:
        """The negative prompts, as many as prompts."""
        found = self._texts("negative_prompt") if "negative_prompt" in self.asked else [""]
        return found * len(self.prompts) if len(found) == 1 else found

    def _texts(self, name: str) -> list[str]:
        value = self.asked.get(name)
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
            raise NotARun(f"its {name} was not recorded")
        return found

    @cached_property
    def request(self) -> dict[str, Any]:
        """The request, as a run of ldmref records it."""
        for name in self.asked:
            self._require_read(name)
        width, height = self.size
        found: dict[str, Any] = {
            "mode": "txt2img",
            "rng": "torch",
            "width": width,
            "height": height,
            "cfg_scale": self.scale,
            "seed": [0] * len(self.state),
            "clip_skip": int(self.asked.get("clip_skip") or 0),
        }
        embedded = bool(self.embeddings)
        found["prompt"] = None if embedded else self._of_images(self.prompts)
        found["negative_prompt"] = None if embedded else self._of_images(self.negative_prompts)
        if {"sigmas", "timesteps"} & set(self.asked):
            found["sigmas"] = self.schedule.sigmas.tolist()
        else:
            found["steps"] = self.context.steps
        rescale = self.asked.get("guidance_rescale")
        if rescale:
            found["guidance"] = {"name": "rescale", "phi": rescale}
        sampler, _ = self.context.choose_sampler(self.context.config)
        eta = self.asked.get("eta", self.context.calls("sampler")[0].attributes.get("eta"))
        if eta is not None and sampler.eta is not None:
            found["eta"] = float(eta)
        if "max_sequence_length" in self.asked:
            found["max_sequence_length"] = self.asked["max_sequence_length"]
        return found

    def _of_images(self, values: Sequence[Any]) -> list[Any]:
        """Return values of prompts, each once for every image of its prompt."""
        each, rest = divmod(len(self.state), len(values))
        if rest:
            raise NotARun("it has other images than prompts")
        return [value for value in values for _ in range(each)]

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The hidden states that the caller gave, by parameter."""
        found = {name: self.context.requested(name) for name in EMBEDDINGS}
        return {
            name: np.stack(self._of_images([*x])) for name, x in found.items() if x is not None
        }

    @property
    def _guider_asks_nothing(self) -> bool:
        """Whether a guider of a modular pipeline is classifier-free guidance, in all steps."""
        guider = self.context.guider
        usual = {"class": ("ClassifierFreeGuidance",), "guidance_rescale": (None, 0.0)}
        usual |= {"start": (None, 0.0), "stop": (None, 1.0)}
        return all(guider.get(name) in values for name, values in usual.items())

    def _require_read(self, name: str) -> None:
        """Require that a request of ldmref has an argument, or that it asks for nothing."""
        value = self.asked[name]
        value = tuple(value) if isinstance(value, list) else value
        reads_scale = self.context.model.config.denoiser.reads_guidance
        if name in READ or (name == TRUE_CFG and not reads_scale):
            return
        if name == "guider" and self._guider_asks_nothing:
            return
        if name in SIZES and value == self.size[::-1]:
            return
        if name in SECOND and self.asked[name] == self.asked.get(name.rpartition("_")[0]):
            return
        if value not in NEUTRAL.get(name, ()):
            raise NotARun(f"a request of ldmref has no {name} {value!r}")

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the request: the initial noise, of unit variance."""
        initial = next(iter(self.context.calls("initial")), None)
        noise = self.context.read(initial, "latents")
        if noise is None:
            start = self.state * self._spread(0)
            noise = start / self.schedule.init_noise_sigma
        return {"latents": np.asarray(noise, np.float32), **self.embeddings}

    def _add_decoder(self, view: RunView) -> None:
        """Add the call of the decoder; a run that returns latents has none."""
        decoders = self.context.calls("vae.decode")
        for entry in decoders:
            for role in entry.inputs:
                name = ArrayName(entry.name, INPUT, role)
                view.pair(name, name)
            for role in entry.outputs:
                name = ArrayName(entry.name, OUTPUT, role)
                view.pair(name, name)
        if not decoders:
            width, height = self.size
            image = np.zeros((len(self.state), 3, height, width), np.float32)
            view.silent[ArrayName("vae.decode/", OUTPUT, OUTPUT)] = image

    # -- texts ------------------------------------------------------------------------------------

    def _add_texts(self, view: RunView) -> None:
        """Add the calls of text encoders: one for each text, in place of batches of them."""
        if self.embeddings:
            return
        reads_scale = self.context.model.config.denoiser.reads_guidance
        guided = self.scale != 1.0 and not reads_scale
        columns = self.prompts + (self.negative_prompts if guided else [])
        order = {text: i for i, text in enumerate(dict.fromkeys(columns))}
        for i in range(len(self.context.model.config.text_encoders)):
            suffix = f"_{i + 1}" if i else ""
            self._add_encoder(view, f"text_encoder{suffix}", columns, order)
            self._add_encoder(view, f"tokens{suffix}", columns, order)

    def _add_encoder(
        self, view: RunView, kind: str, columns: list[str], order: Mapping[str, int]
    ) -> None:
        """Add the calls of one text encoder, or the tokens that it reads."""
        texts = iter(columns)
        of_tokens = kind.startswith("tokens")
        encoder = kind.replace("tokens", "text_encoder")
        roles = {"ids": "input_ids"} if of_tokens else {}
        for entry in self.context.calls(kind):
            for side, named in ((INPUT, entry.inputs), (OUTPUT, entry.outputs)):
                for role in named:
                    x = ArrayName(entry.name, side, role).tensor_in(view.port)
                    count = 0 if x is None else len(np.atleast_2d(x))
                    break
            rows = [next(texts, None) for _ in range(count)]
            for side, named in ((INPUT, entry.inputs), (OUTPUT, entry.outputs)):
                for role in named:
                    recorded = ArrayName(entry.name, side, role)
                    own_side = INPUT if of_tokens else side
                    own = [
                        ArrayName(_again(encoder, order[text]), own_side, roles.get(role, role))
                        for text in rows
                        if text is not None
                    ]
                    if len(own) < len(rows):
                        continue
                    view.recorded[recorded] = tuple(ArrayPart(name) for name in own)
                    for i, name in enumerate(own if not of_tokens else []):
                        view.own.setdefault(name, (ArrayPart(recorded, slice(i, i + 1)),))
        missing = {text for text in columns} - set()
        first = ArrayName(_again(encoder, 0), OUTPUT, "output")
        for text in missing:
            name = first._replace(entry=_again(encoder, order[text]))
            if of_tokens or name in view.own or not self._is_zeroed(text):
                continue
            for role in [own.role for own in view.own if own.entry == first.entry]:
                source = view.own.get(first._replace(role=role))
                x = None if source is None else source[0].taken(lambda n: n.tensor_in(view.port))
                if x is not None:
                    view.silent[name._replace(role=role)] = np.zeros_like(x)

    def _is_zeroed(self, text: str) -> bool:
        """Return whether zeros stand for what an encoder returns for a negative prompt."""
        return not text and self.context.model.config.zero_empty_negative

    # -- the schedule -----------------------------------------------------------------------------

    @property
    def calls_of_steps(self) -> list[list[int]]:
        """The numbers of the scheduler's calls in each step."""
        count = len(self.context.calls("sampler"))
        sampler, _ = self.context.choose_sampler(self.context.config)
        if sampler.name == "pndm":
            steps = plms_calls(len(self.schedule.timesteps), 0)
            return [[i for i, _ in enumerate(steps) if _step_of(steps, i) == k] for k in range(len(self.schedule.timesteps))]
        each = sampler.nfe
        return [[*range(i, min(i + each, count))] for i in range(0, count, each)]

    def _spread(self, index: int) -> float:
        """Return by what a recorded state is multiplied to be on the path, at a level."""
        if self.context.states_on_path:
            return 1.0
        return float(np.hypot(1.0, self.schedule.sigmas[index]))

    def _add_schedule(self, view: RunView) -> None:
        """Add the schedule, in which a step has several timesteps if it has several calls."""
        entry = self.context.schedule_entry
        if entry is None:
            return
        alphas = ArrayName(entry.name, OUTPUT, "alphas_cumprod")
        view.pair(alphas._replace(entry=SCHEDULE), alphas)
        steps = self.calls_of_steps
        first = [numbers[0] for numbers in steps]
        times = alphas._replace(role="timesteps")
        if times.tensor_name_in(view.port) is not None:
            own = times._replace(entry=SCHEDULE)
            view.own[own] = tuple(ArrayPart(times, slice(i, i + 1)) for i in first)
            view.recorded[times] = tuple(self._times_of(k, i) for k, x in enumerate(steps) for i in x)
            view.least[times] = TABLE
        sigmas = alphas._replace(role="sigmas")
        x = sigmas.tensor_in(view.port)
        if x is not None:
            own, last = sigmas._replace(entry=SCHEDULE), len(steps)
            several = self.context.choose_sampler(self.context.config)[0].nfe > 1
            levels = [min((i + several) // (1 + several), last) for i in range(len(x))]
            ends = dict(reversed([(k, i) for i, k in enumerate(levels)]))
            view.own[own] = tuple(ArrayPart(sigmas, slice(ends[k], ends[k] + 1)) for k in sorted(ends))
            view.recorded[sigmas] = tuple(ArrayPart(own, slice(k, k + 1)) for k in levels)
            view.least[sigmas] = TABLE

    def _times_of(self, step: int, number: int) -> ArrayPart:
        """Return the timestep of a call of the scheduler in a step."""
        if self.context.path is not FLOW:
            return self._time(number)
        later = step + (number > self.calls_of_steps[step][0])
        return ArrayPart(ArrayName(SCHEDULE, OUTPUT, "timesteps"), slice(later, later + 1))

    def _time(self, index: int) -> ArrayPart:
        """Return the timestep that the denoiser is given at an evaluation."""
        call = ArrayName(f"{self.context.denoiser}.{index:03}/", INPUT, "timestep")
        return ArrayPart(call, slice(0, 1))

    # -- evaluations ------------------------------------------------------------------------------

    def _add_evaluation(self, view: RunView, index: int, evaluation: RunEvaluation) -> None:
        """Add the calls of the denoiser and the guidance of one evaluation."""
        sizes = [self._rows(entry) for entry in evaluation.networks]
        n = len(self.state)
        guidance = evaluation.guidance
        if guidance is not None and guidance.attributes.get("name") not in (None, "rescale"):
            raise NotARun(f"guidance {guidance.attributes['name']}")
        halves = list(self.context.halves(guidance)) if guidance is not None else ["cond"]
        own = [name for name in PLAIN if name in halves]
        call = f"{self.context.denoiser}.{index:03}/"
        if sizes == [n * len(halves)]:
            sources = {part: (evaluation.networks[0], i) for i, part in enumerate(halves)}
        elif sizes == [n, n] and len(halves) == 2:
            sources = {"cond": (evaluation.networks[0], 0), "uncond": (evaluation.networks[1], 0)}
        else:
            raise NotARun("its predictions are not those of one guidance")
        for network in evaluation.networks:
            for side, roles in ((INPUT, network.inputs), (OUTPUT, network.outputs)):
                for role in roles:
                    if not role.startswith(OF_MODULE):
                        self._add_rows(view, network, side, role, call, own, sources)
            texts, masks = (roles_of(self.context, name) for name in ("context", "mask"))
            for text in set(texts) & set(network.inputs):
                for mask in set(masks) & set(network.inputs):
                    name = ArrayName(network.name, INPUT, text)
                    view.masks[name] = name._replace(role=mask)
        self._add_scaled(view, index, evaluation)
        if guidance is not None:
            own_call = f"guidance.{index:03}/"
            for role in (*PLAIN, "scale"):
                view.pair(ArrayName(own_call, INPUT, role), ArrayName(guidance.name, INPUT, role))
            view.pair(
                ArrayName(own_call, OUTPUT, OUTPUT), ArrayName(guidance.name, OUTPUT, OUTPUT)
            )
            rescale = ArrayName(guidance.name, INPUT, "rescale")
            if rescale.tensor_name_in(view.port):
                asked = self.asked.get("guidance_rescale") or 0.0
                view.numbers[rescale] = np.array(float(asked))

    def _rows(self, entry: TraceEntry) -> int:
        x = self.context.read(entry, "sample")
        return 0 if x is None else len(x)

    def _add_rows(
        self,
        view: RunView,
        network: TraceEntry,
        side: str,
        role: str,
        call: str,
        own: list[str],
        sources: Mapping[str, tuple[TraceEntry, int]],
    ) -> None:
        """Add an array of the denoiser, whose rows are in another order or in several calls."""
        n = len(self.state)
        name = ArrayName(call, side, role)
        view.own[name] = tuple(
            ArrayPart(ArrayName(entry.name, side, role), slice(i * n, i * n + n))
            for entry, i in (sources[part] for part in own)
        )
        if role == "timestep":
            view.least[ArrayName(network.name, side, role)] = TIME
        here = sorted((i, own.index(part)) for part, (entry, i) in sources.items() if entry is network)
        view.recorded[ArrayName(network.name, side, role)] = tuple(
            ArrayPart(name, slice(j * n, j * n + n)) for _, j in here
        )

    def _add_scaled(self, view: RunView, index: int, evaluation: RunEvaluation) -> None:
        """Add what the scheduler makes of a state before the denoiser reads it."""
        calls = self.context.calls("scale_input")
        if len(calls) != len(self.context.evaluations) or len(evaluation.networks) != 1:
            return
        entry, network = calls[index], evaluation.networks[0]
        given = ArrayName(network.name, INPUT, "sample")
        view.recorded[ArrayName(entry.name, OUTPUT, OUTPUT)] = view.recorded[given]
        time = ArrayName(entry.name, INPUT, "timestep")
        view.recorded[time] = (self._time(index),)
        view.least[time] = TIME
        state = view.recorded.get(ArrayName(evaluation.step.name, INPUT, "sample"))
        if state is not None:
            times = len(view.recorded[given])
            view.recorded[ArrayName(entry.name, INPUT, "sample")] = state * times

    # -- steps ------------------------------------------------------------------------------------

    def _add_steps(self, view: RunView) -> None:
        steps = self.context.calls("sampler")
        if sum(map(len, self.calls_of_steps)) != len(steps):
            raise NotARun("it has other steps than its schedule")
        for k, numbers in enumerate(self.calls_of_steps):
            self._add_step(view, k, [steps[i] for i in numbers], numbers)

    def _add_step(
        self, view: RunView, k: int, entries: list[TraceEntry], numbers: list[int]
    ) -> None:
        call = f"sampler.{k:03}/"
        draws = 0
        for i, entry in enumerate(entries):
            suffix = f".{i}" if i else ""
            recorded = ArrayName(entry.name, INPUT, "")
            at = ArrayName(call, INPUT, f"x_at{suffix}" if i else "x")
            before, after = self._spread(k + bool(i)), self._spread(k + 1)
            view.pair(at, recorded._replace(role="sample"), before)
            view.pair(at._replace(role=f"prediction{suffix}"), recorded._replace(role="model_output"))
            if recorded._replace(role="noise").tensor_name_in(view.port):
                noise = f"noise.{draws}" if draws else "noise"
                drawn = recorded._replace(role="noise")
                view.own[at._replace(role=noise)] = (ArrayPart(drawn),)
                draws += 1
            x0 = ArrayName(entry.name, OUTPUT, "x0")
            view.pair(at._replace(role=f"x0{suffix}"), x0)
            for role in ("sigma", "sigma_next") if len(entries) == 1 else ():
                view.pair(at._replace(role=role), recorded._replace(role=role))
                view.least[recorded._replace(role=role)] = TABLE
            output = ArrayName(entry.name, OUTPUT, OUTPUT)
            if i + 1 < len(entries):
                later = ArrayPart(at._replace(role=f"x_at.{i + 1}"), None, 1.0 / after)
                view.recorded[output] = (later,)
            else:
                view.pair(ArrayName(call, OUTPUT, OUTPUT), output, after)
            time = recorded._replace(role="timestep")
            view.recorded[time] = (self._times_of(k, numbers[i]),)
            view.least[time] = TABLE
        first = next(iter(self.context.calls("initial")), None)
        if k == 0 and first is not None:
            x = ArrayPart(ArrayName(call, INPUT, "x"), None, 1.0 / self._spread(0))
            view.recorded[ArrayName(first.name, OUTPUT, OUTPUT)] = (x,)
            view.numbers |= {
                ArrayName(first.name, INPUT, role): self.arrays["latents"]
                for role in first.inputs
            }
        self._again_scaled(view, numbers)

    def _again_scaled(self, view: RunView, numbers: list[int]) -> None:
        for i in numbers:
            self._add_scaled(view, i, self.context.evaluations[i])


def _step_of(calls: list[int], i: int) -> int:
    """Return the step of a call of PNDM's scheduler: its first two calls are one step."""
    return max(i - 1, 0)


def _again(encoder: str, i: int) -> str:
    """Return the entry of the call of a text encoder for the i-th text."""
    return f"{encoder}~{i}/" if i else f"{encoder}/"
