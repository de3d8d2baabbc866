"""`ldmref run`: from what a picture records back to the command that drew it."""

from __future__ import annotations

from typing import Any

import click

from ldmref.cli.options import COMMON, SIZE, with_options
from ldmref.cli.pictures import draw
from ldmref.cli.plans import SOURCES, TAKES, WITHOUT_PROMPT
from ldmref.errors import UsageError
from ldmref.io.pictures.metadata import read_parameters

NOT_REPLAYED = ("count", "batch_size", "control")  # each picture records itself alone


@click.command()
@click.option("--from", "source", required=True, metavar="IMAGE", help="A picture made by ldmref.")
@click.option("-p", "--prompt", metavar="TEXT", help="Draw this instead.")
@click.option("-i", "--image", metavar="FILE", help="The picture or map that it was made from.")
@click.option("--mask", metavar="FILE", help="The mask with which it was made.")
@with_options(COMMON, SIZE)
def run(source: str, prompt: str | None, **flags: Any) -> None:
    """Draw a picture again as it records; flags override.

    What it was made from is not recorded in it: give that again.
    """
    kept = read_parameters(source)
    found = kept.get("ldmref")
    recorded: dict[str, Any] = found if isinstance(found, dict) else {}
    mode = recorded.get("mode")
    if not isinstance(mode, str) or mode not in TAKES:
        text = "parameters" in kept and not recorded
        raise UsageError(
            f"{source!r} tells its settings as text alone, which is not exact"
            if text
            else f"{source!r} does not record how it was made",
            code="E-REPLAY",
            hint=f"ldmref info {source} shows the text" if text else "",
        )
    require_sources(source, mode, recorded, flags)
    refuse_others(mode, prompt, flags)
    own_sampler = flags["sampler"] is not None  # to which the recorded eta does not belong
    own_seed = flags["seed"] is not None
    for key in TAKES[mode]:
        if key in NOT_REPLAYED or (key == "eta" and own_sampler):
            continue
        if flags.get(key) is None and key in recorded:
            flags[key] = recorded[key]
    flags |= {"resize": recorded.get("resize", "crop"), "noise": None}
    flags["mask_invert"] = recorded.get("mask_invert", False)
    made_by = recorded.get("model")
    if flags["ema"] is None and isinstance(made_by, dict):
        flags["ema"] = made_by.get("ema")
    words = recorded.get("prompt") if prompt is None else prompt
    if not isinstance(words, str):
        raise UsageError(f"{source!r} records no prompt", code="E-REPLAY")
    if mode == "interpolate":
        flags |= {"to": recorded.get("prompt_b"), "positions": recorded.get("positions")}
        flags |= {"path": recorded.get("path", "lerp"), "frames": None}
        if not own_seed and "seed_b" in recorded:
            flags["seed"] = [flags["seed"], recorded["seed_b"]]
    if mode == "invert":
        inverted = recorded.get("inverted")
        if not isinstance(inverted, dict) or not isinstance(inverted.get("prompt"), str):
            raise UsageError(f"{source!r} does not record how it was inverted", code="E-REPLAY")
        flags |= {"edits": (words,), "iterations": inverted.get("iterations")}
        words = inverted["prompt"]
    draw(mode, words, flags, recorded)


COMMANDS = (run,)


def require_sources(
    source: str, mode: str, recorded: dict[str, Any], flags: dict[str, Any]
) -> None:
    """Refuse a replay without the pictures, noise and ControlNets that are not in the record.

    Raises:
        UsageError: names what is missing.
    """
    missing = [flag for key, flag in SOURCES.get(mode, {}).items() if not flags[key]]
    if missing:
        needed = " ".join(missing)
        raise UsageError(
            f"{source!r} was made by {mode} from another picture, which is not recorded in it",
            code="E-REPLAY",
            hint=f"add {needed}; or use ldmref {mode} {needed}; ldmref info {source} shows the "
            "settings",
        )
    if recorded.get("latents") and mode != "invert" and not flags["latents"]:
        raise UsageError(
            f"{source!r} was drawn from given noise, which is not recorded in it",
            code="E-REPLAY",
            hint="add --latents NOISE.npy",
        )
    nets = recorded.get("control")
    if nets and isinstance(nets, list) and not flags["control"]:
        raise UsageError(
            f"{source!r} was drawn with ControlNets, whose pictures are not recorded in it",
            code="E-REPLAY",
            hint="add "
            + " ".join(["--control NET:IMAGE"] * min(len(nets), 3))
            + f"; ldmref info {source} shows their weights",
        )


def refuse_others(mode: str, prompt: str | None, flags: dict[str, Any]) -> None:
    """Refuse flags that mean nothing to the mode of the picture.

    Raises:
        UsageError: names the first.
    """
    known = {"cfg_scale": "--cfg", "image": "--image", "mask": "--mask", "latents": "--latents"}
    known |= {key: "--" + key.replace("_", "-") for key in TAKES["txt2img"] if key not in known}
    takes = {*TAKES[mode], *SOURCES.get(mode, {})}
    takes |= set() if mode in ("invert", "interpolate") else {"latents"}
    given = [flag for key, flag in known.items() if key not in takes and flags[key]]
    if mode in WITHOUT_PROMPT and prompt:
        given.append("--prompt")
    if given:
        raise UsageError(
            f"the picture was made by {mode}, which takes no {given[0]}",
            code="E-USAGE",
            hint=f"leave it out; ldmref {mode} --help lists what it takes",
        )
