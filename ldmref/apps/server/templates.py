"""Styles for the clients of a server, and wildcards in the prompts of their requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.modes.validation import assign_seeds
from ldmref.prompts.templates import MAX_DRAWS, Wildcards, read_styles, read_wildcards
from ldmref.support.server_settings import ServerSettings

PROMPTS = ("prompt", "negative_prompt", "prompt_b")  # in the order of their draws


class PromptTemplates:
    """The styles and the wildcards of a server, read once.

    Args:
        settings: `styles` is the file, `wildcards` the folder.

    Raises:
        InputError: One of them does not exist, or is something else.
    """

    def __init__(self, settings: ServerSettings):
        self.styles = read_styles(settings.styles) if settings.styles else []
        self.wildcards = read_wildcards(settings.wildcards) if settings.wildcards else Wildcards()

    def describe(self) -> dict[str, Any]:
        """Return the styles and the names of the wildcards."""
        return {
            "styles": [vars(style) for style in self.styles],
            "wildcards": [*self.wildcards.lines],
        }

    def expand(self, values: Mapping[str, Any], most: int) -> dict[str, Any]:
        """Return the parameters of a mode with a prompt, and a seed, for each image.

        Each image has its own draws, by its seed. So what it records, the prompt and the seed,
        generates it again without the files. Parameters without wildcards, and those whose form is
        wrong, are returned as they are: whoever plans them says what is wrong.

        Args:
            values: The parameters, as JSON.
            most: The number of images that a request may generate.

        Raises:
            UsageError: A wildcard is unknown.
        """
        texts = {name: values[name] for name in PROMPTS if isinstance(values.get(name), str)}
        if not any(map(self.wildcards.has, texts.values())):
            return dict(values)
        count, seed = values.get("count") or 1, values.get("seed")
        if type(count) is not int or not 0 < count <= most or not is_seed(seed):
            return dict(values)
        seeds = assign_seeds(None if seed == -1 else seed, count)
        expanded: dict[str, Any] = {"seed": list(seeds)}
        for name, text in texts.items():
            start = PROMPTS.index(name) * MAX_DRAWS
            expanded[name] = [self.wildcards.expand(text, seed, start) for seed in seeds]
        if count == 1:
            expanded = {name: value[0] for name, value in expanded.items()}
        return {name: value for name, value in values.items() if name != "count"} | expanded


def is_seed(value: object) -> bool:
    """Return whether a value is a seed, a list of seeds, or asks for a random one."""
    if isinstance(value, list):
        return all(type(seed) is int and 0 <= seed < 2**64 for seed in value)
    return value is None or (type(value) is int and -1 <= value < 2**64)
