"""Write docs/families: a page for each family, from its declaration.

python scripts/make_family_pages.py            # write the tables, drawings and missing pages
python scripts/make_family_pages.py --check    # exit code 1 if a page is out of date

What stands between `<!-- table: NAME -->` and `<!-- end -->` is made; the other text of a page is
written by hand and kept. `family_facts.py` reads the declarations, `family_drawing.py` draws them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import family_drawing
import family_facts
from family_facts import Facts
from page_tables import fill_tables, table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "families"
IMAGES = ROOT / "docs" / "images" / "families"
DYNAMIC_SHIFT = {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"}
MOST_NUMBERS = 8  # of a tuple that is printed
SKELETON = """\
# {title}

{summary}

![{title}: its networks, and what each gives to the next.](../images/families/{name}.svg)

## Sizes

<!-- table: sizes -->
<!-- end -->

## Text

<!-- table: text -->
<!-- end -->

## Denoiser

<!-- table: denoiser -->
<!-- end -->

## Latents

<!-- table: latents -->
<!-- end -->

## Schedule and guidance

<!-- table: schedule -->
<!-- end -->

## Modes and files

<!-- table: files -->
<!-- end -->

## Port it

<!-- table: port -->
<!-- end -->

## In the code

<!-- table: code -->
<!-- end -->
"""


def show(value: Any) -> str:
    """Return a value as it is printed; a long tuple as its length."""
    if isinstance(value, tuple) and len(value) > MOST_NUMBERS:
        if all(isinstance(x, int) for x in value) and len({*steps(value)}) == 1:
            return f"`{value[0]}`, `{value[1]}`, ..., `{value[-1]}`"
        return f"{len(value)} numbers"
    return f"`{value}`" if value != "" else "none"


def steps(value: Sequence[int]) -> list[int]:
    return [b - a for a, b in pairwise(value)]


def by_preset(values: dict[str, Any]) -> str:
    """Return the most frequent of the presets' values, then the others with their presets."""
    groups: dict[str, list[str]] = {}
    for preset, value in values.items():
        groups.setdefault(show(value), []).append(preset)
    first, *others = sorted(groups.items(), key=lambda item: -len(item[1]))
    cells = [first[0], *(f"{text} ({', '.join(names)})" for text, names in others)]
    return "; ".join(cells)


def millions(number: int) -> str:
    return f"{number / 1e6:,.0f} M" if number >= 1e7 else f"{number / 1e6:.1f} M"


def sizes(facts: Facts) -> str:
    """Return the table of the published models."""
    rows = []
    for name, config in facts.published.items():
        d = config.defaults
        of_denoiser, of_all = facts.count_parameters(config)
        size = f"{d.width} x {d.height}"
        cells = (of_denoiser, of_all)
        rows.append((f"`{name}`", *map(millions, cells), size, d.steps, f"{d.cfg_scale:g}"))
    heading = "| model | denoiser | all networks | image | steps | guidance |"
    text = f"For tests and small trainings there is also `{facts.tiny}`." if facts.tiny else ""
    return f"{table(heading, rows)}\n\n{text}".rstrip()


def text(facts: Facts) -> str:
    """Return the text encoders, what is read of them, and the text around a prompt."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, config in facts.published.items():
        for i, encoder in enumerate(config.text_encoders):
            groups.setdefault(family_facts.describe_encoder(i, encoder), []).append(f"`{name}`")
    all_models = len(facts.published)
    rows = [
        (*cells, "all" if len(names) == all_models else ", ".join(names))
        for cells, names in groups.items()
    ]
    heading = "| | kind | layers | width | words | tokens | read | models |"
    parts = [table(heading, rows)]
    for template, names in facts.templates().items():
        parts.append(f"The text around a prompt of {names}:\n\n```text\n{template.text}\n```")
        parts.append(template.rules)
    if facts.text_rules():
        parts.append("\n".join(f"- {rule}" for rule in facts.text_rules()))
    return "\n\n".join(parts)


def is_zero(value: Any) -> bool:
    """Return whether a number turns something off; False is an answer."""
    return value == 0 and not isinstance(value, bool)


def fields(configs: dict[str, Any], left_out: Sequence[str] = ()) -> str:
    """Return the fields of configurations that have a meaning, with their values."""
    meanings = family_facts.read_meanings(type(next(iter(configs.values()))))
    rows = []
    for name, meaning in meanings.items():
        values = {preset: getattr(config, name, None) for preset, config in configs.items()}
        unused = all(
            value is None or value in ("", ()) or is_zero(value) for value in values.values()
        )
        if name in left_out or unused:
            continue
        rows.append((f"`{name}`", meaning, by_preset(values)))
    return table("| field | | value |", rows)


def denoiser(facts: Facts) -> str:
    """Return the inputs, the fields and the layers of the denoiser."""
    network = facts.network
    meanings = family_facts.read_entries(network.function.__doc__)
    inputs = [
        (f"`{x.role}`", family_facts.name_shape(x.shape), meanings.get(x.argument, ""))
        for x in network.inputs
    ]
    parts = [
        f"The {network.description}, `{network.name}` in a trace, reads:",
        table("| array | shape | is |", inputs),
    ]
    if network.text_attention is not None:
        tokens = ", ".join(network.text_attention.tokens)
        layers = ", ".join(f"`{x}`" for x in network.text_attention.layers[:1])
        ends = "ends in" if layers.startswith("`.") else "is called"
        parts.append(
            f"The keys of the attention whose name {ends} {layers} are, in this order: {tokens}."
        )
    configs = {name: config.denoiser for name, config in facts.published.items()}
    parts.append(fields(configs))
    rows = [(f"`{row.name}`", row.outputs, row.computes) for row in facts.list_layers()]
    parts.append(
        "Its layers in the order of a call, under the names of a trace; a number of a list is `*`:"
    )
    parts.append(table("| layer | outputs | computes |", rows))
    zeros = facts.zeros()
    if zeros:
        names = ", ".join(f"`{x}`" for x in zeros)
        parts.append(f"A training begins with zeros in the parameters that end in {names}.")
    return "\n\n".join(parts)


def latents(facts: Facts) -> str:
    """Return the autoencoders and their fields."""
    kinds: dict[type, dict[str, Any]] = {}
    for name, config in facts.published.items():
        kinds.setdefault(type(config.vae), {})[name] = config.vae
    parts = []
    for configs in kinds.values():
        names = ", ".join(f"`{x}`" for x in configs)
        first = next(iter(configs.values()))
        whose = "" if len(kinds) == 1 else f" of {names}"
        shape = by_preset({n: (c.latent_channels, c.factor) for n, c in configs.items()})
        parts.append(
            f"{family_facts.title_of(first)}{whose}; channels of the latents, and pixels of a "
            f"side of one cell: {shape}."
        )
        parts.append(fields(configs, ("preview",)))
    return "\n\n".join(parts)


def schedule(facts: Facts) -> str:
    """Return the settings of the schedule that differ from the defaults, and guidance."""
    schedulers = {name: config.scheduler for name, config in facts.published.items()}
    usual = type(next(iter(schedulers.values())))()
    same = [
        name
        for name in family_facts.read_meanings(type(usual))
        if all(getattr(s, name) == getattr(usual, name) for s in schedulers.values())
    ]
    kept = {"prediction_type", "sampler", "spacing"}
    if any(scheduler.dynamic_shift for scheduler in schedulers.values()):
        kept |= DYNAMIC_SHIFT
    parts = [fields(schedulers, [name for name in same if name not in kept])]
    parts += facts.guidance_rules()
    return "\n\n".join(parts)


def files(facts: Facts) -> str:
    """Return the modes, the ControlNets and references, and the files that are opened."""
    names = [*facts.published]
    served: dict[tuple[str, ...], list[str]] = {}
    for mode, models in facts.serve().items():
        served.setdefault(tuple(models), []).append(f"`{mode}`")
    rows = [
        (", ".join(modes), "all" if len(models) == len(names) else ", ".join(models))
        for models, modes in served.items()
        if models
    ]
    parts = [table("| modes | models |", rows)]
    opened = [f"Folders of diffusers: {', '.join(f'`{name}`' for name in facts.pipelines())}."]
    opened.append(f"Single files (safetensors, GGUF): {'; '.join(facts.single_files())}.")
    parts.append("\n".join(f"- {line}" for line in [*facts.further_inputs(), *opened]))
    return "\n\n".join(parts)


def port(facts: Facts) -> str:
    """Return the commands that record the family, and those that judge a port of it."""
    kit, tiny = facts.first, facts.tiny or facts.first
    commands = f"ldmref passport make {kit} -o kit\nldmref passport check port --kit kit"
    return (
        f"```sh\n{commands}\n```\n\n"
        "A kit is a small model under the makers' names with every value that a port must compute; "
        f"`port` is what your program computed. {facts.other_programs()}\n\n"
        f"`ldmref.random_model({tiny!r})` is the same network at a size for tests, and "
        f"`ldmref.cases.golden_model({facts.first!r})` one with the proportions of the published "
        "model. [Port a layer or a block](../port-a-layer.md) begins with one part, "
        "[find where my port differs](../find-where-my-port-differs.md) treats a run of the "
        "published weights, and [pitfalls](../pitfalls.md) says what others got wrong."
    )


def code(facts: Facts) -> str:
    """Return the files of the family."""
    rows = [(f"[{Path(p).name}](../../{p})", summary) for p, summary in facts.sources()]
    return table("| file | holds |", rows)


TABLES: dict[str, Callable[[Facts], str]] = {
    "sizes": sizes,
    "text": text,
    "denoiser": denoiser,
    "latents": latents,
    "schedule": schedule,
    "files": files,
    "port": port,
    "code": code,
}


def page(facts: Facts) -> str:
    """Return the text of a family's page."""
    path = FOLDER / f"{facts.name}.md"
    if path.exists():
        written = path.read_text("utf-8")
    else:
        written = SKELETON.format(title=facts.title, summary=facts.summary, name=facts.name)
    return fill_tables(
        written, {name: lambda make=make: make(facts) for name, make in TABLES.items()}
    )


def title_of(facts: Facts) -> str:
    """Return the title of a family's page, which may be written by hand."""
    path = FOLDER / f"{facts.name}.md"
    if not path.exists():
        return facts.title
    return path.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def index(everything: Sequence[Facts]) -> str:
    """Return the text of the page that lists the families."""
    path = FOLDER / "README.md"

    def list_families() -> str:
        rows = [
            (
                f"[{title_of(facts)}]({facts.name}.md)",
                facts.text_title(),
                facts.network.description,
                facts.prediction(),
                ", ".join(f"`{name}`" for name in facts.published),
            )
            for facts in everything
        ]
        return table("| family | text | denoiser | predicts | models |", rows)

    return fill_tables(path.read_text("utf-8"), {"families": list_families})


def make_pages() -> dict[Path, str]:
    """Return every made file with its text."""
    everything = family_facts.read_families()
    pages = {FOLDER / f"{facts.name}.md": page(facts) for facts in everything}
    drawings = {IMAGES / f"{f.name}.svg": family_drawing.draw(f) for f in everything}
    return pages | drawings | {FOLDER / "README.md": index(everything)}


def main() -> int:
    made = make_pages()
    if "--check" in sys.argv[1:]:
        stale = [p for p, text in made.items() if not p.exists() or p.read_text("utf-8") != text]
        print("\n".join(str(path.relative_to(ROOT)) for path in stale))
        return bool(stale)
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
