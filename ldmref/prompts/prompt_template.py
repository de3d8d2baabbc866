"""The template of a prompt as data: the text around it, and its preparation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ldmref.errors import UsageError, did_you_mean
from ldmref.prompts.weights import WeightedText

PREPARATIONS = ("lower", "strip", "blank")


@dataclass(frozen=True)
class PromptTemplate:
    r"""The text that a family puts around a prompt before its text encoder reads it.

    Exports and golden cases hold these fields; any program can follow them.

    Args:
        before, after: The text before and after the prompt. It is divided into tokens together
            with the prompt, because a token may reach over the border, and its special tokens are
            tokens. "" for both: the start and end token of the tokenizer surround the prompt.
        cut: The part that a prompt that is too long loses: `prompt`, its own end; `end`, the end
            of the whole text, the template's included.
        dropped: The number of leading tokens whose hidden states the denoiser does not read, such
            as those of a system message.
        prepare: Changes of the prompt: `lower` (lower case), `strip` (no white space at its ends),
            `blank` (a blank if it is empty).
        padding: After what a short text is filled up: the `prompt`, before the text behind it, or
            the `end`.

    Raises:
        UsageError: A preparation is unknown; tokens are dropped and no text precedes the prompt; or
            padding precedes a text that may be cut.

    >>> from ldmref.prompts import PromptTemplate
    >>> template = PromptTemplate("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    >>> template.surrounds, template.prepare_text("A Cat")
    (True, 'A Cat')
    >>> PromptTemplate(prepare=("lower", "strip")).prepare_text(" A Cat ")
    'a cat'
    >>> PromptTemplate(prepare=("blank",)).prepare_text("")
    ' '
    """

    before: str = ""
    after: str = ""
    cut: Literal["prompt", "end"] = "prompt"
    dropped: int = 0
    prepare: tuple[str, ...] = ()
    padding: Literal["prompt", "end"] = "end"

    def __post_init__(self) -> None:
        for name in self.prepare:
            if name not in PREPARATIONS:
                hint = did_you_mean(name, PREPARATIONS)
                raise UsageError(f"unknown preparation {name!r}", code="E-TEMPLATE", hint=hint)
        if self.dropped and not self.before:
            raise UsageError(
                f"{self.dropped} tokens are dropped, and nothing stands before the prompt",
                code="E-TEMPLATE",
            )
        if self.padding == "prompt" and self.cut == "end":
            raise UsageError(
                "padding stands before the text after the prompt, which may be cut",
                code="E-TEMPLATE",
                hint="choose cut='prompt'",
            )

    @property
    def surrounds(self) -> bool:
        """Whether the template has text before or after the prompt."""
        return bool(self.before or self.after)

    def prepare_text(self, text: str) -> str:
        """Return a prompt as the tokenizer reads it, without the template.

        Args:
            text: The prompt.
        """
        [span] = self.prepare_spans([WeightedText(text, 1.0)])
        return span.text

    def prepare_spans(self, spans: list[WeightedText]) -> list[WeightedText]:
        """Return the spans of a prompt as the tokenizer reads them, without the template.

        Args:
            spans: The parts of the prompt with their weights; white space is cut at the ends of
                the whole.
        """
        found = list(spans)
        if "lower" in self.prepare:
            found = [WeightedText(text.lower(), weight) for text, weight in found]
        if "strip" in self.prepare and found:
            found[0] = WeightedText(found[0].text.lstrip(), found[0].weight)
            found[-1] = WeightedText(found[-1].text.rstrip(), found[-1].weight)
        if "blank" in self.prepare and not any(span.text for span in found):
            found = [WeightedText(" ", 1.0)]
        return found


PLAIN = PromptTemplate()
