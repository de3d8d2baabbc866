"""The text that conditions a run; each distinct prompt is tokenised and encoded once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np

from ldmref.math.arrays import Array
from ldmref.math.interpolation import lerp, slerp
from ldmref.models.conditioning import (
    Conditioning,
    add_arrays,
    fit_lengths,
    get_hidden_states,
    interpolate,
    repeat,
)
from ldmref.models.model import LatentDiffusion
from ldmref.models.text import EncodedText, join_rows
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers.predictions import TEXTS

TOGETHER = "rng='torch' moves the images of shorter prompts, as diffusers does in a batch"
UNFELT = (
    "prompt weights above 0 do nothing in {!r}: its network brings the hidden state of each token "
    "to one length"
)
LONGEST = {"cond": "longest_prompt", "uncond": "longest_negative_prompt"}


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
        others: Prompts that all images share: the second one, or the description of the image to
            edit.
        references: Arrays of reference images, (1, ...), by the argument of the denoiser, which
            all images and predictions share.
        as_diffusers: Whether all texts are read as in a call of diffusers' pipeline; see
            `TextPath.together`.
        longest: The number of tokens of the longest text of that call, by the name of the
            prediction, if others were in it.
    """

    model: LatentDiffusion
    encoded: dict[str, EncodedText]
    prompts: Sequence[str]
    negative_prompts: Sequence[str]
    chunks: Sequence[int]
    size: tuple[int, int]
    interpolation: Interpolation | None = None
    others: Sequence[str] = ()
    references: Mapping[str, Array] = field(default_factory=dict)
    as_diffusers: bool = False
    longest: Mapping[str, int] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """Warnings of the tokenizer about the prompts, and about what does not act as asked."""
        lines = [line for text in self.encoded.values() for line in text.tokens.warnings]
        weighted = any(map(has_weights, self.encoded.values()))
        if weighted and not self.model.family.text.feels_weights:
            lines.append(UNFELT.format(self.model.config.name))
        return [*lines, TOGETHER] if self.record else lines

    @property
    def record(self) -> dict[str, int]:
        """The parameters with which an image is generated alone as in its batch."""
        if not self.as_diffusers:
            return {}
        columns = {"cond": self.prompts, "uncond": self.negative_prompts}
        counts = {name: self._count_tokens(column) for name, column in columns.items()}
        longest = {name: max(of_texts, default=0) for name, of_texts in counts.items()}
        moved = {name: most for name, most in longest.items() if len({*counts[name]}) > 1}
        return {LONGEST[name]: max(most, self.longest.get(name, 0)) for name, most in moved.items()}

    def truncated(self, n: int) -> int | list[int]:
        """Return the number of tokens left out of the prompts of each of the first `n` images.

        One number is returned if all are equal.
        """
        left_out = {prompt: text.tokens.truncated[0] for prompt, text in self.encoded.items()}
        pairs = zip(self.prompts[:n], self.negative_prompts[:n], strict=True)
        sums = [sum(left_out.get(text, 0) for text in (*pair, *self.others)) for pair in pairs]
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

    def conditionings(self, batch: slice) -> dict[str, Conditioning]:
        """Return what the network is conditioned on, by the name of the prediction.

        `cond` and `uncond` are there if the prompts and the negative prompts were encoded, `empty`
        if the empty prompt was, and all three if the model reads no text.
        """
        ops = self.model.backend
        multiple = self.model.family.text.multiple
        texts = fit_lengths(ops, self._of_texts(batch), self.model.denoiser.of_tokens, multiple)
        if self.as_diffusers:
            texts = {name: self._add_together(name, part) for name, part in texts.items()}
        if not self.references:
            return texts
        n = len(self.prompts[batch])
        more = {name: repeat(ops, array, n) for name, array in self.references.items()}
        return {name: add_arrays(part, more) for name, part in texts.items()}

    def _add_together(self, name: str, part: Conditioning) -> Conditioning:
        """Add what the other texts of a call change in diffusers."""
        columns = {"cond": self.prompts, "uncond": self.negative_prompts, "empty": [""]}
        counts = self._count_tokens(columns[name])
        together = self.model.family.text.together
        if together is None or not counts:
            return part
        n = get_hidden_states(part.context).shape[0]
        longest = max(*counts, self.longest.get(name, 0))
        return add_arrays(part, together(self.model.backend, n, longest))

    def _count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each prompt; [] if none depends on the others."""
        if self.model.family.text.together is None:
            return []
        masks = [self.encoded[text].more["mask"] for text in prompts if text in self.encoded]
        return [int(self.model.backend.to_numpy(mask).sum()) for mask in masks]

    def _of_texts(self, batch: slice) -> dict[str, Conditioning]:
        """Return the conditionings of the texts of a batch, each with its own length."""
        if not self.model.config.text_encoders:
            return dict.fromkeys(TEXTS, Conditioning(None))
        prompts, negative_prompts = self.prompts[batch], self.negative_prompts[batch]
        chunks = self.chunks[batch.start]
        texts = {"cond": prompts, "uncond": negative_prompts, "empty": [""] * len(prompts)}
        parts = {
            name: self._condition(column, chunks, negative=name != "cond")
            for name, column in texts.items()
            if all(prompt in self.encoded for prompt in column)
        }
        if self.interpolation is not None:
            parts["cond"] = self._interpolate(parts["cond"], self.interpolation, batch)
        return parts

    def _interpolate(self, start: Conditioning, to: Interpolation, batch: slice) -> Conditioning:
        """Return the conditionings of the positions between those of the first prompt and `to`."""
        prompts = [to.prompt] * len(self.prompts[batch])
        end = self._condition(prompts, self.chunks[batch.start])
        t = self.model.backend.asarray(np.asarray(to.positions[batch]))
        between = {"lerp": lerp, "slerp": slerp}[to.path]
        return interpolate(start, end, t, between)

    def source_conditionings(self, batch: slice) -> dict[str, Conditioning]:
        """Return what the network is conditioned on for the source prompt, as `conditionings`."""
        [source] = self.others
        return replace(self, prompts=[source] * len(self.prompts)).conditionings(batch)

    def _condition(
        self, prompts: Sequence[str], chunks: int, negative: bool = False
    ) -> Conditioning:
        model = self.model
        text = join_rows(model.backend, [self._fill_up(prompt, chunks) for prompt in prompts])
        zeroed = prompts if negative and model.config.zero_empty_negative else None
        path = model.family.text
        return path.condition_text(model.backend, model.config, text, self.size, zeroed)

    def _fill_up(self, prompt: str, chunks: int) -> EncodedText:
        """Return a prompt filled up with empty chunks."""
        text = self.encoded[prompt]
        missing = chunks - text.tokens.counts[0]
        if not missing:
            return text
        return text.followed_by(self.model.backend, [self.encoded[""]] * missing)


def has_weights(text: EncodedText) -> bool:
    """Return whether a text has tokens with a positive weight other than 1."""
    weights = text.tokens.weights
    return bool(((weights > 0.0) & (weights != 1.0)).any())


def encode_texts(
    model: LatentDiffusion,
    prompts: Sequence[str],
    negative_prompts: Sequence[str],
    size: tuple[int, int],
    clip_skip: int = 0,
    options: PromptOptions | None = None,
    interpolation: Interpolation | None = None,
    read: Collection[str] = ("cond", "uncond"),
    others: Sequence[str] = (),
) -> TextConditioning:
    """Encode every distinct prompt with the tokenizers and text encoders of the model.

    Args:
        model: The model.
        prompts, negative_prompts: One per image.
        size: Width and height of the images.
        clip_skip: The number of final layers of the text encoder to leave out.
        options: How to treat long prompts and prompt weights.
        interpolation: A second prompt.
        read: The texts that are encoded: prompts with `cond`, negative prompts with `uncond`, and
            the empty prompt with `empty`, or if it fills up shorter prompts.
        others: Prompts that all images share.
    """
    encoded: dict[str, EncodedText] = {}
    chunks = [1] * len(prompts)
    if model.config.text_encoders:
        options = options or PromptOptions()
        of_images = (("cond", prompts), ("uncond", negative_prompts))
        columns = [column for name, column in of_images if name in read]
        empty = [""] if "empty" in read else []
        for prompt in dict.fromkeys(chain(*columns, others, empty)):
            encoded[prompt] = model.encode_prompts([prompt], clip_skip, options)
        counts = {prompt: text.tokens.counts[0] for prompt, text in encoded.items()}
        if len({*counts.values()}) > 1 and "" not in encoded:
            encoded[""] = model.encode_prompts([""], clip_skip, options)
        for i in range(len(prompts)):
            texts = [*(column[i] for column in columns), *others]
            chunks[i] = max((counts[text] for text in texts), default=1)
    return TextConditioning(
        model, encoded, prompts, negative_prompts, chunks, size, interpolation, others
    )


def encode_conditioning(
    model: LatentDiffusion, prompts: Sequence[str], size: tuple[int, int]
) -> Conditioning:
    """Return the conditioning of the U-Net on these prompts, without a negative part."""
    text = encode_texts(model, prompts, prompts, size, read=("cond",))
    return text.conditionings(slice(0, len(prompts)))["cond"]
