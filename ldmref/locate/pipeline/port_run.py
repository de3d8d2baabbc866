"""The run of a port as it was recorded: its arrays, its scheduler, its path and its schedule."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import LdmrefError, abbreviated
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.locate.pipeline.coverage import Coverage, RecordedArray
from ldmref.locate.pipeline.evaluations import RunEvaluation, find_evaluations
from ldmref.locate.recorded.names import read_array
from ldmref.locate.recorded.precision import EPSILONS
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.job import takes_all_steps
from ldmref.modes.resolve import choose_sampler
from ldmref.ports.port import port_of
from ldmref.samplers import Sampler, Schedule, SchedulerConfig, make_schedule
from ldmref.samplers.flow_spacings import shift_levels
from ldmref.samplers.own_spacing import Spacing
from ldmref.samplers.path import FLOW, PATHS, VE, NoisePath
from ldmref.samplers.schedule import from_strength, sampling_sigmas
from ldmref.trace.model import Trace, TraceEntry

MOST_SETTINGS = 8  # that are listed
OF_THE_CHECKPOINT = (
    "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas",
    "prediction_type", "shift_rule", "flow_times",
)  # fmt: skip


@dataclass(frozen=True)
class PortRun:
    """A port's trace and the model, for the computations between the networks."""

    port: Trace
    model: LatentDiffusion
    dtype: str
    notes: list[str]
    coverage: Coverage = field(default_factory=Coverage)
    whole: Trace | None = None  # of which the port is a part; None: it is the whole
    controlnets: Sequence[ControlNet] = ()  # of the run, in their order; (): they are not known

    @property
    def params(self) -> dict[str, Any]:
        """The request of the run, as far as it was recorded."""
        return dict(self.port.manifest.get("params") or {})

    @property
    def request(self) -> dict[str, Any]:
        """What the caller asked for: the request, and the arguments of a pipeline's call."""
        return self.params | dict(self.port.manifest.get("request") or {})

    @cached_property
    def evaluations(self) -> list[RunEvaluation]:
        """The evaluations of the denoiser, with the steps that they belong to."""
        return find_evaluations(self)

    def halves(self, guidance: TraceEntry | None = None) -> tuple[str, str]:
        """Return which predictions the halves of a batch are: recorded, or those of the family."""
        named = None if guidance is None else guidance.attributes.get("halves")
        if isinstance(named, list) and sorted(map(str, named)) == ["cond", "uncond"]:
            return (str(named[0]), str(named[1]))
        return port_of(self.model.family).halves if self.is_diffusers else ("uncond", "cond")

    @property
    def guider(self) -> dict[str, Any]:
        """The guider of a modular pipeline: its class, and the settings that were asked for."""
        found = self.request.get("guider")
        return found if isinstance(found, dict) else {}

    @property
    def asked_scale(self) -> float | None:
        """The guidance scale of the request; None if it was not recorded."""
        theirs = self.model.family.guidance_scale
        if self.guider.get("enabled") is False:
            return 1.0
        if isinstance(self.guider.get("guidance_scale"), int | float):
            original = self.guider.get("use_original_formulation") is True
            return theirs.convert(float(self.guider["guidance_scale"]) + original)
        if self.is_diffusers and port_of(self.model.family).unguided(
            self.port.manifest.get("settings") or {}
        ):
            return 1.0
        for name in ("guidance_scale", "cfg_scale"):
            value = self.request.get(name)
            if isinstance(value, int | float):
                of_request = name in (self.port.manifest.get("request") or {})
                of_diffusers = of_request and self.is_diffusers
                return theirs.convert(value) if of_diffusers else float(value)
        return None

    def requested(self, name: str) -> np.ndarray | None:
        """Return an array of the request, as the caller gave it."""
        for entry in self.calls("inputs"):
            found = self.read(entry, name)
            if found is not None:
                return found
        return None

    @cached_property
    def diffusion_stage(self) -> dict[str, Any]:
        """The stage "diffusion" of a recorded training's recipe: tables `objective`, `optimizer`.

        The parameters have the recipe as TOML, in the entry `recipe`, or are its tables. {} if it
        was not recorded.
        """
        recipe = self.params
        text = recipe.get("recipe")
        if isinstance(text, str):
            try:
                recipe = tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                self.notes.append(f"the recorded recipe cannot be read: {error}")
        stage = recipe.get("diffusion")
        tables = stage if isinstance(stage, dict) else {}
        return {name: table for name, table in tables.items() if isinstance(table, dict)}

    @property
    def denoiser(self) -> str:
        """The name of the denoiser's calls."""
        return self.model.denoiser.name

    @property
    def epsilon(self) -> float:
        """The unit of rounding of arrays in the port's number format."""
        return EPSILONS[self.dtype]

    def calls(self, kind: str) -> list[TraceEntry]:
        """Return the whole-call entries of a kind of call, in order."""
        return [e for e in self.port.entries if not e.layer and e.call.kind == kind]

    def texts(self, encoder: str) -> list[TraceEntry]:
        """Return the calls of a text encoder, also those of other parts of the trace."""
        return self.calls_of_all(encoder)

    def calls_of_all(self, kind: str) -> list[TraceEntry]:
        """Return the whole-call entries of a kind of call of all parts of the trace, in order."""
        run = self if self.whole is None else replace(self, port=self.whole, whole=None)
        return run.calls(kind)

    def read(self, entry: TraceEntry | None, *roles: str) -> np.ndarray | None:
        """Return the first recorded input of these roles."""
        found = self.recorded(entry, *roles)
        return None if found is None else found.array

    def read_output(self, entry: TraceEntry | None, *roles: str) -> np.ndarray | None:
        """Return the first recorded output of these roles."""
        found = self.recorded_output(entry, *roles)
        return None if found is None else found.array

    def recorded(self, entry: TraceEntry | None, *roles: str) -> RecordedArray | None:
        """Return the first recorded input of these roles, in order to compare it."""
        return None if entry is None else self._recorded(entry, INPUT, roles)

    def recorded_output(self, entry: TraceEntry | None, *roles: str) -> RecordedArray | None:
        """Return the first recorded output of these roles, in order to compare it."""
        return None if entry is None else self._recorded(entry, OUTPUT, roles or (OUTPUT,))

    def _recorded(self, entry: TraceEntry, side: str, roles: Sequence[str]) -> RecordedArray | None:
        names = (ArrayName(entry.name, side, role) for role in roles)
        for name in names:
            tensor = name.tensor_name_of(entry)
            if tensor is not None:
                return RecordedArray((name,), read_array(self.port, tensor))
        return None

    def number(self, entry: TraceEntry | None, *roles: str) -> float | None:
        """Return a recorded number: an array of equal values."""
        x = self.read(entry, *roles)
        return None if x is None or not x.size else float(np.ravel(x)[0])

    # -- the schedule -----------------------------------------------------------------------------

    @cached_property
    def config(self) -> SchedulerConfig:
        """The scheduler: the port's choice of it, on the checkpoint's forward process."""
        own = self.model.config.scheduler
        described = self.port.manifest.get("scheduler")
        if not described or "class" not in described:
            return own
        try:
            theirs = convert_scheduler_config(
                described.get("config", {}),
                described["class"],
                str(self.port.manifest.get("pipeline", "")),
            )
        except LdmrefError:
            return own  # see `unknown_scheduler`
        theirs = replace(theirs, **{name: getattr(own, name) for name in OF_THE_CHECKPOINT})
        if theirs.path is FLOW and self._spaces_itself:
            theirs = replace(theirs, spacing="flow_table")
        self._name_differences(theirs, own)
        mu = self.request.get("mu")
        if theirs.dynamic_shift and isinstance(mu, int | float):  # instead of one by the tokens
            return replace(theirs, shift_rule="linear", base_shift=float(mu), max_shift=float(mu))
        return theirs

    @property
    def _spaces_itself(self) -> bool:
        """Whether the scheduler of a pipeline that no family reads was given no levels.

        Then the levels are those of its table, as in the pipelines of SD3.
        """
        kind = self.port.manifest.get("pipeline")
        known = isinstance(kind, str) and kind in self.model.family.folders
        entry = self.schedule_entry
        return not known and entry is not None and not {"sigmas", "timesteps"} & {*entry.inputs}

    @cached_property
    def unknown_scheduler(self) -> str:
        """Why the port's scheduler has no equal in ldmref; "" if it has one."""
        described = self.port.manifest.get("scheduler")
        if not described or "class" not in described:
            return ""
        kind = str(described["class"])
        pipeline = str(self.port.manifest.get("pipeline", ""))
        try:
            theirs = convert_scheduler_config(described.get("config", {}), kind, pipeline)
        except LdmrefError as error:
            return f"the port's scheduler, {kind}, has no equal in ldmref: {error}"
        if (theirs.path is FLOW) != (self.model.config.scheduler.path is FLOW):
            return f"the port's scheduler, {kind}, has another path than the model"
        return ""

    def _name_differences(self, theirs: SchedulerConfig, own: SchedulerConfig) -> None:
        """Note the settings by which the port's steps are judged, and that the model has not."""
        differing = [
            f"{each.name} {getattr(theirs, each.name)!r} instead of {getattr(own, each.name)!r}"
            for each in fields(SchedulerConfig)
            if getattr(theirs, each.name) != getattr(own, each.name)
        ]
        if differing:
            listed = abbreviated(differing, MOST_SETTINGS)
            self.notes.append(
                f"the port's own scheduler settings are used, not the model's: {listed}"
            )

    @property
    def is_diffusers(self) -> bool:
        """Whether the steps are those of a scheduler of diffusers."""
        return any("model_output" in step.inputs for step in self.calls("sampler"))

    @cached_property
    def path(self) -> NoisePath:
        """The path of the states: recorded, otherwise that of the model."""
        for entry in (self.schedule_entry, *self.calls("sampler")[:1]):
            name = None if entry is None else entry.attributes.get("path")
            if isinstance(name, str) and name in PATHS:
                return PATHS[name]
        return self.config.path

    @property
    def states_on_path(self) -> bool:
        """Whether states are on the path; those of some schedulers of diffusers are x_t."""
        if not self.is_diffusers or self.path is FLOW:
            return True
        return self.choose_sampler(self.config)[0].family == "euler"

    @cached_property
    def latent_scale(self) -> LatentScale:
        """How the latents of the model follow from those of its encoder, in float64."""
        return self.model.latent_scale(NumpyBackend(dtype="float64"))

    def normalize(self, z: np.ndarray | None) -> np.ndarray | None:
        """Return the latents of what an encoder returned; None if it has another shape."""
        return self._normalized(z, self.latent_scale.normalize, self.latent_scale.config.patch)

    def denormalize(self, latents: np.ndarray | None) -> np.ndarray | None:
        """Return what a decoder reads of latents; None if they have another shape."""
        return self._normalized(latents, self.latent_scale.denormalize, 1)

    def _normalized(
        self, x: np.ndarray | None, function: Callable[[np.ndarray], np.ndarray], patch: int
    ) -> np.ndarray | None:
        """Return a function of an array, if its channels are the latents' or those of a patch."""
        config = self.latent_scale.config
        if x is None:
            return None
        if self.latent_scale.kind.scales is None:  # two numbers scale an array of any shape
            fits = x.ndim == 4 and x.shape[1] * patch**2 == config.latent_channels
            if not fits or x.shape[2] % patch or x.shape[3] % patch:
                return None
        return function(x)

    @cached_property
    def tokens(self) -> int:
        """The number of image tokens, on which the schedule of some flows depends."""
        steps = self.calls("sampler")
        state = self.read(steps[0], "sample", "x") if steps else None
        if state is None or state.ndim != 4:
            return 0
        factor = self.model.config.vae.factor
        return self.model.config.count_tokens(state.shape[3] * factor, state.shape[2] * factor)

    @cached_property
    def schedule_entry(self) -> TraceEntry | None:
        """The recorded schedule."""
        return next(iter(self.calls("schedule")), None)

    def choose_sampler(self, config: SchedulerConfig) -> tuple[Sampler, str | Spacing]:
        """Return the sampler of the run and its spacing."""
        attributes = {} if self.schedule_entry is None else self.schedule_entry.attributes
        name = attributes.get("sampler", self.params.get("sampler"))
        spacing = attributes.get("name", self.params.get("schedule"))
        if self.is_diffusers:
            name = spacing = None
        return choose_sampler(name, spacing, config)

    @cached_property
    def steps(self) -> int | None:
        """The number of steps of the whole schedule; None if it is not known."""
        attributes = {} if self.schedule_entry is None else self.schedule_entry.attributes
        for value in (
            attributes.get("steps"),
            self.params.get("num_inference_steps"),
            self.params.get("steps"),
        ):
            if isinstance(value, int) and value > 0:
                return value
        return len(self.recorded_timesteps) or len(self.calls("sampler")) or None

    @cached_property
    def recorded_timesteps(self) -> list[float]:
        """The timesteps at the ends of steps, from the recorded schedule, otherwise the steps."""
        recorded = self.read_output(self.schedule_entry, "timesteps")
        if recorded is None:
            found = [self.number(step, "timestep") for step in self.calls("sampler")]
            recorded = np.array([t for t in found if t is not None])
        timesteps = np.ravel(recorded).astype(np.float64).tolist()
        if self.is_diffusers and self.choose_sampler(self.config)[0].nfe == 2:
            timesteps = timesteps[::2]  # the others are those of second evaluations
        return list(dict.fromkeys(timesteps))

    def make_schedule(
        self, config: SchedulerConfig | None = None, spacing: str | None = None
    ) -> Schedule | None:
        """Return the schedule of the run; None if it is not known."""
        config = config or self.config
        if self.steps is None:
            return None
        try:
            sampler, own = self.choose_sampler(config)
            with np.errstate(all="ignore"):
                levels = None if spacing else self._own_sigmas(config)
                steps = self.steps if levels is None else len(levels) - 1
                spaced = spacing or own
                made = make_schedule(config, sampler, spaced, steps, levels, self.path, self.tokens)
                share = self._map_strength
                return made if share is None or levels is not None else from_strength(made, share)
        except (LdmrefError, ValueError, ZeroDivisionError) as error:
            self.notes.append(f"the schedule cannot be computed: {error}")
            return None

    @property
    def _map_strength(self) -> float | None:
        """The strength at which a flow map of ldmref's begins; None: with pure noise."""
        strength = None if self.is_diffusers else self.params.get("strength")
        is_map = isinstance(strength, int | float) and takes_all_steps(self.model.config, strength)
        return strength if is_map else None

    def sigma_at(self, t: float, schedule: Schedule | None = None) -> float | None:
        """Return the noise level of a timestep in a schedule, by default that of the run.

        None: the schedule is not known, or does not have the timestep.
        """
        schedule = schedule or self.make_schedule()
        if schedule is None:
            return None
        index = int(np.argmin(np.abs(schedule.timesteps - t)))
        near = abs(schedule.timesteps[index] - t) < 1e-3 * max(abs(t), 1.0)
        return float(schedule.sigmas[index]) if near else None

    def _own_sigmas(self, config: SchedulerConfig) -> list[float] | None:
        """Return the noise levels that the caller gave, the last one included; None: none."""
        asked = None if self.is_diffusers else self.params.get("sigmas")
        if isinstance(asked, list) and asked:
            return [float(sigma) for sigma in asked]
        sigmas = self.read(self.schedule_entry, "sigmas")
        timesteps = self.read(self.schedule_entry, "timesteps")
        if sigmas is None and timesteps is not None and self.path is VE:
            sigmas = sampling_sigmas(config)[timesteps.astype(np.int64)]
        if sigmas is None:
            return None
        levels = np.ravel(sigmas).astype(float).tolist()
        if self.is_diffusers and self.path is FLOW:  # whose scheduler shifts what it is given
            levels = shift_levels(config, np.asarray(levels), self.tokens).tolist()
        ends = len(levels) == len(self.recorded_timesteps) + 1  # else the scheduler adds 0
        return levels if ends else [*levels, 0.0]
