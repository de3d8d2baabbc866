"""The text that conditions a run; each distinct prompt is tokenised and encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ldmref.math.arrays import Array
from ldmref.math.interpolation import lerp, slerp
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import EncodedText, LatentDiffusion
from ldmref.prompts.tokenizer import PromptOptions


class Interpolation(NamedTuple):
    """A second prompt, and the position of each image between the first prompt and it.

    Args:
        prompt: The second prompt.
        positions: (n,) in [0, 1].
        path: The path of the hidden states, `lerp` or `slerp`.
    """

    prompt: str
    positions: Sequence[float]
    path: str


@dataclass(frozen=True)
class TextConditioning:
    """The encoded prompts of a run.

    Args:
        model: The model that generates.
        encoded: Hidden states by prompt; empty for models without text encoders.
        prompts, negative_prompts: One per image.
        chunks: For each image, the number of chunks of its longest prompt.
        size: Width and height of the images, which condition SDXL.
        interpolation: A second prompt.
        source_prompt: The description of the image to edit; None for a mode without one.
    """

    model: LatentDiffusion
    encoded: dict[str, EncodedText]
    prompts: Sequence[str]
    negative_prompts: Sequence[str]
    chunks: Sequence[int]
    size: tuple[int, int]
    interpolation: Interpolation | None = None
    source_prompt: str | None = None

    @property
    def warnings(self) -> list[str]:
        """Warnings of the tokenizer about the prompts."""
        return [line for text in self.encoded.values() for line in text.tokens.warnings]

    def truncated(self, n: int) -> int | list[int]:
        """Return the number of tokens left out of the prompts of each of the first `n` images.

        One number is returned if all are equal.
        """
        others = other_prompts(self.interpolation, self.source_prompt)
        left_out = {prompt: text.tokens.truncated[0] for prompt, text in self.encoded.items()}
        pairs = zip(self.prompts[:n], self.negative_prompts[:n], strict=True)
        sums = [sum(left_out.get(text, 0) for text in (*pair, *others)) for pair in pairs]
        return sums if len({*sums}) > 1 else max(sums, default=0)

    def repeated(self, times: int, size: tuple[int, int]) -> TextConditioning:
        """Return the text repeated for several images, at a size."""
        return replace(
            self,
            prompts=[*self.prompts] * times,
            negative_prompts=[*self.negative_prompts] * times,
            chunks=[*self.chunks] * times,
            size=size,
        )

    def batches(self, batch_size: int) -> Iterator[slice]:
        """Yield the images that go through the networks together: neighbours of as many chunks."""
        first = 0
        for _, group in groupby(self.chunks):
            end = first + len(list(group))
            for start in range(first, end, batch_size):
                yield slice(start, min(start + batch_size, end))
            first = end

    def conditioning(self, batch: slice) -> tuple[Conditioning, Conditioning]:
        """Return the conditional and the unconditional (negative) part for the U-Net."""
        if not self.encoded:
            return Conditioning(None), Conditioning(None)
        prompts = self.prompts[batch]
        chunks = self.chunks[batch.start]
        to = self.interpolation
        cond = self._condition(prompts, chunks)
        if to is not None:
            end = self._condition([to.prompt] * len(prompts), chunks)
            t = self.model.backend.asarray(np.asarray(to.positions[batch]))
            between = {"lerp": lerp, "slerp": slerp}[to.path]
            pooled = None if cond.pooled is None else between(cond.pooled, end.pooled, t)
            cond = Conditioning(between(cond.context, end.context, t), pooled, cond.sizes)
        return cond, self._condition(self.negative_prompts[batch], chunks, negative=True)

    def conditionings(self, batch: slice) -> dict[str, Conditioning]:
        """Return what the network is conditioned on, by the name of the prediction.

        `empty` is there if the empty prompt was encoded, or nothing is.
        """
        cond, uncond = self.conditioning(batch)
        parts = {"uncond": uncond, "cond": cond}
        if not self.encoded:
            return parts | {"empty": Conditioning(None)}
        if "" in self.encoded:
            empty = [""] * len(self.prompts[batch])
            parts["empty"] = self._condition(empty, self.chunks[batch.start], negative=True)
        return parts

    def source_conditionings(self, batch: slice) -> dict[str, Conditioning]:
        """Return what the network is conditioned on for the source prompt, as `conditionings`."""
        assert self.source_prompt is not None
        source = [self.source_prompt] * len(self.prompts)
        return replace(self, prompts=source).conditionings(batch)

    def _condition(
        self, prompts: Sequence[str], chunks: int, negative: bool = False
    ) -> Conditioning:
        ops = self.model.backend
        config = self.model.config
        context = ops.xp.concat([self._states(prompt, chunks) for prompt in prompts], axis=0)
        rows = [self.encoded[prompt].pooled for prompt in prompts]
        pooled = None if rows[0] is None else ops.xp.concat(rows, axis=0)
        if negative and config.zero_empty_negative:
            kept = ops.asarray(np.asarray([float(prompt != "") for prompt in prompts]))
            context = context * kept[:, None, None]
            pooled = None if pooled is None else pooled * kept[:, None]
        return self.model.family.condition(ops, config, context, pooled, self.size)

    def _states(self, prompt: str, chunks: int) -> Array:
        """Return hidden states, (1, chunks * l, d) of a prompt, filled up with empty chunks."""
        states, _, tokens = self.encoded[prompt]
        missing = chunks - tokens.counts[0]
        if not missing:
            return states
        empty = [self.encoded[""].states] * missing
        return self.model.backend.xp.concat([states, *empty], axis=1)


def encode_texts(
    model: LatentDiffusion,
    prompts: Sequence[str],
    negative_prompts: Sequence[str],
    size: tuple[int, int],
    clip_skip: int = 0,
    options: PromptOptions | None = None,
    interpolation: Interpolation | None = None,
    with_empty: bool = False,
    source_prompt: str | None = None,
) -> TextConditioning:
    """Encode every distinct prompt with the tokenizers and text encoders of the model.

    With `with_empty`, the empty prompt is also encoded, for a guidance that needs it.
    """
    encoded = {}
    chunks = [1] * len(prompts)
    if model.config.text_encoders:
        options = options or PromptOptions()
        others = other_prompts(interpolation, source_prompt)
        empty = [""] if with_empty or options.long_prompts == "chunk" else []
        for prompt in dict.fromkeys([*prompts, *negative_prompts, *others, *empty]):
            encoded[prompt] = model.encode_prompts([prompt], clip_skip, options)
        counts = {prompt: text.tokens.counts[0] for prompt, text in encoded.items()}
        pairs = zip(prompts, negative_prompts, strict=True)
        chunks = [max(counts[text] for text in (*pair, *others)) for pair in pairs]
    return TextConditioning(
        model, encoded, prompts, negative_prompts, chunks, size, interpolation, source_prompt
    )


def other_prompts(interpolation: Interpolation | None, source_prompt: str | None) -> list[str]:
    """Return the prompts that all images of a run share."""
    last = None if interpolation is None else interpolation.prompt
    return [prompt for prompt in (last, source_prompt) if prompt is not None]


def encode_conditioning(
    model: LatentDiffusion, prompts: Sequence[str], size: tuple[int, int]
) -> Conditioning:
    """Return the conditioning of the U-Net on these prompts, without a negative part."""
    text = encode_texts(model, prompts, prompts, size)
    return text.conditioning(slice(0, len(prompts)))[0]
