"""What remains of an image that a run starts from: its initial state, decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ldmref.errors import UsageError
from ldmref.explore.format import CODE
from ldmref.explore.record import prepare_one
from ldmref.models.model import LatentDiffusion
from ldmref.modes.plan import find_mode
from ldmref.modes.registry import MODES
from ldmref.modes.run import Run


@dataclass(frozen=True, eq=False)
class NoisedImage:
    r"""The initial state of a run, :math:`x = a\,z + b\,\epsilon` with :math:`a^2 + b^2 = 1`.

    Args:
        image: The decoded state, finished as the mode does: inpainting keeps what is not masked.
        latents: x, (1, c, h, w) float32, in variance-preserving scale.
        share: a, the factor of the latents z of the given image, in [0, 1].
        noise: b, the factor of the noise, in [0, 1].
        taken: The number of steps that the run takes from there.
        steps: The number of steps of its schedule.

    >>> import ldmref
    >>> from PIL import Image
    >>> from ldmref.explore import noised_image
    >>> photo = Image.new("RGB", (16, 16), "teal")
    >>> noised_image(ldmref.random_model("tiny"), prompt="", image=photo, steps=4, strength=0).share
    1.0
    """

    image: Image.Image = field(repr=False)
    latents: np.ndarray = field(repr=False)
    share: float
    noise: float
    taken: int
    steps: int


def noised_image(
    model: LatentDiffusion, mode: str = "img2img", /, **parameters: object
) -> NoisedImage:
    r"""Return what remains of the image of a request before its first step.

    The latents z of the image are noised in closed form,

    .. math:: x_t = \sqrt{\bar\alpha_t}\,z + \sqrt{1 - \bar\alpha_t}\,\epsilon,

    with the noise of the request's seed and the level at which its strength starts (Ho et al. 2020,
    arXiv:2006.11239, eq. 4; Meng et al. 2021, arXiv:2108.01073). With flow matching, both factors
    are those of :math:`(1 - t) z + t \epsilon`, scaled to the same variance. The denoiser does not
    run. The decoder has seen images without noise only, so its output shows how much can be
    recognised, not what the network sees.

    Args:
        model: The model.
        mode: A mode that starts from an image: `img2img` or `inpaint`.
        parameters: Those of the mode, by name; one image.

    Returns:
        The decoded state, the state, and the factors of image and noise.

    Raises:
        UsageError: A parameter is wrong, the mode starts from no image, or there are several
            images.
        NumericError, ResourceError: See `ldmref.errors`.

    >>> import ldmref
    >>> from PIL import Image
    >>> from ldmref.explore import noised_image
    >>> model = ldmref.random_model("tiny")
    >>> photo = Image.new("RGB", (16, 16), "teal")
    >>> start = noised_image(model, prompt="", image=photo, strength=0.5, steps=4, seed=1)
    >>> start.taken, start.image.size, round(start.share**2 + start.noise**2, 9)
    (2, (16, 16), 1.0)
    """
    check_start(mode)
    run = prepare_one(model, mode, parameters)
    with run.explaining_memory():
        return decode_start(run)


def check_start(mode: str) -> None:
    """Check that a mode starts from an image, by its parameter `strength`.

    Raises:
        UsageError: It does not, or there is no such mode.
    """
    if "strength" not in find_mode(mode).parameters:
        names = [name for name, known in MODES.items() if "strength" in known.parameters]
        hint = f"allowed are {' and '.join(names)}"
        raise UsageError(f"{mode} starts from no image", code=CODE, hint=hint)


def decode_start(run: Run) -> NoisedImage:
    """Return the initial state of a run, decoded."""
    job = run.job
    taken = job.steps - job.first_step
    trajectory = run.trajectory(slice(0, 1))
    schedule = trajectory.schedule
    if run.initial.from_noise:
        share, scale = 0.0, schedule.init_noise_sigma
    else:
        sigma = float(schedule.sigmas[trajectory.visits[0]])
        scale = schedule.path.spread(sigma)
        share = schedule.path.alpha(sigma) / scale
    x = np.asarray(run.model.backend.to_numpy(trajectory.x), np.float32) / np.float32(scale)
    if taken == 0 and run.initial.image is not None:  # nothing runs, whatever the last level is
        share, x = 1.0, run.initial.image.mean
    [image] = run.decode(x)
    return NoisedImage(image, x, share, math.sqrt(1.0 - share**2), taken, job.steps)
