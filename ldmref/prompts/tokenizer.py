"""Prompts to token ids, with the `tokenizers` library.

`PromptTokenizer` adds what every text encoder needs to a tokenizer of that library: start and end
tokens, a fixed length, chunks of long prompts, weights, and warnings about text that was cut off.
`prompts/clip.py` builds CLIP's tokenizer, `prompts/wordpiece.py` BERT's, and `prompts/words.py` a
tokenizer of whole words.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from ldmref.errors import CorruptModelError, LdmrefError, UsageError, did_you_mean
from ldmref.prompts.chunks import (
    BREAK,
    Chunk,
    TokenGroup,
    count_ids,
    describe_cut,
    find_multi_vector_ids,
    split_into_chunks,
)
from ldmref.prompts.emoji import find_unnamed_symbols, with_emoji_names
from ldmref.prompts.prompt_template import PLAIN, PromptTemplate
from ldmref.prompts.text_checks import MAX_TEXT, check_text, find_unread_notation
from ldmref.prompts.tokens import SpecialTokens, Tokens
from ldmref.prompts.weights import WeightedText, parse_prompt_weights

START = "<start>"
END = "<end>"
PAD = "<pad>"
UNKNOWN = "<unknown>"
SIMILAR = 0.8  # share of letters in the same order, from which a word is taken for a misspelt one
EXPLAINED = 3  # unknown words of a prompt that are explained,
LONGEST = 40  # unless they have more letters
LONG_PROMPTS = ("truncate", "chunk")
PROMPT_WEIGHTS = ("none", "a1111")
WORD_SPECIAL_TOKENS = SpecialTokens(START, END, PAD, UNKNOWN)


@dataclass(frozen=True)
class PromptOptions:
    r"""Options of the tokenization of prompts.

    Args:
        long_prompts: `truncate` keeps the tokens that fit between one start and one end token;
            `chunk` keeps all, in as many chunks as needed, each with its own start and end token.
        prompt_weights: `none` treats brackets as text; `a1111` parses (word), (word:1.3), [word],
            BREAK and the escapes \( \) \[ \] \\ as described in `parse_prompt_weights`.
        strict: Whether a prompt that would be truncated is an error.
        chunks: The minimum number of chunks; shorter prompts are padded with empty chunks.
        longest: The number of tokens up to which a chunk grows for a long prompt in a template. 0:
            it does not, and the prompt is cut.

    Raises:
        UsageError: A value is unknown.

    >>> from ldmref.prompts import PromptOptions
    >>> PromptOptions(long_prompts="chunk", prompt_weights="a1111").chunks
    1
    """

    long_prompts: str = "truncate"
    prompt_weights: str = "none"
    strict: bool = False
    chunks: int = 1
    longest: int = 0

    def __post_init__(self) -> None:
        for name, known in (("long_prompts", LONG_PROMPTS), ("prompt_weights", PROMPT_WEIGHTS)):
            value = getattr(self, name)
            if value not in known:
                code = "E-" + name.upper().replace("_", "-")
                hint = did_you_mean(str(value), known)
                raise UsageError(f"unknown {name} {value!r}", code=code, hint=hint)


class TokenizedPrompt(NamedTuple):
    """One prompt as parsed text, and its chunks with the number of tokens that were left out.

    `head` and `tail` are the ids before and after the tokens of every chunk: the start and end
    token, or those of a template.
    """

    text: str
    chunks: list[Chunk]
    truncated: int
    warnings: list[str]
    head: list[int]
    tail: list[int]


def name_unknown(words: Sequence[str], vocabulary: Iterable[str]) -> str:
    """Return unknown words as a list, the first of them with the known word that is meant.

    Args:
        words: Words that a tokenizer does not know, each once.
        vocabulary: The words that it knows.

    >>> name_unknown(["hart", "zyxw"], ["cart", "heart"])
    'hart (did you mean heart?), zyxw'
    """
    known = [word for word in vocabulary if word.isalpha()]
    listed = []
    for place, word in enumerate(words):
        # Every comparison reads the whole vocabulary, and a prompt may have hundreds of words.
        is_explained = place < EXPLAINED and len(word) <= LONGEST
        near = get_close_matches(word.lower(), known, 1, SIMILAR) if is_explained else []
        listed.append(f"{word} (did you mean {near[0]}?)" if near else word)
    return ", ".join(listed)


class PromptTokenizer:
    """The tokenizer of a text encoder: prompts, truncated or in chunks, with warnings.

    Args:
        tokenizer: A tokenizer, whose truncation and padding are switched off and whose
            post-processor is not used.
        length: The number of tokens per chunk, including the start and end token.
        special_tokens: The special tokens of the vocabulary.
        clean: A function applied to the text before tokenization. None: tokenizers of whole
            words replace emoji by their names, others change nothing.
        template: What stands around a prompt, and how the prompt is prepared.

    Attributes:
        room: The number of tokens of a prompt that a chunk holds.
        kept: The number of tokens of a chunk whose hidden states a denoiser reads.

    Raises:
        CorruptModelError: The vocabulary lacks a special token, or an added word has more vectors
            than a chunk has tokens.
        UsageError: The template leaves no room for a prompt.

    >>> from ldmref.prompts import PromptTokenizer, word_tokenizer
    >>> tokenizer = PromptTokenizer(word_tokenizer(["a red cat"], 8), length=6)
    >>> tokenizer.tokenize(["a red cat"]).ids.tolist()
    [[[1, 4, 6, 5, 2, 0]]]
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        length: int,
        special_tokens: SpecialTokens = WORD_SPECIAL_TOKENS,
        clean: Callable[[str], str] | None = None,
        template: PromptTemplate = PLAIN,
    ):
        self.tokenizer = tokenizer
        self.template = template
        self.length = length
        self.special_tokens = special_tokens
        self.reads_words = special_tokens == WORD_SPECIAL_TOKENS
        self.clean = with_emoji_names if clean is None and self.reads_words else clean
        tokenizer.no_truncation()
        tokenizer.no_padding()
        start, *others = special_tokens
        self.start = token_id(tokenizer, start) if start else None
        end, *others = others
        self.end = token_id(tokenizer, end) if end else None
        self.pad, self.unknown = (token_id(tokenizer, token) for token in others)
        self.room = length - bool(start) - bool(end)
        self.kept = length - template.dropped
        self._multi_vector_ids: dict[int, tuple[int, ...]] = {}
        if template.surrounds:
            self.room = self._find_room()
        self._multi_vector_ids = find_multi_vector_ids(tokenizer, self.room)

    def _find_room(self) -> int:
        """Return the number of tokens that the template leaves for a prompt.

        Raises:
            UsageError: There is none.
        """
        head, _, tail, _, _ = self._surround([[WeightedText("", 1.0)]])
        room = self.length - len(head) - (len(tail) if self.template.cut == "prompt" else 0)
        if room < 1 or self.kept < 1:
            raise UsageError(
                f"the template of the prompt has {len(head)} and {len(tail)} tokens, and the text "
                f"encoder reads {self.length}",
                code="E-TEMPLATE",
                hint="max_position_embeddings of the text encoder must be larger",
            )
        return room

    def with_length(self, length: int) -> PromptTokenizer:
        """Return this tokenizer with another number of tokens per chunk.

        Args:
            length: The number, including the start and end token.
        """
        return PromptTokenizer(
            self.tokenizer, length, self.special_tokens, self.clean, self.template
        )

    def with_template(self, template: PromptTemplate) -> PromptTokenizer:
        """Return this tokenizer with another template.

        Args:
            template: What stands around a prompt, and how the prompt is prepared.
        """
        if template == self.template:
            return self
        return PromptTokenizer(
            self.tokenizer, self.length, self.special_tokens, self.clean, template
        )

    def _with_room(self, prompts: Sequence[str], options: PromptOptions) -> PromptTokenizer:
        """Return this tokenizer, or one with room for all prompts, as the options allow it."""
        more = 0
        for prompt in prompts if options.longest > self.length else ():
            weighted = options.prompt_weights == "a1111"
            sections = parse_prompt_weights(prompt) if weighted else [[WeightedText(prompt, 1.0)]]
            _, groups, *_ = self._surround(sections)
            more = max(more, sum(map(count_ids, groups)) - self.room)
        return self.with_length(min(self.length + more, options.longest)) if more else self

    def encode(self, prompts: str | Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Return the ids of truncated prompts, and warnings about dropped and unknown words.

        Args:
            prompts: A list of prompts, or a single one.

        Returns:
            (ids, (n, length) int64; warnings, one line each).
        """
        tokens = self.tokenize(prompts)
        return tokens.ids[:, 0], tokens.warnings

    def tokenize(
        self, prompts: str | Sequence[str], options: PromptOptions | None = None
    ) -> Tokens:
        """Return ids and weights of prompts, padded to the number of chunks of the longest.

        Args:
            prompts: A list of prompts, or a single one.
            options: How to treat long prompts and prompt weights. None: they are cut, without
                weights.

        Returns:
            The ids and weights, each (n, chunks, length), and warnings.

        Raises:
            UsageError: A prompt has more than `MAX_TEXT` characters or is not valid Unicode.
        """
        options = options or PromptOptions()
        prompts = [prompts] if isinstance(prompts, str) else prompts
        for prompt in prompts:
            check_text("prompt", prompt, MAX_TEXT)
        roomy = self._with_room(prompts, options)
        if roomy is not self:
            return roomy.tokenize(prompts, options)
        tokenized = [self.tokenize_one(prompt, options) for prompt in prompts]
        counts = [len(one.chunks) for one in tokenized]
        shape = (len(prompts), max([options.chunks, *counts]), self.length)
        ids = np.full(shape, self.pad, np.int64)
        weights = np.ones(shape, np.float32)
        mask = np.zeros(shape, np.int64)
        for i, one in enumerate(tokenized):
            first = len(one.head)
            for j in range(shape[1]):
                groups = one.chunks[j] if j < len(one.chunks) else []
                row = [id for group in groups for id in group.ids]
                spread = [g.weight for g in groups for _ in g.ids]
                columns = self._columns(first + len(row), len(one.tail))
                ids[i, j, columns] = [*one.head, *row, *one.tail][: len(columns)]
                mask[i, j, columns] = 1
                weights[i, j, first : first + len(row)] = spread
        truncated = [one.truncated for one in tokenized]
        warnings = [line for one in tokenized for line in one.warnings]
        return Tokens(ids, weights, mask, counts, truncated, warnings, self.template.dropped)

    def _columns(self, before: int, after: int) -> np.ndarray:
        """Return where a text's tokens stand: so many to the end of the prompt, and behind it."""
        last = before if self.template.padding == "end" else self.length - after
        return np.concatenate([np.arange(before), np.arange(last, last + after)])[: self.length]

    def tokenize_one(self, prompt: str, options: PromptOptions) -> TokenizedPrompt:
        """Return `prompt` in chunks, truncated if the `options` say so.

        Raises:
            UsageError: A weight is out of range, or the prompt would be cut and `options.strict` is
                set.
        """
        warnings = self._find_literal(prompt)
        warnings += find_unread_notation(prompt, options.prompt_weights)
        sections = [[WeightedText(prompt, 1.0)]]
        if options.prompt_weights == "a1111":
            sections = parse_prompt_weights(prompt)
        if self.template.surrounds:
            head, groups, tail, text, unknown = self._surround(sections)
        else:
            head = [] if self.start is None else [self.start]
            tail = [] if self.end is None else [self.end]
            groups, text, unknown = self._group(sections)
        if self.reads_words and not prompt.isascii():
            unknown = find_unnamed_symbols(prompt) + unknown
        if unknown:
            vocabulary = self.tokenizer.get_vocab() if self.reads_words else ()
            listed = name_unknown([*dict.fromkeys(unknown)], vocabulary)
            warnings.append(f"words the model never saw: {listed}")
        chunks = split_into_chunks(groups, self.room)
        dropped = [group for chunk in chunks[1:] for group in chunk]
        if options.long_prompts == "chunk" and not (dropped and self.template.surrounds):
            return TokenizedPrompt(text, chunks, 0, warnings, head, tail)
        if not dropped:
            return TokenizedPrompt(text, chunks[:1], 0, warnings, head, tail)
        message = self._describe_cut(groups, text[dropped[0].position :], options)
        warnings.append(message)
        return TokenizedPrompt(text, chunks[:1], count_ids(dropped), warnings, head, tail)

    def _describe_cut(
        self, groups: list[list[TokenGroup]], rest: str, options: PromptOptions
    ) -> str:
        """Return a line about a prompt whose `rest` is left out.

        Raises:
            UsageError: The options do not allow it.
        """
        unit = "words" if self.reads_words else "tokens"
        message = describe_cut(groups, rest, unit, self.room)
        if options.long_prompts == "chunk":
            raise UsageError(
                f"{message}; a prompt in a template is not divided into chunks",
                code="E-LONG-PROMPTS",
                hint="shorten it, or use long_prompts=truncate",
            )
        if options.strict:
            chunks = "" if self.template.surrounds else ", or use long_prompts=chunk"
            raise UsageError(message, code="E-PROMPT-TRUNCATED", hint=f"shorten it{chunks}")
        return message

    def _find_literal(self, prompt: str) -> list[str]:
        """Return a warning about special tokens in a prompt."""
        if self.template.surrounds:
            added = self.tokenizer.get_added_tokens_decoder().values()
            found = [token.content for token in added if token.special and token.content in prompt]
            return (
                [f"{' and '.join(found)} in a prompt is read as a special token"] if found else []
            )
        found = [token for token in self.special_tokens[:2] if token and token in prompt]
        if not found or self.start is None:  # T5's tokenizer knows its own
            return []
        return [f"{' and '.join(found)} in a prompt is read as text"]

    def _surround(
        self, sections: Sequence[Sequence[WeightedText]]
    ) -> tuple[list[int], list[list[TokenGroup]], list[int], str, list[str]]:
        """Tokenize a prompt together with its template.

        Returns the ids before the prompt, its token groups, the ids after it, its text and unknown
        words. A token that reaches over a border belongs to the template.
        """
        spans = self.template.prepare_spans([span for spans in sections for span in spans])
        parts = [text if self.clean is None else self.clean(text) for text, _ in spans]
        text = "".join(parts)
        ends = [*accumulate(len(part) for part in parts)]
        first = len(self.template.before)
        head: list[int] = []
        groups: list[TokenGroup] = []
        tail: list[int] = []
        unknown: list[str] = []
        whole = self.template.before + text + self.template.after
        for id, start, end, word_start in self._encode(whole):
            if start < first:
                head.append(id)
            elif end > first + len(text):
                tail.append(id)
            else:
                if id == self.unknown:
                    unknown.append(whole[start:end])
                span = min(
                    bisect_right(ends, end - 1 - first), len(spans) - 1
                )  # BPE begins with a space
                ids = self._multi_vector_ids.get(id, (id,))
                positions = max(word_start - first, 0), end - first
                groups.append(TokenGroup(ids, spans[span].weight, *positions))
        return head, [groups], tail, text, unknown

    def _group(
        self, sections: Sequence[Sequence[WeightedText]]
    ) -> tuple[list[list[TokenGroup]], str, list[str]]:
        """Clean and tokenize the spans of sections, which are the parts of a prompt between BREAKs.

        Returns the token groups of each section, the whole text, and unknown words.
        """
        groups: list[list[TokenGroup]] = []
        unknown: list[str] = []
        text = ""
        for spans in sections:
            groups.append([])
            for written, weight in self.template.prepare_spans([*spans]):
                read = written if self.clean is None else self.clean(written)
                for id, start, end, word_start in self._encode(read):
                    if id == self.unknown:
                        unknown.append(read[start:end])
                    ids = self._multi_vector_ids.get(id, (id,))
                    ends = len(text) + word_start, len(text) + end
                    groups[-1].append(TokenGroup(ids, weight, *ends))
                text += read
            text += BREAK
        return groups, text, unknown

    def _encode(self, text: str) -> Iterator[tuple[int, int, int, int]]:
        """Yield the id of each token, its first and last character, and the start of its word."""
        with errors_as_corrupt("the tokenizer cannot read a prompt"):
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        tokens = zip(encoding.ids, encoding.offsets, encoding.word_ids, strict=True)
        word_start = 0
        previous = None
        for id, (start, end), word in tokens:
            if word is None or word != previous:
                word_start = start
                previous = word
            yield id, start, end, word_start

    def __repr__(self) -> str:
        words = self.tokenizer.get_vocab_size()
        return f"<{type(self).__name__} of {words} tokens, length {self.length}>"


def tokenize_for_encoders(
    tokenizers: Sequence[PromptTokenizer], prompts: str | Sequence[str], options: PromptOptions
) -> list[Tokens]:
    """Tokenize prompts for each text encoder, in equally many chunks.

    The `counts` of each are the largest of all.
    """
    tokens = [tokenizer.tokenize(prompts, options) for tokenizer in tokenizers]
    counts = [max(each) for each in zip(*(t.counts for t in tokens), strict=True)]
    if any(t.counts != counts for t in tokens):
        options = replace(options, chunks=max(counts))
        tokens = [tokenizer.tokenize(prompts, options) for tokenizer in tokenizers]
    return [replace(t, counts=counts) for t in tokens]


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token that the vocabulary must have."""
    id = tokenizer.token_to_id(token)
    if id is None:
        raise CorruptModelError(f"the tokenizer has no {token!r} token", code="E-TOKENIZER")
    return id


@contextmanager
def errors_as_corrupt(message: str) -> Iterator[None]:
    """Turn any error within the block into a `CorruptModelError`.

    It catches `Exception`, because the `tokenizers` library raises nothing more specific, and the
    exception of a panic in its Rust code, which is not an `Exception`.
    """
    try:
        yield
    except (LdmrefError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = f"{message} ({type(error).__name__}: {error})"
        raise CorruptModelError(text, code="E-TOKENIZER") from error
