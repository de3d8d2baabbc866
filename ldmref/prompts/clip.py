"""CLIP's tokenizer: byte-pair encoding of lower-case text, as in transformers and diffusers.

Radford et al. 2021, arXiv:2103.00020, section 2.4; openai/CLIP, clip/simple_tokenizer.py.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import RobertaProcessing

from ldmref.errors import BackendUnavailable, CorruptModelError, UsageError, did_you_mean
from ldmref.prompts.tokenizer import PromptTokenizer, errors_as_corrupt, token_id
from ldmref.prompts.tokens import SpecialTokens

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
LENGTH = 77
TEXT_CLEAN = ("none", "openai")


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a CLIP tokenizer.

    Attributes:
        vocab: The id of each token.
        merges: Pairs of tokens to merge, by priority.
        added: The ids of words that later training added to the vocabulary.
        pad: The padding token. None: the files name none.

    >>> from ldmref.prompts import Vocabulary
    >>> vocab = {"c": 0, "a</w>": 1, "ca</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}
    >>> len(Vocabulary(vocab, [("c", "a</w>")]).vocab)
    5
    """

    vocab: Mapping[str, int] = field(repr=False)
    merges: Sequence[tuple[str, str]] = field(repr=False)
    added: Mapping[str, int] = field(default_factory=dict)
    pad: str | None = None


def clip_tokenizer(
    vocabulary: Vocabulary,
    length: int = LENGTH,
    *,
    pad: int | None = None,
    text_clean: str = "none",
) -> PromptTokenizer:
    """Build CLIP's tokenizer for prompts.

    Ids equal those of transformers' CLIPTokenizer, except for a literal <|startoftext|> or
    <|endoftext|>: they are split like other text, so a prompt cannot end itself. If the files pad
    with another token ("!" in Stable Diffusion 2 and SDXL's second encoder), that token is the
    padding token wherever it occurs in a prompt, as in transformers 4 and 5. With `openai` it is
    text, as it is for openai/CLIP and open_clip in training.

    Args:
        vocabulary: The vocabulary, from `read_vocabulary`.
        length: The sequence length of the text encoder.
        pad: The id of the padding token. None: the token that the vocabulary's files name,
            otherwise the end token (as in Stable Diffusion 1). Stable Diffusion 2 and OpenCLIP
            pad with 0.
        text_clean: `none` normalizes text as transformers does: NFC, runs of white space collapsed
            to one space, lower case. `openai` first cleans it as openai/CLIP does: mojibake
            repaired by ftfy, HTML entities unescaped twice, white space trimmed; and padding tokens
            in a prompt are ordinary text.

    Returns:
        The tokenizer; `tokenize(prompts)` returns ids and weights.

    Raises:
        CorruptModelError: The vocabulary is inconsistent.
        UsageError: `text_clean` is unknown, or no token has the id `pad`.
        BackendUnavailable: `openai` needs ftfy, which is not installed.

    >>> from ldmref.prompts import clip_tokenizer, read_vocabulary
    >>> tokenizer = clip_tokenizer(read_vocabulary("sd15/tokenizer"))  # doctest: +SKIP
    >>> tokenizer.tokenize(["a cat"]).ids.shape  # doctest: +SKIP
    (1, 1, 77)
    """
    clean = _text_cleaner(text_clean)
    tokenizer = _build(vocabulary)
    pad_token = vocabulary.pad or END
    if pad is not None:
        pad_token = tokenizer.id_to_token(pad)
        if pad_token is None:
            raise UsageError(f"the tokenizer has no token {pad} to pad with", code="E-TOKENIZER")
    if pad_token not in (START, END) and pad_token in vocabulary.vocab and clean is None:
        tokenizer.add_tokens([AddedToken(pad_token, normalized=False)])
    prompts = PromptTokenizer(tokenizer, length, SpecialTokens(START, END, pad_token, END), clean)
    # PromptTokenizer pads by itself; this records the padding token in tokenizer.json.
    tokenizer.enable_padding(pad_id=prompts.pad, pad_token=pad_token)
    return prompts


def _build(vocabulary: Vocabulary) -> Tokenizer:
    """Build a `tokenizers.Tokenizer` with the settings of transformers 5."""
    with errors_as_corrupt("the tokenizer's vocabulary is damaged"):
        model = BPE(
            vocab=dict(vocabulary.vocab),
            merges=list(vocabulary.merges),
            unk_token=END,
            fuse_unk=False,
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
        )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    end, start = ((token, token_id(tokenizer, token)) for token in (END, START))
    tokenizer.post_processor = RobertaProcessing(end, start, False, False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(WORD_END, " "), decoders.Strip(" ", 0, 1)]
    )
    add_words(tokenizer, sorted(vocabulary.added, key=lambda word: vocabulary.added[word]))
    for word, id in vocabulary.added.items():
        if tokenizer.token_to_id(word) != id:
            message = f"the tokenizer's added token {word!r} cannot have the id {id}"
            raise CorruptModelError(message, code="E-TOKENIZER")
    return tokenizer


def add_words(tokenizer: Tokenizer, words: Sequence[str]) -> None:
    """Give each word the next free id.

    Case is ignored. Alphanumeric words match whole words only; an underscore counts as
    alphanumeric.
    """
    tokenizer.add_tokens(
        [AddedToken(w, single_word=w.replace("_", "").isalnum(), normalized=True) for w in words]
    )


def _text_cleaner(text_clean: str) -> Callable[[str], str] | None:
    if text_clean not in TEXT_CLEAN:
        hint = did_you_mean(str(text_clean), TEXT_CLEAN)
        raise UsageError(f"unknown text_clean {text_clean!r}", code="E-TEXT-CLEAN", hint=hint)
    if text_clean == "none":
        return None
    try:
        ftfy = importlib.import_module("ftfy")
    except ImportError as error:
        message = 'text_clean="openai" needs ftfy, which is not installed'
        raise BackendUnavailable(message, code="E-FTFY", hint="pip install ftfy") from error
    return lambda text: html.unescape(html.unescape(ftfy.fix_text(text))).strip()
