"""The evaluations of a recorded run of diffusers, as those of a run of ldmref.

A prediction may be a part of a batch, or have a call of the denoiser for itself. Which predictions
a step has, and the rule that combines them, is read from the recording; whether they are those that
were asked for, `ldmref.locate.pipeline.asked` judges.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from ldmref.locate.parts.rules import (
    NUMBERS,
    GuidanceOfSteps,
    RecordedRule,
    as_recorded,
    guidance_rule,
)
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.diffusers_images import NotARun
from ldmref.locate.pipeline.evaluations import RunEvaluation, sigma_of
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.run import ArrayPart, RunView
from ldmref.locate.run.calls import INPUT, OUTPUT, ArrayName
from ldmref.samplers.guidances import ClassifierFree
from ldmref.samplers.path import FLOW
from ldmref.trace.model import TraceEntry

TIME = 1e-5  # relative error of the times that networks are given
ROUNDED = 1e-5  # the same of what float32's steps compute, which may amplify roundings
NEAR = 1e-3  # absolute error of times from 0 to 1000, which diffusers interpolates in float32
PLAIN = ("uncond", "cond")  # predictions of classifier-free guidance, in ldmref's order
SCALES = ("skip_scale", "perturbed_scale")
LEAST = 1e-30
FURTHER = ("skipped", "perturbed")  # predictions of a changed network


@dataclass
class RecordedEvaluations:
    """The evaluations of a recorded run.

    Attributes:
        context: The recorded run.
        images: How many images it makes.
        scale: The guidance scale that was asked for.
        first_calls: The first call of the denoiser in each evaluation of ldmref's run.
    """

    context: PipelineContext
    images: int
    scale: float
    first_calls: list[int] = field(default_factory=list)

    @cached_property
    def rules(self) -> list[RecordedRule | None]:
        """The rule of each evaluation; None: it has one prediction.

        Raises:
            NotARun: A rule is not known.
        """
        found: list[RecordedRule | None] = []
        for evaluation in self.context.evaluations:
            guidance = evaluation.guidance
            if guidance is None:
                found.append(None)
                continue
            numbers = {role: self.context.number(guidance, role) for role in NUMBERS}
            for scale in SCALES:
                if numbers[scale] == 0.0:
                    numbers[scale] = LEAST  # the prediction is made, though it adds nothing
            rule = guidance_rule(guidance.attributes, guidance.inputs, numbers)
            if isinstance(rule, str):
                raise NotARun(rule)
            found.append(rule)
        return found

    @property
    def is_plain(self) -> bool:
        """Whether each evaluation has the same rule, of classifier-free guidance."""
        names = {
            None if e.guidance is None else e.guidance.attributes.get("name", "")
            for e in self.context.evaluations
        }
        return len(names) == 1 and names <= {None, "", "rescale"}

    @property
    def guidance(self) -> GuidanceOfSteps:
        """The guidance of all evaluations."""
        path = self.context.path
        levels = [sigma_of(self.context, e) for e in self.context.evaluations]
        schedule = self.context.make_schedule()
        ratios = []
        for level, evaluation in zip(levels, self.context.evaluations, strict=True):
            if level is None:
                time = self.context.number(evaluation.step, "timestep")
                level = None if time is None else self.context.sigma_at(time, schedule)
            if level is None:
                raise NotARun("the level of its guidance is not known")
            ratios.append(path.ratio(level))
        known: dict[float, bool] = {}
        for ratio, rule in zip(ratios, self.rules, strict=True):
            if known.setdefault(ratio, rule is None) != (rule is None):
                raise NotARun("guidance begins or ends between two evaluations of one level")
        rules = tuple(ClassifierFree() if x is None else x.guidance for x in self.rules)
        scales = tuple(1.0 if x is None else self.scale for x in self.rules)
        return GuidanceOfSteps(tuple(ratios), rules, scales)

    @property
    def reads_negative(self) -> bool:
        """Whether a prediction is without the prompt."""
        return any(e.guidance and "uncond" in e.guidance.inputs for e in self.context.evaluations)

    def add(self, view: RunView, apart: Collection[str] = ()) -> None:
        """Add the calls of the denoiser and of the guidance to the view of the run.

        Args:
            view: The view.
            apart: Arguments of the denoiser that are no part of the run.
        """
        left = {role for argument in apart for role in roles_of(self.context, argument)}
        count = 0
        recorded = self.context.calls(self.context.denoiser)
        for index, evaluation in enumerate(self.context.evaluations):
            if not recorded:  # the run continues with the predictions that its steps were given
                self.first_calls.append(index)
                continue
            sources = self._predictions_of(evaluation)
            plain = [part for part in PLAIN if part in sources]
            groups = [*([plain] if plain else []), *([part] for part in FURTHER if part in sources)]
            self.first_calls.append(count)
            rows: dict[str, ArrayPart] = {}
            for group in groups:
                call = ArrayName(f"{self.context.denoiser}.{count:03}/", INPUT, "")
                rows |= {part: self._rows(call, i) for i, part in enumerate(group)}
                self._add_own(view, call, [sources[part] for part in group])
                count += 1
            for network in evaluation.networks:
                mine = [(i, part) for part, (entry, i) in sources.items() if entry is network]
                parts = [rows[part] for _, part in sorted(mine)]
                self._add_recorded(
                    view, network, parts, [x for x in network.inputs if x not in left]
                )
            if evaluation.guidance is not None:
                self._add_guidance(view, index, evaluation.guidance)

    def _rows(self, name: ArrayName, i: int) -> ArrayPart:
        return ArrayPart(name, slice(i * self.images, (i + 1) * self.images))

    def _predictions_of(self, evaluation: RunEvaluation) -> dict[str, tuple[TraceEntry, int]]:
        """Return the call of each prediction, and which part of its batch it is.

        Raises:
            NotARun: It is not known which they are.
        """
        guidance = evaluation.guidance
        roles = () if guidance is None else guidance.inputs
        parts = [part for part in PLAIN if part in roles] or ["cond"]
        if guidance is not None and len(parts) == len(PLAIN):
            parts = [*self.context.halves(guidance)]
            if len(evaluation.networks) == len(PLAIN) and "skipped" not in roles:
                parts = ["cond", "uncond"]
        parts += [part for part in FURTHER if part in roles]
        found: dict[str, tuple[TraceEntry, int]] = {}
        for network in evaluation.networks:
            x = self.context.read(network, "sample")
            count = 0 if x is None else len(x) // self.images
            found |= {part: (network, i) for i, part in enumerate(parts[:count])}
            parts = parts[count:]
        if parts or not found:
            raise NotARun("its predictions are not those of one guidance")
        return found

    def _add_own(
        self, view: RunView, call: ArrayName, sources: list[tuple[TraceEntry, int]]
    ) -> None:
        """Add a call of ldmref's denoiser, whose predictions are rows of recorded calls."""
        first, _ = sources[0]
        for role in first.inputs:  # which are compared, and need not be of each prediction
            name = call._replace(role=role)
            view.own[name] = (self._rows(name._replace(entry=first.name), sources[0][1]),)
        for role in first.outputs:
            name = call._replace(side=OUTPUT, role=role)
            view.own[name] = tuple(
                self._rows(name._replace(entry=entry.name), i) for entry, i in sources
            )

    def _add_recorded(
        self, view: RunView, network: TraceEntry, rows: list[ArrayPart], inputs: list[str]
    ) -> None:
        """Add a recorded call of the denoiser, whose rows are those of ldmref's calls."""
        latents = roles_of(self.context, "x")
        names = [ArrayName(network.name, INPUT, role) for role in inputs]
        names += [ArrayName(network.name, OUTPUT, role) for role in network.outputs]
        for name in names:
            view.recorded[name] = tuple(
                part._replace(name=name._replace(entry=part.name.entry)) for part in rows
            )
            if name.role in latents:
                view.least[name] = ROUNDED
            if name.role == "timestep":
                view.least[name] = TIME
                if self.context.path is not FLOW:
                    view.nearest[name] = NEAR
        self._add_masks(view, network, rows)

    def _add_masks(self, view: RunView, network: TraceEntry, rows: list[ArrayPart]) -> None:
        """Add which mask says what is padding in the texts that a call of the denoiser reads."""
        texts, masks = (roles_of(self.context, argument) for argument in ("context", "mask"))
        declared = (x.role for x in self.context.model.denoiser.inputs if x.argument == "mask")
        recorded = [role for role in masks if role in network.inputs]
        for role in recorded or declared:
            mask = ArrayName(network.name, INPUT, role)
            view.recorded[mask] = tuple(
                part._replace(name=mask._replace(entry=part.name.entry)) for part in rows
            )
            for text in set(texts) & set(network.inputs):
                view.masks[mask._replace(role=text)] = mask

    def _add_guidance(self, view: RunView, index: int, guidance: TraceEntry) -> None:
        """Add a call of the guidance."""
        own = f"guidance.{index:03}/"
        for role in (*PLAIN, *FURTHER):
            name = ArrayName(guidance.name, INPUT, role)
            own_role = str(as_recorded(role)) if role in FURTHER else role
            view.pair(name._replace(entry=own, role=own_role), name)
        output = ArrayName(guidance.name, OUTPUT, OUTPUT)
        view.pair(output._replace(entry=own), output)
