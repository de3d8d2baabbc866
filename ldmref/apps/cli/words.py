"""`ldmref words`: the vocabulary of a model that reads whole words, with prompts to try."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from ldmref.apps.cli.messages import quote_command
from ldmref.apps.cli.progress import print_line
from ldmref.apps.cli.shared_options import MODEL_NAME
from ldmref.errors import UsageError, closest
from ldmref.io.checkpoint import open_checkpoint
from ldmref.io.locate import is_native
from ldmref.io.native import TOKENIZER
from ldmref.io.prompt_notes import prompt_notes
from ldmref.prompts.emoji import named_emoji, with_emoji_names
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import load_word_tokenizer

WIDTH = 96  # characters of a line


@click.command()
@click.argument("word", required=False)
@MODEL_NAME
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def words(word: str | None, model: str | None, as_json: bool) -> None:
    """List the words that a model knows, with prompts to try, or search for one WORD.

    This is for models that read whole words, such as the bundled one. Other models read any text.
    """
    checkpoint = open_checkpoint(model or "emoji")
    config = checkpoint.config
    tokenizer = _load_tokenizer(checkpoint.path, config.text_encoder.max_position_embeddings)
    known = sorted(set(tokenizer.tokenizer.get_vocab()) - {*tokenizer.special_tokens})
    row: dict[str, Any] = {"model": config.name, "words": known}
    notes = prompt_notes(config)
    if notes is not None:
        row |= list_scene_words()
        row |= {"examples": list(notes.examples), "examples_note": notes.note}
    if word is not None:
        row = search_word(word, row)
    if as_json:
        click.echo(json.dumps(row))
        return
    for line in format_words(row):
        print_line(line)


COMMANDS = (words,)


def _load_tokenizer(path: Path, length: int) -> PromptTokenizer:
    """Load the tokenizer of a model that reads whole words.

    Raises:
        UsageError: The model has another kind of tokenizer.
    """
    if not (is_native(path) and (path / TOKENIZER).is_file()):
        raise UsageError(
            f"{path.name!r} has no list of words: its text encoder reads any text",
            code="E-WORDS",
            hint="ldmref words lists the words of the bundled model",
        )
    return load_word_tokenizer(path / TOKENIZER, length)


def list_scene_words() -> dict[str, Any]:
    """Return the words of scenes, grouped by meaning, and the emoji with their names."""
    from ldmref.datasets.emoji import captions  # slow to import
    from ldmref.datasets.emoji.colours import BACKGROUNDS, COLOURS
    from ldmref.datasets.emoji.nouns import nouns

    phrases = [*captions.BESIDE_PHRASES, *captions.ABOVE_PHRASES]
    joining = [" ".join(phrase.replace("{0}", "").replace("{1}", "").split()) for phrase in phrases]
    things = [
        {
            "emoji": noun.emoji.text,
            "group": noun.emoji.subgroup,
            "name": noun.singular,
            "plural": noun.plural,
        }
        for noun in nouns()
    ]
    return {
        "colours": list(COLOURS),
        "backgrounds": list(BACKGROUNDS),
        "numbers": [name for names in captions.NUMBERS.values() for name in names],
        "sizes": [name for names in captions.SIZES.values() for name in names],
        "places": list(dict.fromkeys(joining)),
        "things": things,
        "emoji": [emoji._asdict() for emoji in named_emoji()],
    }


def search_word(word: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the words that begin with a word or an emoji's name, and the emoji that contain it.

    Raises:
        UsageError: There are none.
    """
    wanted = with_emoji_names(word).lower()
    tones = "skin tone" in wanted
    found = [
        emoji
        for emoji in row.get("emoji", ())
        if wanted in emoji["name"].lower() and (tones or "skin tone" not in emoji["name"])
    ]
    known = [text for text in row["words"] if text.startswith(wanted)]
    if not found and not known:
        close = closest(wanted, row["words"])
        hint = f"did you mean {close!r}?" if close else "ldmref words lists all words"
        raise UsageError(f"{row['model']} does not know {word!r}", code="E-WORDS", hint=hint)
    return {"model": row["model"], "words": known, "emoji": found}


def format_words(row: dict[str, Any]) -> list[str]:
    """Return the lines to print."""
    if "colours" not in row:
        listed = [f"{emoji['text']}  {emoji['name']}" for emoji in row.get("emoji", ())]
        return [*_wrap("words", row["words"]), *listed]
    lines = [
        f"{row['model']} knows {len(row['words']):,} words: the names of {len(row['emoji']):,} "
        f"emoji, and {len(row['things'])} things in scenes of one or two kinds.",
        "",
        "Try",
        *(f"  {quote_command(['ldmref', prompt])}" for prompt in row["examples"]),
        *textwrap.wrap(row["examples_note"], WIDTH),
        "",
        *_wrap("colours", row["colours"], 'as in "a blue dog", "the dog is blue"'),
        *_wrap("numbers", row["numbers"], 'as in "three cats"'),
        *_wrap("sizes", row["sizes"], 'as in "a small dog", "a big dog and a small cat"'),
        *_wrap("places", row["places"], 'as in "a dog above a cat"; two kinds at most'),
        *_wrap("backgrounds", row["backgrounds"], 'as in "a dog on yellow"'),
        "",
        "Things",
    ]
    groups: dict[str, list[str]] = {}
    for thing in row["things"]:
        groups.setdefault(thing["group"], []).append(thing["name"])
    for group, names in groups.items():
        lines += _wrap(group, names)
    lines += [
        "",
        "ldmref words WORD lists the emoji with that word in their names; --json lists all.",
    ]
    return lines


def _wrap(title: str, names: list[str], example: str = "") -> list[str]:
    """Wrap a title and its names over as many lines as they need."""
    text = ", ".join(names) + (f" ({example})" if example else "")
    return textwrap.wrap(text, WIDTH, initial_indent=f"{title}: ", subsequent_indent="    ")
