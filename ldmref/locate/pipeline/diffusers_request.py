"""What a recorded pipeline of diffusers was asked for, as a request of ldmref."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.diffusers_evaluations import RecordedEvaluations
from ldmref.locate.pipeline.diffusers_images import NotARun, RecordedImages
from ldmref.locate.pipeline.roles import roles_of
from ldmref.modes.embeddings import EMBEDDINGS, NAMES
from ldmref.samplers import Schedule, make_schedule
from ldmref.samplers.path import FLOW

TRUE_CFG = "true_cfg_scale"  # of a network that may read the scale itself
PIXELS = ("width", "height")
SIZES = ("original_size", "target_size", "negative_original_size", "negative_target_size")
CROPS = ("crops_coords_top_left", "negative_crops_coords_top_left")
# Arguments of a pipeline's call that the request reads, that judges of what a run is given compare,
# or that change no array. A callback may change arrays, which then differ.
READ = (
    *PIXELS, *SIZES, *CROPS,
    "prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3",
    "num_images_per_prompt", "clip_skip", "max_sequence_length", "text_encoder_out_layers",
    "num_inference_steps", "num_timesteps", "sigmas", "timesteps", "mu", "eta", "strength",
    "denoising_end", "guidance_scale", "guidance_rescale", "true_cfg_scale", "cfg_normalization",
    "cfg_truncation", "skip_guidance_layers", "skip_layer_guidance_scale",
    "skip_layer_guidance_start", "skip_layer_guidance_stop", "pag_scale", "pag_adaptive_scale",
    "pag_applied_layers", "perturbed_layers", "controlnet_conditioning_scale",
    "control_guidance_start", "control_guidance_end", "control_mode", "callback_on_step_end",
    "callback_on_step_end_tensor_inputs", "use_kv_cache", "output",
)  # fmt: skip
GUIDER = "ClassifierFreeGuidance"  # of modular pipelines, which the request reads


@dataclass(frozen=True)
class DiffusersRequest:
    """What is read of a recorded run to ask ldmref for the same.

    Attributes:
        context: The recorded run.
    """

    context: PipelineContext

    def require_known(self) -> None:
        """Require that the run is one of ldmref.

        Raises:
            NotARun: It is not.
        """
        context = self.context
        if not context.is_diffusers:
            raise NotARun("its steps are not those of diffusers")
        pipeline = str(context.port.manifest.get("pipeline"))
        plain = pipeline.replace("PAG", "").replace("ControlNet", "")
        if not {pipeline, plain} & {*context.model.family.folders}:
            raise NotARun("its pipeline is not known")
        if context.unknown_scheduler and self.recorded_levels is None:
            raise NotARun(context.unknown_scheduler)
        self.images.require_known()

    @cached_property
    def evaluations(self) -> RecordedEvaluations:
        """Its evaluations of the denoiser, and their guidance."""
        second = self.scale if self.true_scale is None else self.true_scale
        return RecordedEvaluations(self.context, len(self.state), second)

    @cached_property
    def images(self) -> RecordedImages:
        """Its images, masks and noise."""
        return RecordedImages(self.context, self.size)

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
        """The schedule of the run; of a scheduler that ldmref has not, the levels of its steps."""
        if self.context.unknown_scheduler:
            levels = self.recorded_levels
            assert levels is not None
            return self._make_schedule(levels)
        made = self.context.make_schedule()
        if made is None:
            raise NotARun("its schedule is not known")
        return made

    @cached_property
    def recorded_levels(self) -> list[float] | None:
        """The levels of a scheduler that ldmref has not, on the path of a flow; None: unknown."""
        context = self.context
        sigmas = context.read_output(context.schedule_entry, "sigmas")
        steps = context.calls("sampler")
        if context.path is not FLOW or sigmas is None or len(sigmas) != len(steps) + 1:
            return None
        return [float(sigma) for sigma in sigmas]

    def _make_schedule(self, levels: list[float]) -> Schedule:
        """Return the schedule of given levels."""
        context = self.context
        sampler, spacing = context.choose_sampler(context.config)
        steps = len(levels) - 1
        more = (context.path, context.tokens)
        return make_schedule(context.config, sampler, spacing, steps, levels, *more)

    @property
    def given_levels(self) -> list[float] | None:
        """The levels that the request has instead of a number of steps; None: it has that."""
        own = {"sigmas", "timesteps", "denoising_end"} & set(self.asked)
        if not own and not self.context.unknown_scheduler and not self.has_own_levels:
            return None
        return self.schedule.sigmas[: self.last_level + 1].tolist()

    @property
    def has_own_levels(self) -> bool:
        """Whether a distilled model has levels of its own, however many steps were asked for."""
        asked = self.asked.get("num_inference_steps", len(self.schedule.timesteps))
        return self.context.path is FLOW and len(self.schedule.timesteps) != asked

    @property
    def first_deviation(self) -> float:
        """The standard deviation of a first state of pure noise, on the path."""
        levels = self.given_levels
        if levels is None:
            return float(self.schedule.init_noise_sigma)
        return float(self._make_schedule(levels).init_noise_sigma)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the images."""
        factor = self.context.model.config.vae.factor
        return self.state.shape[3] * factor, self.state.shape[2] * factor

    @property
    def reads_scale(self) -> bool:
        """Whether the denoiser reads the guidance scale itself."""
        return self.context.model.config.denoiser.reads_guidance

    @property
    def true_scale(self) -> float | None:
        """The scale of a second guidance, where the denoiser reads one itself; None: none."""
        guided = self.context.calls("guidance")
        return float(self.asked[TRUE_CFG]) if self.reads_scale and guided else None

    @cached_property
    def scale(self) -> float:
        """The guidance scale; 1 without guidance, or if the pipeline does not mention it."""
        steps = self.context.calls("sampler")
        says = "guided" in steps[0].attributes or self.context.guider
        if not self.reads_scale and TRUE_CFG in self.asked:
            return float(self.asked[TRUE_CFG]) if "negative_prompt" in self.asked else 1.0
        scale, guided = self.context.asked_scale, self.context.calls("guidance")
        if not self.reads_scale and not says and (scale is None or not guided):
            used = self.context.number(next(iter(guided), None), "scale")
            return 1.0 if used is None else used
        if scale is None:
            raise NotARun("its guidance scale was not recorded")
        return scale

    @property
    def drops_guidance(self) -> bool:
        """Whether predictions without the prompt, which its scale needs, were not made."""
        return self.scale > 1.0 and not self.reads_scale and not self.evaluations.reads_negative

    @property
    def has_texts(self) -> bool:
        """Whether its prompts or classes were recorded."""
        return "prompt" in self.asked or bool(self.classes)

    @cached_property
    def _names_of_classes(self) -> tuple[str, ...]:
        """The names under which the denoiser reads classes, which the pipeline's call has too."""
        inputs = self.context.model.denoiser.inputs
        arguments = (x.argument for x in inputs if x.content == "labels")
        return tuple(name for x in arguments for name in roles_of(self.context, x))

    @property
    def classes(self) -> list[str]:
        """The classes that were asked for, as the prompts of ldmref; [] if there are none."""
        found = (self.asked[name] for name in self._names_of_classes if name in self.asked)
        return [str(number) for number in np.ravel(next(found, [])).tolist()]

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts or classes, one for each call for texts."""
        return self.classes or self._texts("prompt")

    @cached_property
    def negative_prompts(self) -> list[str]:
        """The negative prompts, as many as prompts."""
        if self.encoded_before:
            return self.encoded_before
        found = self._texts("negative_prompt") if "negative_prompt" in self.asked else [""]
        if "negative_prompt" in self.asked and self.context.model.config.zero_empty_negative:
            found = [text or " " for text in found]  # encoded as an empty one is, which is zeros
        states = self.context.requested(EMBEDDINGS["prompt"].states)
        count = len(self.prompts if states is None else states)
        return found * count if len(found) == 1 else found

    @cached_property
    def encoded_before(self) -> list[str]:
        """The negative prompts whose hidden states the caller had encoded before the call.

        [] if they were given as text, or if another way, which is not known.
        """
        names = [entry.name.split("/")[0] for entry in self.context.port.entries]
        encoded = [name for name in names if name.startswith("tokens")]
        called = next((name for name in names if name.startswith("inputs")), "")
        before = bool(encoded and called) and names.index(encoded[0]) < names.index(called)
        states = self.context.requested(EMBEDDINGS["negative_prompt"].states)
        texts = self.context.params.get("prompt")
        if states is None or not before or "prompt" not in self.asked:
            return []
        return [*texts] if isinstance(texts, list) and len(texts) == len(states) else []

    def _texts(self, name: str) -> list[str]:
        value = self.asked.get(name)
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
            raise NotARun(f"its {name} was not recorded")
        return found

    @cached_property
    def request(self) -> dict[str, Any]:
        """The request, as a run of ldmref records it."""
        self._require_size()
        width, height = self.size
        found: dict[str, Any] = {
            "mode": self.images.mode,
            "rng": "torch",
            "width": width,
            "height": height,
            "cfg_scale": self.scale,
            "seed": [0] * len(self.state),
            "clip_skip": int(self.asked.get("clip_skip") or 0),
        }
        if self.has_texts or self.embeddings:
            for name in EMBEDDINGS:
                texts = self.texts_of(name)
                found[name] = self._of_images(texts) if texts else None
        if self.given_levels is not None:
            found["sigmas"] = self.given_levels
        else:
            found["steps"] = self.asked.get("num_inference_steps", self.context.steps)
        if self.images.mode != "txt2img":
            found["strength"] = self.strength
        if self.images.mode == "inpaint":
            found["only_masked"] = False
        rescale = self.asked.get("guidance_rescale")
        if self.true_scale is not None or not self.evaluations.is_plain or self.drops_guidance:
            found["guidance"] = self.evaluations.guidance
        elif rescale:
            found["guidance"] = {"name": "rescale", "phi": rescale}
        sampler, _ = self.context.choose_sampler(self.context.config)
        eta = self.asked.get("eta", self.context.calls("sampler")[0].attributes.get("eta"))
        if eta is not None and sampler.eta is not None:
            found["eta"] = float(eta)
        if "max_sequence_length" in self.asked:
            found["max_sequence_length"] = self.asked["max_sequence_length"]
        return found

    @cached_property
    def calls_before(self) -> int:
        """The calls of the scheduler that the schedule has before the first one."""
        taken = len(self.context.calls("sampler"))
        times = self.context.read_output(self.context.schedule_entry, "timesteps")
        return 0 if times is None or self.ends_early else max(len(times) - taken, 0)

    @property
    def ends_early(self) -> bool:
        """Whether the run ends before the last level of its schedule."""
        return "denoising_end" in self.asked

    @property
    def last_level(self) -> int:
        """The level at which the run ends, of those of its schedule."""
        if not self.ends_early:
            return len(self.schedule.sigmas) - 1
        return len(self.context.calls("sampler"))

    @property
    def strength(self) -> float:
        """The strength that was asked for; one that was not follows from the number of steps."""
        if "strength" in self.asked:
            return float(self.asked["strength"])
        taken = len(self.context.calls("sampler"))
        return taken / (taken + self.calls_before)

    def _of_images(self, values: Sequence[Any]) -> list[Any]:
        """Return values of prompts, each once for every image of its prompt."""
        each, rest = divmod(len(self.state), len(values))
        if rest or each != self.asked.get("num_images_per_prompt", each):
            raise NotARun("it has other images than prompts")
        return [value for value in values for _ in range(each)]

    @cached_property
    def embeddings(self) -> dict[str, np.ndarray]:
        """The hidden states that the caller gave, by parameter."""
        found = {name: self.context.requested(name) for name in NAMES}
        if self.encoded_before:
            found |= dict.fromkeys(EMBEDDINGS["negative_prompt"], None)
        return {name: np.stack(self._of_images([*x])) for name, x in found.items() if x is not None}

    @cached_property
    def other_sizes(self) -> bool:
        """Whether the sizes of the image that the denoiser reads are not those of the request."""
        asked = {name: tuple(self.asked[name]) for name in (*SIZES, *CROPS) if name in self.asked}
        return any(x != ((0, 0) if name in CROPS else self.size[::-1]) for name, x in asked.items())

    def texts_of(self, name: str) -> list[str]:
        """Return the prompts or the negative prompts; [] if hidden states stand for them."""
        if EMBEDDINGS[name].states in self.embeddings:
            return []
        return self.prompts if name == "prompt" else self.negative_prompts

    def prompts_of(self, encoder: int, guided: bool) -> list[str]:
        """Return the texts that a text encoder reads: prompts, and with guidance negative ones."""
        names = [*EMBEDDINGS] if guided else ["prompt"]
        return [x for name in names for x in self._second(name, encoder, self.texts_of(name))]

    def _second(self, name: str, encoder: int, first: list[str]) -> list[str]:
        """Return the prompts of a text encoder, by default those of the first one."""
        if not first or not encoder or f"{name}_{encoder + 1}" not in self.asked:
            return first
        found = self._texts(f"{name}_{encoder + 1}")
        return found * len(first) if len(found) == 1 else found

    @property
    def unread(self) -> str:
        """Why its arrays may be others than those of a run of ldmref; "": no argument says so."""
        for name, value in self.asked.items():
            plain = name == "guider" and self.context.guider.get("class") == GUIDER
            if name not in (*READ, *self._names_of_classes) and not plain:
                return f"a request of ldmref has no {name} {value!r}"
        return ""

    def _require_size(self) -> None:
        """Require that the states are those of the size that was asked for."""
        for name, side in zip(PIXELS, self.size, strict=True):
            value = self.asked.get(name, side)
            if value != side:
                raise NotARun(f"its states are not those of {name} {value!r}")

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the request: the initial noise, of unit variance, and images."""
        noise = self.images.noise
        initial = next(iter(self.context.calls("initial")), None)
        if noise is None:
            noise = self.context.requested("latents")
        if noise is None or noise.shape != self.state.shape:
            noise = self.context.read(initial, "latents")
        if noise is None:
            first = self.context.read_output(initial)
            if first is None or first.shape != self.state.shape:
                first = self.state
            noise = first * self.spread(0) / self.first_deviation
        return {"latents": np.asarray(noise, np.float32), **self.embeddings, **self.images.arrays}

    def spread(self, index: int) -> float:
        """Return by what a recorded state is multiplied to be on the path, at a level."""
        if self.context.states_on_path:
            return 1.0
        return float(np.hypot(1.0, self.schedule.sigmas[index]))
