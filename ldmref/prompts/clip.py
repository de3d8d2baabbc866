"""CLIP's tokenizer: byte-pair encoding of lower-case text, as transformers and diffusers run it.

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
from ldmref.prompts.tokenizer import PromptTokenizer, SpecialTokens

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
LENGTH = 77
CLEANINGS = ("none", "openai")


@dataclass(frozen=True)
class Vocabulary:
    """What a CLIP tokenizer is made of.

    `vocab`: token -> id; `merges`: pairs of tokens, the first merged first; `added`: words of later
    training -> id, above the vocabulary; `pad`: the padding token, if the files name one.
    """

    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    added: Mapping[str, int] = field(default_factory=dict)
    pad: str | None = None


def clip_tokenizer(
    vocabulary: Vocabulary,
    length: int = LENGTH,
    *,
    pad: int | None = None,
    text_clean: str = "none",
) -> PromptTokenizer:
    """CLIP's tokenizer for prompts.

    Args:
        vocabulary: from `clip_files.read_vocabulary`.
        length: tokens that the text encoder reads at once.
        pad: id of the padding token; None is what the vocabulary's files say, else the end token
            (as in Stable Diffusion 1). Stable Diffusion 2 and OpenCLIP pad with 0.
        text_clean: `none` treats text as transformers does: NFC, one space for each run of white
            space, lower case. `openai` does before that what openai/CLIP does: mojibake repaired by
            ftfy, HTML entities resolved twice, white space trimmed; and it knows no padding token.

    Ids equal those of transformers' CLIPTokenizer, but for the literal marks <|startoftext|> and
    <|endoftext|>: they are split as any other text, so a prompt cannot end itself. Where the files
    pad with another token ("!" in Stable Diffusion 2 and SDXL's second encoder), that token in a
    prompt is the padding token wherever it stands, as in transformers 4 and 5; with `openai` it is
    text, as for openai/CLIP and open_clip in training.

    Raises:
        CorruptModelError: the vocabulary does not hold together.
        UsageError: an unknown `text_clean`, or `pad` is no token.
        BackendUnavailable: `openai` needs ftfy, which is not installed.
    """
    clean = cleaning(text_clean)
    tokenizer = build(vocabulary)
    pad_token = vocabulary.pad or END
    if pad is not None:
        pad_token = tokenizer.id_to_token(pad)
        if pad_token is None:
            raise UsageError(f"the tokenizer has no token {pad} to pad with", code="E-TOKENIZER")
    if pad_token not in (START, END) and pad_token in vocabulary.vocab and clean is None:
        tokenizer.add_tokens([AddedToken(pad_token, normalized=False)])
    prompts = PromptTokenizer(tokenizer, length, SpecialTokens(START, END, pad_token, END), clean)
    # Without effect on one prompt, but tokenizer.json then says how this model is padded.
    tokenizer.enable_padding(pad_id=prompts.pad, pad_token=pad_token)
    return prompts


def build(vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer of the `tokenizers` library, with the settings of transformers 5."""
    try:
        model = BPE(
            vocab=dict(vocabulary.vocab),
            merges=list(vocabulary.merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            unk_token=END,
            fuse_unk=False,
        )
        start, end = vocabulary.vocab[START], vocabulary.vocab[END]
    except KeyError as error:
        raise CorruptModelError(
            f"the tokenizer has no {error.args[0]!r} token", code="E-TOKENIZER"
        ) from error
    except Exception as error:  # the library raises bare Exceptions
        raise CorruptModelError(f"the tokenizer's {error}", code="E-TOKENIZER") from error
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = RobertaProcessing((END, end), (START, start), False, False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(WORD_END, " "), decoders.Strip(" ", 0, 1)]
    )
    add_words(tokenizer, sorted(vocabulary.added, key=lambda word: vocabulary.added[word]))
    for word, id in vocabulary.added.items():
        if tokenizer.token_to_id(word) != id:
            raise CorruptModelError(
                f"the tokenizer's added token {word!r} cannot have the id {id}", code="E-TOKENIZER"
            )
    return tokenizer


def add_words(tokenizer: Tokenizer, words: Sequence[str]) -> None:
    """Give each word the next free id. Case does not matter; a word of letters must stand alone."""
    tokenizer.add_tokens(
        [AddedToken(w, single_word=w.replace("_", "").isalnum(), normalized=True) for w in words]
    )


def cleaning(text_clean: str) -> Callable[[str], str] | None:
    """The function behind a value of `text_clean`."""
    if text_clean not in CLEANINGS:
        raise UsageError(
            f"unknown text_clean {text_clean!r}",
            code="E-TEXT-CLEAN",
            hint=did_you_mean(str(text_clean), CLEANINGS),
        )
    if text_clean == "none":
        return None
    try:
        ftfy = importlib.import_module("ftfy")
    except ImportError as error:
        raise BackendUnavailable(
            'text_clean="openai" needs ftfy, which is not installed',
            code="E-FTFY",
            hint="pip install ftfy",
        ) from error
    return lambda text: html.unescape(html.unescape(ftfy.fix_text(text))).strip()
