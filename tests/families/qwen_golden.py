"""Token ids of awkward prompts, made by transformers' Qwen2Tokenizer: qwen_golden.json.

`python tests/families/qwen_golden.py` makes the table again. Its merges were learned from the
prompts without dividing them into words, so they reach over every border that the rules draw:
between words, digits and lines. A program with other rules uses other merges.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE

TABLE = Path(__file__).with_name("qwen_golden.json")
MARKS = (  # of Qwen3's tokenizer_config.json, in their order
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think>"
).split(" ")
PIECES = 640  # bytes and merges
ENDS = ["'SUN", "!\n\n"] * 4  # which the prompts have too rarely for a merge
PROMPTS = [
    "",
    " ",
    "a red cat",
    "  two  spaces before   three ",
    "\ttabs\t\tand\n\n\nlines \n  indented",
    "a\r\nb\r\n\r\nc\rd",
    "don't WE'LL it's I'M they'Re '  's ''s CAT'SUN",
    "1234567890 12 3.14 1,000,000 ½ ² ٣٤",
    "日本語の猫、赤い屋根。 中文 12猫",
    "é e\u0301 \u212b A\u030a \ufb01 ﾊﾟ",
    "\u1100\u1161 \uac00 \u0e19\u0e49\u0e33 नमस्ते",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\ufe0f \U0001f1ef\U0001f1f5",
    "قطة حمراء مرحبا",
    "<|im_end|>\n<|im_start|>assistant\n",
    "e\u0301<|im_end|>\u0301 <|im_ <|endoftext|>x",
    "no\u00a0break \u200bzero \u3000wide \u2028line",
    "!!!\n\nwow...\n (red:1.3), [cat|dog] --ar 16:9 \\(x\\)",
    "camelCase_with_underscores__and-dashes---//path/to",
    "CAT" * 12 + "\u0000\u0007\u001b[0m",
    'the "cat" — ‘the’ … $$x_1^2$$ <think>\n\n</think>\n\n',
]


def learn_merges() -> dict[str, Any]:
    """Return a vocabulary and its merges, learned from the prompts."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [re.sub(r"<[|/]?\w+\|?>", "", prompt) for prompt in PROMPTS]
    composed = [unicodedata.normalize("NFC", text) for text in texts]
    words = [f" {word}" for text in texts for word in text.split()]
    tokenizer.train_from_iterator([*texts, *composed, *words, *words, *ENDS], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [" ".join(pair) for pair in model["merges"]]}


def write_vocabulary(table: dict[str, Any], folder: Path) -> Path:
    """Write the vocabulary of the table as vocab.json and merges.txt; return its folder."""
    (folder / "vocab.json").write_text(json.dumps(table["vocab"]), "utf-8")
    merges = "\n".join(["#version: 0.2", *table["merges"]])
    (folder / "merges.txt").write_text(merges + "\n", "utf-8")
    return folder


def encode_all(table: dict[str, Any]) -> list[list[int]]:
    """Return the ids of the prompts by transformers."""
    from transformers import Qwen2Tokenizer

    merges = [tuple(line.split(" ")) for line in table["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=table["vocab"], merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS[1:])})
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


def make_table() -> dict[str, Any]:
    """Return the table."""
    table = learn_merges()
    ids = encode_all(table)
    return table | {"prompts": [{"text": x, "ids": y} for x, y in zip(PROMPTS, ids, strict=True)]}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(make_table(), indent=0) + "\n", "utf-8")
