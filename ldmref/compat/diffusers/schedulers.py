"""The schedulers of diffusers by name: configurations that choose ldmref's sampler and schedule.

    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)

`from_config` chooses fields as diffusers does: fields of the configuration that were never set get
the default of the new class, and fields that only other classes have are kept for these.

Source: diffusers 0.42.1, `configuration_utils.py`, `extract_init_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ldmref.compat.diffusers.components import FrozenConfig
from ldmref.compat.diffusers.descriptions import SCHEDULER
from ldmref.errors import InputError, UsageError, did_you_mean, short_path
from ldmref.io.diffusers.scheduler import (
    CORRECTED,
    FIELDS,
    PREDICTIONS,
    SCHEDULES,
    convert_scheduler_config,
)
from ldmref.modes.resolve import choose_sampler
from ldmref.samplers import GuidedDenoiser, configured_step, make_schedule, sample
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.interfaces import Guided
from ldmref.support.files import read_json

FILE = "scheduler_config.json"
USED = "_use_default_values"
# Classes whose states have the scale x0 + sigma eps; the others divide by sqrt(1 + sigma^2).
EXPLODING = """
    EulerDiscreteScheduler EulerAncestralDiscreteScheduler HeunDiscreteScheduler
    LMSDiscreteScheduler KDPM2DiscreteScheduler KDPM2AncestralDiscreteScheduler
""".split()
SECOND_ORDER = {
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
}
WITH_ETA = {"DDIMScheduler", "DDIMParallelScheduler", "TCDScheduler"}


class Scheduler:
    """A scheduler of diffusers, with its configuration and timesteps.

    Args:
        fields: Fields of diffusers' class; others keep its defaults.

    Raises:
        UsageError: The class does not have such a field.

    Attributes:
        config: The configuration, a read-only dictionary.
        timesteps: The timesteps of the network's evaluations, after `set_timesteps` or a call of
            the pipeline; None before.
        sigmas: The noise levels, (n + 1,), at the same time; None before.
        init_noise_sigma: The standard deviation of the initial latents, at the same time.
    """

    kind: ClassVar[str] = ""

    def __init__(self, **fields: object):
        self._check_names(fields)
        self._configure(fields, {})

    @classmethod
    def _check_names(cls, fields: Mapping[str, Any]) -> None:
        for name in fields:
            if name not in FIELDS[cls.kind]:
                message = f"{cls.kind} has no field {name!r}"
                hint = did_you_mean(name, FIELDS[cls.kind])
                raise UsageError(message, code="E-SCHEDULER", hint=hint)

    def _configure(self, fields: Mapping[str, Any], hidden: Mapping[str, Any]) -> None:
        """Set the configuration: the fields of the class, and hidden ones of other classes."""
        defaults = FIELDS[self.kind]
        unset = sorted(defaults.keys() - fields.keys())
        values = {**defaults, **fields, **hidden, "_class_name": self.kind, USED: unset}
        self._set(FrozenConfig(values))

    def _set(self, config: FrozenConfig) -> None:
        self.config = config
        self._native: SchedulerConfig | None = None
        self.num_inference_steps: int | None = None
        self.timesteps: np.ndarray | None = None
        self.sigmas: np.ndarray | None = None
        self.init_noise_sigma: float | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: object) -> Any:
        """Return a scheduler of this class with the configuration of another scheduler.

        Args:
            config: The `config` of a scheduler, or the contents of scheduler_config.json.
            changes: Fields that replace those of the configuration.

        Raises:
            UsageError: `config` is not a dictionary, or the class does not have a changed field.
        """
        if not isinstance(config, Mapping):
            raise UsageError(
                f"from_config needs a configuration, not {type(config).__name__}",
                code="E-SCHEDULER",
                hint="scheduler.config; from_pretrained opens a folder",
            )
        cls._check_names(changes)
        made = cls.__new__(cls)
        unset = config.get(USED, ())
        passed = {name: value for name, value in config.items() if name not in unset}
        known = {name: value for name, value in passed.items() if name in FIELDS[cls.kind]}
        hidden = {n: v for n, v in passed.items() if n not in known and not n.startswith("_")}
        made._configure({**known, **changes}, hidden)
        return made

    @classmethod
    def from_pretrained(cls, folder: str | Path, subfolder: str | None = None, **_: object) -> Any:
        """Return the scheduler of a folder: `from_pretrained(model, subfolder="scheduler")`.

        Args:
            folder: The folder of the scheduler, or of the model.
            subfolder: The folder of the scheduler in that of the model. None: `folder` itself.

        Raises:
            InputError: The folder lacks a scheduler_config.json, or that holds something else.
        """
        path = Path(folder, subfolder or "", FILE)
        return cls.from_config(read_config(path))

    def correct(self, pipeline: str) -> None:
        """Set the fields that `pipeline`, a pipeline of diffusers, sets when it is built."""
        corrected = CORRECTED.get(pipeline, {})
        values = {name: value for name, value in corrected.items() if name in self.config}
        if any(self.config[name] != value for name, value in values.items()):
            self._set(FrozenConfig({**self.config, **values}))

    def set_timesteps(self, num_inference_steps: int, device: object = None) -> None:
        """Compute `timesteps`, `sigmas` and `init_noise_sigma` for a number of steps.

        Args:
            num_inference_steps: Number of steps.
            device: Not used: arrays are NumPy's. None or any device.
        """
        self.timesteps = self.evaluations(num_inference_steps)
        sampler, spacing = choose_sampler(None, None, self.native)
        schedule = make_schedule(self.native, sampler, spacing, num_inference_steps)
        self.num_inference_steps = num_inference_steps
        self.sigmas = schedule.sigmas
        self.init_noise_sigma = schedule.init_noise_sigma if self.explodes else 1.0

    def evaluations(self, steps: int, first_step: int = 0) -> np.ndarray:
        """Return the timestep of every evaluation of the network, (k,).

        They are found by a run of the sampler on a single number. Methods of second order evaluate
        the network twice in a step.

        Args:
            steps: Number of steps of the schedule.
            first_step: Number of steps that are skipped, as in image to image.
        """
        sampler, spacing = choose_sampler(None, None, self.native)
        schedule = make_schedule(self.native, sampler, spacing, steps)
        step, visits = configured_step(
            self.native, sampler, schedule, first_step=first_step, bug_compatible=True
        )
        seen = []

        def predict(
            x: object,
            sigma: float,
            memory: object,
            unconditional: bool,
            interval: Any,
            scale: object,
        ):
            seen.append(schedule.timestep(sigma, interval))
            return Guided(x, None, ())

        one = np.zeros(1)
        denoise = GuidedDenoiser(predict)
        for _ in sample(denoise, one, schedule.sigmas, step, noise=lambda: one, visits=visits):
            pass
        whole = not self.explodes
        return np.asarray(seen, np.int64 if whole else np.float32)

    @property
    def native(self) -> SchedulerConfig:
        """The same as a configuration of ldmref.

        Raises:
            UnsupportedModelError: A value that ldmref does not support.
        """
        if self._native is None:
            self._native = convert_scheduler_config(self.config, self.kind)
        return self._native

    @property
    def explodes(self) -> bool:
        """Whether states have the scale x0 + sigma eps instead of the variance-preserving one."""
        return self.kind in EXPLODING

    @property
    def order(self) -> int:
        """The evaluations of the network that a step takes."""
        return 2 if self.kind in SECOND_ORDER else 1

    @property
    def has_eta(self) -> bool:
        """Whether the class uses the argument `eta` of a pipeline."""
        return self.kind in WITH_ETA

    def samples(self, timesteps: np.ndarray, eta: float) -> int:
        """Return how often diffusers samples noise in the evaluations at these timesteps.

        Some classes also sample noise where its factor is 0, which moves the generator on.

        Args:
            timesteps: Timesteps of the evaluations, (k,).
            eta: The argument `eta` of the pipeline.
        """
        evaluated = len(timesteps)
        stochastic = str(self.config.get("algorithm_type")).startswith("sde-")
        if self.kind == "TCDScheduler":
            return evaluated - 1 if eta > 0 else 0
        if self.has_eta:
            return evaluated if eta > 0 else 0
        if self.kind in ("DDPMScheduler", "DDPMParallelScheduler"):
            return int(np.count_nonzero(timesteps))
        if self.kind == "KDPM2AncestralDiscreteScheduler":
            return evaluated // 2
        if self.kind == "EulerAncestralDiscreteScheduler" or stochastic:
            return evaluated
        return 0

    @property
    def noise_dtype(self) -> str | None:
        """The dtype in which the class samples noise; None: that of the model."""
        return "float32" if self.kind == "DPMSolverMultistepScheduler" else None

    @property
    def compatibles(self) -> list[type[Scheduler]]:
        """The classes that can take over this configuration."""
        return [cls for kind, cls in SCHEDULERS.items() if kind != self.kind]

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{self.kind} of ldmref.compat.diffusers has no {name!r}: it configures a pipeline; "
            "ldmref.samplers has the steps themselves"
        )

    def __repr__(self) -> str:
        fields = {n: v for n, v in self.config.items() if n not in self.config[USED]}
        shown = ", ".join(f"{n}={v!r}" for n, v in fields.items() if not n.startswith("_"))
        return f"{self.kind}({shown})"


def read_config(path: Path) -> dict[str, Any]:
    """Return the contents of a scheduler_config.json.

    Raises:
        InputError: There is no such file, or it does not hold an object.
    """
    config = read_json(path, "E-SCHEDULER")
    if not isinstance(config, dict):
        raise InputError(f"{short_path(path)} does not hold a configuration", code="E-SCHEDULER")
    return config


def native_scheduler(native: SchedulerConfig) -> Scheduler:
    """Return the scheduler of a model that is not a folder of diffusers.

    It shows the forward process, and runs with the model's own sampler and schedule.
    """
    kinds = {name: kind for kind, name in SCHEDULES.items()}
    predictions = {name: prediction for prediction, name in PREDICTIONS.items()}
    scheduler = SCHEDULERS["DDIMScheduler"](
        num_train_timesteps=native.num_train_timesteps,
        beta_start=native.beta_start,
        beta_end=native.beta_end,
        beta_schedule=kinds[native.beta_schedule],
        trained_betas=list(native.trained_betas) or None,
        prediction_type=predictions[native.prediction_type],
        rescale_betas_zero_snr=native.rescale_betas_zero_snr,
        clip_sample=False,
    )
    scheduler._native = native
    return scheduler


def _define(kind: str) -> type[Scheduler]:
    doc = SCHEDULER.format(kind=kind)
    return type(kind, (Scheduler,), {"kind": kind, "__doc__": doc, "__module__": __name__})


SCHEDULERS: dict[str, type[Scheduler]] = {kind: _define(kind) for kind in FIELDS}
