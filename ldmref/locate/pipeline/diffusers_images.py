"""The images of a recorded run of diffusers, as those of a request of ldmref.

What was drawn or given is read from the recording: the noise, the mask, and what was drawn from
the encoder's distributions. Which pixels an encoder was given is no part of the run: pipelines
resize and cut images in ways of their own (`ldmref.locate.pipeline.images` judges that).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.images import repeat_rows
from ldmref.locate.run import RunView
from ldmref.locate.run.calls import OUTPUT, ArrayName
from ldmref.modes.channels import mask_channels
from ldmref.modes.inpaint import reads_mask
from ldmref.modes.masks import find_kept_cells

NO_SPREAD = -np.inf  # log of the variance of what is read as it was drawn
IMAGE, MASKED, CONTROL = "prepare_latents", "prepare_mask_latents", "prepare_image"


class NotARun(Exception):
    """A recording is not a run that ldmref has; the message says why."""


@dataclass(frozen=True)
class RecordedImages:
    """The images, the mask and the noise of a recorded run.

    Attributes:
        context: The recorded run.
        size: Width and height of its images.
    """

    context: PipelineContext
    size: tuple[int, int]

    @cached_property
    def mode(self) -> str:
        """The mode of the run."""
        if self.context.calls("mask"):
            return "inpaint"
        return "img2img" if self.context.calls("add_noise") else "txt2img"

    @cached_property
    def noise(self) -> np.ndarray | None:
        """The noise that is added to an image, of unit variance; None: none is."""
        found = (self.context.read(entry, "noise") for entry in self.context.calls("add_noise"))
        return next((x for x in found if x is not None), None)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The images of the request, by parameter, of whose pixels the run reads nothing."""
        width, height = self.size
        blank = np.zeros((height, width, 3), np.uint8)
        found = {}
        if self.mode != "txt2img":
            found["image"] = blank
        if self.mode == "inpaint":
            found["mask"] = self.mask
        if self._reads_control:
            found["control_image"] = blank
        return found

    @cached_property
    def mask(self) -> np.ndarray:
        """The mask of the request, bytes (h, w)."""
        mask = self.context.read(self.context.calls("mask")[-1], "mask")
        if mask is None or mask.shape[1:] != (1, *self.size[::-1]):
            raise NotARun("its mask was not recorded")
        if not np.array_equal(mask, np.broadcast_to(mask[:1], mask.shape)):
            raise NotARun("each of its images has another mask")
        return np.where(mask[0, 0] >= 0.5, 255, 0).astype(np.uint8)

    def sample_of(self, method: str) -> np.ndarray | None:
        """Return the encoder's sample within a method of the pipeline, unscaled."""
        draws = self.context.calls("posterior")
        made = [self.context.read_output(e) for e in draws if e.attributes.get("for") == method]
        found = [x for x in made if x is not None]
        return np.concatenate(found) if found else None

    @property
    def has_controlnets(self) -> bool:
        """Whether ControlNets ran, which read images of their own."""
        return any(e.call.startswith("controlnet") for e in self.context.port.entries)

    @property
    def has_references(self) -> bool:
        """Whether the denoiser reads reference images."""
        roles = {role for e in self.context.calls(self.context.denoiser) for role in e.inputs}
        return any(role.startswith("reference_") for role in roles)

    def require_known(self) -> None:
        """Require that each image that is encoded is one of a request of ldmref.

        Raises:
            NotARun: One is not.
        """
        if self.has_controlnets or self.has_references:  # whose images are encoded as well
            return
        for entry in self.context.calls("posterior"):
            if entry.attributes.get("for") not in (IMAGE, MASKED, CONTROL):
                raise NotARun(f"{entry.call} is of an image that no request of ldmref has")
        if len(self.context.calls("vae.encode")) != len(self.context.calls("posterior")):
            raise NotARun("what was drawn from its encoder was not recorded")

    def add_encoders(self, view: RunView, images: int) -> None:
        """Add the calls of the encoder, which return what was drawn from their distributions.

        Args:
            view: The view of the run.
            images: How many images it makes.
        """
        config = self.context.model.config
        if self.mode == "inpaint":
            self.add_mask(view)
        order = [IMAGE] if self.mode != "txt2img" else []
        order += [MASKED] if self.mode == "inpaint" and reads_mask(config) else []
        order += [CONTROL] if self._reads_control else []
        for number, method in enumerate(order):
            x = self.sample_of(method)
            if x is None:
                x = self._latents_of(method)
            rows = x if len(x) == 1 else repeat_rows(x, images)
            name = ArrayName(f"vae.encode~{number}/" if number else "vae.encode/", OUTPUT, "mean")
            view.silent[name] = rows
            view.silent[name._replace(role="logvar")] = np.full_like(rows, NO_SPREAD)

    @property
    def _reads_control(self) -> bool:
        """Whether the denoiser itself reads a control image."""
        reads = self.context.model.config.concat == "control"
        return reads and self.sample_of(CONTROL) is not None

    def _latents_of(self, method: str) -> np.ndarray:
        """Return what an encoder returns for latents that the caller gave; of none, nothing."""
        latents = self.context.requested({IMAGE: "image", MASKED: "masked_image_latents"}[method])
        shape = self.context.model.latent_shape(*self.size)
        if latents is None or latents.shape[1:] != shape:
            latents = np.zeros((1, *shape), np.float32)
        found = self.context.denormalize(latents)
        assert found is not None
        return found

    def add_mask(self, view: RunView) -> None:
        """Add the mask as the pipeline made it for the latents."""
        small = mask_channels(self.context.model.config, Image.fromarray(self.mask))
        for entry in self.context.calls("mask"):
            name = ArrayName(entry.name, OUTPUT, "mask")
            got = name.tensor_in(self.context.port)
            if got is not None and got.ndim == small.ndim:
                right = np.repeat(small, len(got), axis=0)
                alike = got.shape[1] if right.shape[1] == 1 else 1  # the same for each channel
                view.numbers[name] = np.repeat(right, alike, axis=1)

    @cached_property
    def kept(self) -> np.ndarray | None:
        """Where the latents of the image are put back after each step; None: nowhere."""
        if self.mode != "inpaint" or reads_mask(self.context.model.config):
            return None
        mask = Image.fromarray(self.mask)
        return find_kept_cells(mask, self.context.model.config.vae.factor, nearest=True)
