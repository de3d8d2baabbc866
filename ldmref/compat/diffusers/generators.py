"""The `generator` argument: noise in the order in which diffusers samples it.

Source: diffusers 0.42.1, `utils/torch_utils.py`, `randn_tensor`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.models.model import LatentDiffusion
from ldmref.samplers.rng_torch import TorchStream

FIRST_SEED = 67280421310721  # of a new torch.Generator
MAX_SEED = 2**64


class Generator:
    """The numbers of `torch.Generator("cpu")` without torch.

    Like torch's, it continues where the last call ended, so two images made with one generator
    differ.

    Args:
        device: "cpu", the only device whose numbers are known without torch.

    Raises:
        UsageError: Another device.

    >>> generator = Generator("cpu").manual_seed(3)
    >>> generator.randn((1, 2)).astype(float).round(4).tolist()
    [[0.8033, 0.1748]]
    """

    def __init__(self, device: str = "cpu"):
        if str(device) != "cpu":
            raise UsageError(
                f"a Generator without torch is on the device 'cpu', not {short_repr(device)}",
                code="E-GENERATOR",
                hint="torch.Generator('cuda') also works, where torch is installed",
            )
        self.device = "cpu"
        self.manual_seed(FIRST_SEED)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of a seed, and return the generator.

        Args:
            seed: An integer from -2^63 to 2^64 - 1.

        Raises:
            UsageError: `seed` is something else.
        """
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            message = f"a seed must be an integer, not {short_repr(seed)}"
            raise UsageError(message, code="E-SEED")
        self._seed = int(seed) % MAX_SEED
        self._stream = TorchStream(self._seed)
        return self

    def seed(self) -> int:
        """Start the stream of a random seed, and return the seed."""
        self.manual_seed(secrets.randbits(53))
        return self._seed

    def initial_seed(self) -> int:
        """Return the seed with which the stream started."""
        return self._seed

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next standard normal array of a `shape` such as (n, c, h, w), float32."""
        return self._stream.draw(shape)

    def __repr__(self) -> str:
        return f"<Generator of seed {self._seed}>"


class GeneratorNoise:
    """Standard normal arrays for a call of a pipeline, from its `generator`.

    Args:
        generator: Generators or seeds: one for all images, or a list with one for each. None: the
            global generator of torch if the program has imported torch, otherwise a random seed.
        images: The number of images.
        model: The model, whose dtype and device torch's generators use.

    Raises:
        UsageError: Something else, or a list of another length.
    """

    def __init__(self, generator: object, images: int, model: LatentDiffusion):
        if isinstance(generator, Sequence) and not isinstance(generator, str):
            if len(generator) != images:
                raise UsageError(
                    f"generator holds {len(generator)} generators for {images} images",
                    code="E-GENERATOR",
                    hint="give one generator, or one for each image",
                )
            generator = [make_generator(one) for one in generator]
            self.generator = generator[0] if images == 1 else generator
        elif generator is None and "torch" not in sys.modules:
            self.generator = make_generator(secrets.randbits(53))
        else:
            self.generator = None if generator is None else make_generator(generator)
        self.model = model

    @property
    def is_list(self) -> bool:
        """Whether every image has its own generator."""
        return isinstance(self.generator, list)

    def randn(self, shape: tuple[int, ...], dtype: str | None = None) -> np.ndarray:
        """Return the next array; row i comes from generator i if there are several.

        `dtype` is that in which torch samples; None: that of the model.
        """
        if isinstance(self.generator, list):
            one = (1, *shape[1:])
            rows = [self._randn(one, self.generator[i], dtype) for i in range(shape[0])]
            return np.concatenate(rows, axis=0)
        return self._randn(shape, self.generator, dtype)

    def _randn(self, shape: tuple[int, ...], generator: Any, dtype: str | None) -> np.ndarray:
        if isinstance(generator, Generator):
            return generator.randn(shape)
        torch = sys.modules["torch"]
        ops = self.model.backend
        device = ops.device if ops.name == "torch" else "cpu"
        if generator is not None:
            device = generator.device
        dtype = dtype or (ops.dtype if ops.name == "torch" else "float32")
        kind = getattr(torch, dtype)
        sampled = torch.randn(shape, generator=generator, device=device, dtype=kind)
        return sampled.float().cpu().numpy()


def make_generator(value: object) -> Any:
    """Return a generator of torch or of this module; an integer is a seed.

    Raises:
        UsageError: The value is something else.
    """
    torch = sys.modules.get("torch")
    if isinstance(value, Generator) or (torch and isinstance(value, torch.Generator)):
        return value
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return Generator().manual_seed(int(value))
    raise UsageError(
        f"generator must be a torch.Generator, a Generator or a seed, not {short_repr(value)}",
        code="E-GENERATOR",
        hint="Generator('cpu').manual_seed(1) of ldmref.compat.diffusers works without torch",
    )
