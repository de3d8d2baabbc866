"""`ldmref run`: from what an image records back to the command that drew it."""

from __future__ import annotations

from typing import Any

import click

from ldmref.cli.images import draw
from ldmref.cli.options import (
    FILES,
    MODEL,
    PATH,
    SOURCES,
    Drawing,
    is_set,
    parameter_options,
    with_options,
)
from ldmref.cli.tasks import WITHOUT_PROMPT
from ldmref.errors import UsageError
from ldmref.io.images.infotext import replay_parameters
from ldmref.io.images.metadata import TOGETHER, read_parameters
from ldmref.modes.embeddings import NAMES as EMBEDDINGS
from ldmref.modes.record import RECORDED
from ldmref.modes.registry import MODES
from ldmref.modes.request import named_schedule

SOURCE_FLAGS = {"image": "-i IMAGE", "mask": "--mask MASK", "segmentation": "-i MAP"}
OF_ALL_IMAGES = ("count", "batch_size")  # each image records itself alone
ONE_EACH = ("seed", "prompt", "negative_prompt")  # of which an image has one
REPLACED = {  # by a flag: what else of the record it replaces
    "sampler": {"eta"}, "steps": {"sigmas"}, "schedule": {"sigmas"},
    "sigmas": {"steps", "schedule"}, "negative_prompt_embeds": {"negative_prompt"},
}  # fmt: skip


@click.command(cls=Drawing)
@click.option(
    "--from",
    "source",
    required=True,
    metavar="IMAGE",
    type=PATH,
    help="An image made by ldmref or A1111.",
)
@click.option("-p", "--prompt", metavar="TEXT", help="Draw this instead.")
@click.option(
    "-i", "--image", type=PATH, metavar="FILE", help="The image or map that it was made from."
)
@click.option("--mask", type=PATH, metavar="FILE", help="The mask with which it was made.")
@with_options(parameter_options(RECORDED.values()), MODEL, FILES)
def run(source: str, prompt: str | None, **flags: Any) -> None:
    """Draw an image again as it records; flags override.

    An image of ldmref records everything but the images that it was made from: give them again.
    One of A1111 records text, which is repeated as far as it goes; what is not exact is said.
    """
    recorded = read_record(source)
    mode = recorded["mode"]
    takes = MODES[mode].parameters
    sources = [name for name in SOURCES if name in takes]
    require_inputs(source, mode, sources, recorded, flags)
    refuse_others(mode, prompt, flags)
    flags["segmentation"] = flags["image"]
    own = {name for name, value in flags.items() if is_set(value)}
    own_seed = flags["seed"] is not None
    replaced = {*OF_ALL_IMAGES, "latents", *EMBEDDINGS}
    replaced = replaced.union(*(x for name, x in REPLACED.items() if is_set(flags.get(name))))
    if named_schedule(flags["sampler"]):
        replaced.add("schedule")
    for name in (*takes, "tile"):
        if name in replaced:
            continue
        if name in recorded and not is_set(flags.get(name)):
            flags[name] = recorded[name]
    model = recorded.get("model")
    if flags["ema"] is None and isinstance(model, dict) and isinstance(model.get("ema"), bool):
        flags["ema"] = model.get("ema")
    words = recorded.get("prompt") if prompt is None else prompt
    if not isinstance(words, str):
        raise UsageError(f"{source!r} records no prompt", code="E-REPLAY")
    if mode == "interpolate":
        flags |= {"to": recorded.get("prompt_b"), "frames": "missing"}
        if not own_seed and "seed_b" in recorded:
            flags["seed"] = [flags["seed"], recorded["seed_b"]]
    if mode == "invert":
        inverted = recorded.get("inverted")
        if not isinstance(inverted, dict) or not isinstance(inverted.get("prompt"), str):
            raise UsageError(f"{source!r} does not record how it was inverted", code="E-REPLAY")
        flags |= {
            "edits": (words,),
            "iterations": inverted.get("iterations", "missing"),
            "noise": None,
        }
        words = inverted["prompt"]
    draw(mode, flags | {"prompt": words}, recorded | {"own": own})


COMMANDS = (run,)


def read_record(source: str) -> dict[str, Any]:
    """Return the JSON that an image records, with a known mode; else what its text says.

    `notes` list what is not exact; `a1111` is None unless A1111 wrote the text.

    Raises:
        UsageError: it records neither, or several images.
        InputError: its text is damaged.
    """
    parameters = read_parameters(source)
    recorded = parameters.get("ldmref")
    if isinstance(recorded, dict):
        mode = recorded.get("mode")
        if mode in TOGETHER:
            raise UsageError(
                f"{source!r} is a file of several images, which cannot be repeated at once",
                code="E-REPLAY",
                hint=f"ldmref info {source} lists what makes each of them",
            )
        if isinstance(mode, str) and mode in MODES:
            check_single(source, recorded)
            return recorded | {"notes": [], "a1111": None}
    text = None if recorded else replay_parameters(parameters.get("parameters", ""))
    if text is None:
        raise UsageError(f"{source!r} does not record how it was made", code="E-REPLAY")
    params, notes = text
    return {"a1111": None} | params | {"notes": notes}


def check_single(source: str, recorded: dict[str, Any]) -> None:
    """Refuse a record of several images: each records itself alone.

    Raises:
        UsageError: names what is a list.
    """
    several = [name for name in ONE_EACH if isinstance(recorded.get(name), list)]
    positions = recorded.get("positions", [0.0])
    if isinstance(positions, int) or (isinstance(positions, list) and len(positions) != 1):
        several.append("positions")
    if several:
        raise UsageError(
            f"{source!r} records several images, by its {several[0]}; each records itself alone",
            code="E-REPLAY",
            hint=f"ldmref info {source} shows the record, which was changed",
        )


def require_inputs(
    source: str, mode: str, sources: list[str], recorded: dict[str, Any], flags: dict[str, Any]
) -> None:
    """Refuse a replay without the images, noise and ControlNets that are not in the record.

    Raises:
        UsageError: names what is missing.
    """
    missing = [
        SOURCE_FLAGS[name]
        for name in sources
        if not flags["image" if name == "segmentation" else name]
    ]
    if missing:
        needed = " ".join(missing)
        raise UsageError(
            f"{source!r} was made by {mode} from another image, which is not recorded in it",
            code="E-REPLAY",
            hint=f"add {needed}; or use ldmref {mode} {needed}; ldmref info {source} shows the "
            "settings",
        )
    for name in ("latents", *EMBEDDINGS) if mode != "invert" else ():
        if recorded.get(name) and flags[name] is None:
            what = "noise" if name == "latents" else "embeddings"
            raise UsageError(
                f"{source!r} was drawn from given {what}, not recorded in it",
                code="E-REPLAY",
                hint=f"add --{name.replace('_', '-')} {what.upper()}.npy",
            )
    nets = recorded.get("control")
    if nets and isinstance(nets, list) and not flags["control"]:
        raise UsageError(
            f"{source!r} was drawn with ControlNets, whose images are not recorded in it",
            code="E-REPLAY",
            hint="add "
            + " ".join(["--control NET:IMAGE"] * min(len(nets), 3))
            + f"; ldmref info {source} shows their weights",
        )


def refuse_others(mode: str, prompt: str | None, flags: dict[str, Any]) -> None:
    """Refuse flags that mean nothing to the mode of the image.

    Raises:
        UsageError: names the first.
    """
    takes = {*MODES[mode].parameters}
    takes |= {"seg2img": {"image"}, "invert": {"batch_size", "tile"}}.get(mode, set())
    long = {name: (p.flags or (f"--{name.replace('_', '-')}",))[-1] for name, p in RECORDED.items()}
    long |= {"image": "--image", "mask": "--mask"}
    others = [flag for name, flag in long.items() if name not in takes and is_set(flags[name])]
    if mode in WITHOUT_PROMPT and prompt:
        others.append("--prompt")
    if others:
        raise UsageError(
            f"the image was made by {mode}, which takes no {others[0]}",
            code="E-USAGE",
            hint=f"leave it out; ldmref {mode} --help lists what it takes",
        )
