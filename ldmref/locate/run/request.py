"""What a recorded run was asked for, also where the recording does not say it.

A port may record arrays alone. Then its request is read from them: the steps that it took, the
scale and the latents that it used, the image that its encoder was given. Nothing says whether these
are what they should be, so they have no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ldmref.locate.run.calls import INPUT, JUMP, OUTPUT, SCHEDULE, ArrayName
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.checks import MODE_OF
from ldmref.modes.embeddings import NAMES as EMBEDDINGS
from ldmref.modes.registry import MODES
from ldmref.modes.request_inputs import recorded_request
from ldmref.samplers.parts import COMBINE, STEP
from ldmref.trace.calls import CONSTRAIN, REQUESTED
from ldmref.trace.model import Trace, TraceEntry

IMAGE, ENCODER, LOW_RESOLUTION = "image", "vae.encode", "low_resolution"
LATENTS, MASK, SEGMENTATION = "latents", "mask", "segmentation"
NO_PROMPT = "no prompt was recorded"
NO_SCALE = "no guidance scale that was asked for was recorded"
NO_IMAGE = "no image of the request was recorded"
NO_NOISE = "no noise of the request was recorded"
NO_WEIGHT = "no weight of a ControlNet was recorded"
CONTROL, REFERENCES = "control", "references"
HINTS = ("hint", "controlnet_cond")
LEVELS = ("sigma", "sigma_next")
ANY_SCALE = 2.0  # of guidance: the one that was used is fitted
WITHOUT_TEXT = ("x", "t", "t_next", "guidance", "sizes")


@dataclass(frozen=True)
class RecordedRequest:
    """The request of a recorded run.

    Attributes:
        port: The recorded run.
        model: The model that ran.
        nets: The ControlNets of the run, in their order.
        guide: The weaker model of autoguidance. None: there is none.
        assumed: The arrays from which it was read, and why.
    """

    port: Trace
    model: LatentDiffusion
    nets: Sequence[ControlNet] = ()
    guide: LatentDiffusion | None = None
    assumed: dict[ArrayName, str] = field(default_factory=dict)

    def read(self) -> tuple[str, dict[str, Any]] | str:
        """Return the mode and the parameters, or in words why they are not known."""
        record, inputs = {**self.params}, dict(self.inputs)
        if not record:
            record = self._of_steps(inputs)
        record.setdefault("mode", self._mode)
        takes = MODES[record["mode"]].parameters if record["mode"] in MODES else {}
        if "prompt" in takes and "prompt" not in record:
            record |= self._texts(inputs)
        if LATENTS in record and LATENTS not in inputs:
            inputs |= self._latents()
        if IMAGE in takes and takes[IMAGE].required and IMAGE not in inputs:
            inputs[IMAGE] = self._image()
        if MASK in takes and takes[MASK].required and MASK not in inputs:
            inputs |= self._mask(bool(record.get("mask_invert")))
        if SEGMENTATION in takes and SEGMENTATION not in inputs:
            inputs[SEGMENTATION] = self._segmentation()
        if REFERENCES in takes and not any(name.startswith(REFERENCES) for name in inputs):
            inputs |= self._references(len(record.get(REFERENCES) or ()))
        if CONTROL in takes and not any(name.startswith(CONTROL) for name in inputs):
            inputs |= self._controls()
        return recorded_request(record, inputs, self.nets, self.guide)

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters that were recorded."""
        found = self.port.manifest.get("params")
        return found if isinstance(found, Mapping) else {}

    @property
    def names_sampler(self) -> bool:
        """Whether the sampler of the run was recorded; that of a request may be the model's own."""
        schedule = next(self._calls(SCHEDULE), None)
        return bool(self.params) or (schedule is not None and "sampler" in schedule.attributes)

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """The images and arrays of the request that were recorded, by parameter."""
        entry = self.port.find(REQUESTED)
        names = {} if entry is None else entry.inputs
        return {role: np.asarray(self.port.tensors[name]) for role, name in names.items()}

    @property
    def _mode(self) -> str:
        """The first mode that has all recorded parameters, whose steps go as the recorded ones."""
        if self.model.config.concat in MODE_OF:
            return MODE_OF[self.model.config.concat]
        if self._inverts:
            return "invert"
        known = {name for mode in MODES.values() for name in mode.parameters} & set(self.params)
        fitting = (name for name in ORDER if known <= {*MODES[name].parameters})
        return next(fitting, ORDER[0])

    @property
    def _inverts(self) -> bool:
        """Whether its steps lead to noise."""
        step = next(self._calls(STEP.call), None)
        levels = [] if step is None else [self._number(step, role) for role in LEVELS]
        first, second = levels if len(levels) == 2 else (None, None)
        return first is not None and second is not None and first < second

    def _calls(self, kind: str) -> Iterator[TraceEntry]:
        return (e for e in self.port.entries if not e.layer and e.call.kind == kind)

    def _first(self, kind: str, side: str, *roles: str) -> tuple[ArrayName, np.ndarray] | None:
        """Return the first array of one of some roles that calls of a kind have."""
        for entry in self._calls(kind):
            for role in roles:
                name = ArrayName(entry.name, side, role)
                x = name.tensor_in(self.port)
                if x is not None:
                    return name, x
        return None

    def _latents(self) -> dict[str, np.ndarray]:
        """Return the states with which the images of the run begin, by parameter.

        What it was given was not drawn, as all other noise of the run may not have been.
        """
        self._assume_noises()
        step = next(self._calls(STEP.call), None)
        level = None if step is None else self._number(step, LEVELS[0])
        found = []
        for entry in self._calls(STEP.call):
            name = ArrayName(entry.name, INPUT, "x")
            x = name.tensor_in(self.port)
            if x is not None and self._number(entry, LEVELS[0]) == level:
                self.assumed[name] = NO_NOISE
                found.append(np.asarray(x, np.float32))
        return {LATENTS: np.concatenate(found)} if found else {}

    def _image(self) -> np.ndarray:
        """Return the image that was encoded or joined, as bytes (h, w, 3); black if unknown."""
        joined = self._first(LOW_RESOLUTION, OUTPUT, OUTPUT)
        if joined is not None and joined[1].ndim == 4:
            return _as_bytes(0.5 * joined[1][0] + 0.5)
        found = self._encoded(0)
        width, height = self._size
        return np.zeros((height, width, 3), np.uint8) if found is None else found

    def _mask(self, inverted: bool) -> dict[str, np.ndarray]:
        """Return the mask (h, w) where known parts were put back, by parameter; {} if unknown."""
        kept: np.ndarray | None = None
        for entry in self.port.entries:
            if entry.layer != CONSTRAIN:
                continue
            before = ArrayName(entry.name, INPUT, INPUT).tensor_in(self.port)
            after = ArrayName(entry.name, OUTPUT, OUTPUT).tensor_in(self.port)
            if before is not None and after is not None and before.shape == after.shape:
                changed = np.any(before != after, axis=(0, 1))
                kept = changed if kept is None else kept & changed
        if kept is None:
            return {}
        factor = self.model.config.vae.factor
        return {MASK: np.kron(kept == inverted, np.ones((factor, factor), bool))}

    def _segmentation(self) -> np.ndarray:
        """Return the classes that the encoder of a map was given, (h, w); class 0 if unknown."""
        found = self._first("cond_stage", INPUT, "onehot")
        if found is not None and found[1].ndim == 4:
            self.assumed[found[0]] = NO_IMAGE
            return np.argmax(found[1][0], axis=0)
        width, height = self._size
        return np.zeros((height, width), np.int64)

    def _encoded(self, number: int) -> np.ndarray | None:
        """Return an image that the encoder was given, as bytes (h, w, 3); None: it is unknown."""
        calls = [*self._calls(ENCODER)]
        for role in calls[number].inputs if number < len(calls) else ():
            name = ArrayName(calls[number].name, INPUT, role)
            x = name.tensor_in(self.port)
            if x is not None and x.ndim == 4 and x.shape[1] >= 3:
                self.assumed[name] = NO_IMAGE
                return _as_bytes(0.5 * x[0, :3] + 0.5)
        return None

    def _references(self, count: int) -> dict[str, np.ndarray]:
        """Return the reference images that the encoder was given, by parameter."""
        found = {f"{REFERENCES}.{i}": self._encoded(i) for i in range(count)}
        return {name: x for name, x in found.items() if x is not None}

    def _controls(self) -> dict[str, np.ndarray]:
        """Return images of the size of what ControlNets were given, by parameter.

        Those that the encoder was given are known; then the hints follow from what it returned.
        """
        width, height = self._size
        blank = np.zeros((height, width, 3), np.uint8)
        found = {f"{CONTROL}.{i}": blank for i in range(len(self.nets))}
        encoded = [i for i, net in enumerate(self.nets) if not _reads_pixels(net)]
        first = len([*self._calls(ENCODER)]) - len(encoded)  # they are encoded last
        known = bool(encoded) and first >= 0 and not self.model.config.image_channels
        images = [self._encoded(first + k) for k in range(len(encoded))] if known else []
        for i, image in zip(encoded, images, strict=False):
            found[f"{CONTROL}.{i}"] = blank if image is None else image
        if len(images) == len(self.nets) and all(image is not None for image in images):
            return found
        for entry in self.port.entries if found else ():
            if entry.call.kind.startswith("controlnet"):
                names = [ArrayName(entry.name, INPUT, role) for role in HINTS]
                self.assumed.update(dict.fromkeys(names, NO_IMAGE))
        return found

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Width and height of the images."""
        asked = [self.params.get(name) for name in ("width", "height")]
        if all(isinstance(size, int) for size in asked):
            return asked[0], asked[1]  # type: ignore[return-value]
        state = self._first(STEP.call, INPUT, "x", "sample")
        factor = self.model.config.vae.factor
        sides = (8, 8) if state is None or state[1].ndim != 4 else state[1].shape[2:]
        return sides[1] * factor, sides[0] * factor

    def _texts(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return prompts that nobody knows: what the networks read of them says nothing."""
        if any(name in inputs for name in EMBEDDINGS):
            return {"prompt": None}
        known = {x.role for x in self.model.denoiser.inputs if x.argument in WITHOUT_TEXT}
        for entry in self.port.entries:
            kind = entry.call.kind
            encoder = kind.startswith(("tokens", "text_encoder"))
            reads = kind == self.model.denoiser.name or kind.startswith("controlnet")
            if not entry.layer and (encoder or reads):
                roles = [role for role in entry.inputs if encoder or role not in known]
                names = [ArrayName(entry.name, INPUT, role) for role in roles]
                if encoder:
                    names += [ArrayName(entry.name, OUTPUT, role) for role in entry.outputs]
                self.assumed.update(dict.fromkeys(names, NO_PROMPT))
        if any(x.content == "labels" for x in self.model.denoiser.inputs):
            return {"prompt": "0", "negative_prompt": ""}
        return {"prompt": "", "negative_prompt": "x"}

    def _of_steps(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the parameters that steps and guidance were recorded with, and add the noise."""
        steps = [*self._calls(STEP.call)]
        schedule = next(self._calls(SCHEDULE), None)
        attributes = {} if schedule is None else schedule.attributes
        first, count = self._visited(attributes, len(steps))
        record: dict[str, Any] = {"steps": count or 1}
        masked = any(entry.layer == CONSTRAIN for entry in self.port.entries)
        record |= {"rng": "torch", "mode": "inpaint" if masked else "txt2img"}
        if first and not masked:
            record |= {"mode": "img2img", "strength": 1.0 - first / record["steps"]}
        if self._inverts:
            record["mode"] = "invert"
        if steps and "prediction.1" in steps[0].inputs:
            record["sampler"] = "heun"  # the best known one with two evaluations
        for parameter, attribute in (("sampler", "sampler"), ("schedule", "name")):
            if isinstance(attributes.get(attribute), str):
                record[parameter] = attributes[attribute]
        for name in ("eta", "iterations"):
            if steps and name in steps[0].attributes:
                record[name] = steps[0].attributes[name]
        self._assume_noises()
        record["cfg_scale"] = self._scale()
        if self.nets:
            record[CONTROL] = [{} for _ in self.nets]
            for entry in self._calls(self.model.denoiser.name):
                added = (role for role in entry.inputs if role.startswith(f"{CONTROL}."))
                names = (ArrayName(entry.name, INPUT, role) for role in added)
                self.assumed.update(dict.fromkeys(names, NO_WEIGHT))
        state = self._first(STEP.call, INPUT, "x", "sample")
        width, height = self._size
        if state is not None and state[1].ndim == 4:
            name, x = state
            self.assumed[name] = NO_NOISE
            if record["mode"] == "txt2img":
                record |= {"height": height, "width": width, "seed": [0] * len(x)}
                inputs[LATENTS] = np.asarray(x, np.float32)
        return record

    def _assume_noises(self) -> None:
        """Note that nothing says what noise should be: of steps, jumps and parts of an image."""
        for entry in self.port.entries:
            noises = [role for role in entry.inputs if role.startswith("noise")]
            names = [ArrayName(entry.name, INPUT, role) for role in noises]
            if entry.layer == CONSTRAIN:
                names = [ArrayName(entry.name, OUTPUT, OUTPUT)]
            if entry.call.kind in (STEP.call, JUMP):
                self.assumed.update(dict.fromkeys(names, NO_NOISE))

    def _visited(self, attributes: Mapping[str, Any], steps: int) -> tuple[int, int]:
        """Return the number of the first level that was visited, and that of the schedule's steps.

        Args:
            attributes: Those of the recorded schedule.
            steps: How many steps were recorded.
        """
        count, visits = attributes.get("steps"), attributes.get("visits")
        found = self._first("schedule", OUTPUT, "sigmas")
        levels = np.zeros(0) if found is None else np.ravel(found[1]).astype(np.float64)
        if not isinstance(count, int):
            count = max(len(levels) - 1, steps)
        if isinstance(visits, list) and visits and isinstance(visits[0], int):
            return visits[0], count
        step = next(self._calls(STEP.call), None)
        sigma = None if step is None else self._number(step, LEVELS[0])
        if sigma is None or len(levels) < 2 or self._inverts:
            return 0, count
        return int(np.argmin(np.abs(levels - sigma))), count

    def _scale(self) -> float:
        """Return the guidance scale that was used, which nothing says to be right."""
        scale = self._recorded_scale
        if scale is None:
            return ANY_SCALE if self._is_guided else 1.0
        name, x = scale
        calls = self._calls(name.call.kind)
        names = (ArrayName(entry.name, INPUT, name.role) for entry in calls)
        self.assumed.update(dict.fromkeys(names, NO_SCALE))
        return float(x.flat[0])

    @cached_property
    def _recorded_scale(self) -> tuple[ArrayName, np.ndarray] | None:
        """The first guidance scale that guidance read, or else the network."""
        denoiser = self.model.denoiser
        inputs = (*denoiser.inputs, *denoiser.optional)
        read = [(denoiser.name, x.role) for x in inputs if x.argument == "guidance"]
        roles = ((COMBINE.call, "scale"), *read)
        found = (self._first(kind, INPUT, role) for kind, role in roles)
        return next((scale for scale in found if scale is not None and scale[1].size), None)

    @property
    def lacks_scale(self) -> bool:
        """Whether a run is guided, and nothing says by which scale."""
        return not self.params and self._recorded_scale is None and self._is_guided

    @property
    def _is_guided(self) -> bool:
        """Whether two predictions of each state were recorded."""
        if self._first(COMBINE.call, INPUT, "uncond") is not None:
            return True
        denoiser = self.model.denoiser
        roles = [x.role for x in denoiser.inputs if x.argument == "x"]
        latents = self._first(denoiser.name, INPUT, *roles)
        state = self._first(STEP.call, INPUT, "x", "sample")
        return latents is not None and state is not None and len(latents[1]) == 2 * len(state[1])

    def _number(self, entry: TraceEntry, role: str) -> float | None:
        x = ArrayName(entry.name, INPUT, role).tensor_in(self.port)
        return None if x is None or not x.size else float(x.flat[0])


def _reads_pixels(net: ControlNet) -> bool:
    """Return whether a ControlNet reads the pixels of its image, not the latents of them."""
    encoder = net.hint_encoder
    return encoder is not None and encoder.inputs[0].content == "hint"


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (3, h, w) from 0 to 1 as bytes (h, w, 3)."""
    scaled = np.nan_to_num(255.0 * pixels.astype(np.float64).transpose(1, 2, 0))
    return np.clip(np.rint(scaled), 0.0, 255.0).astype(np.uint8)


ORDER = ("txt2img", "img2img", "inpaint", "invert", "edit", "interpolate", "superres", "seg2img")
