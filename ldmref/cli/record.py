"""`ldmref record`: one run with all its states, as a file for the denoising explorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.cli.file_names import expand_name, slugify
from ldmref.cli.images import load_with_flags
from ldmref.cli.messages import rewrite_as_flags
from ldmref.cli.options import PATH, ImageCommand, option, parameter_options, with_options
from ldmref.cli.parameter_text import find_field, read_value
from ldmref.cli.progress import ProgressBar, one_line, say, stopping
from ldmref.cli.settings import naming_settings, with_settings
from ldmref.cli.shared_options import MODEL, PROMPT
from ldmref.cli.sources import read_prompts
from ldmref.cli.tasks import Values, plan_tasks
from ldmref.config import settings
from ldmref.errors import UsageError
from ldmref.io.atomic import check_writable
from ldmref.io.locate import find_model, read_model_config
from ldmref.loading import open_backend
from ldmref.modes.registry import MODES

if TYPE_CHECKING:
    from ldmref.explore import RunRecord

MODE = "txt2img"
ENDING = ".safetensors"
RECORDING = (
    option(
        "--branch",
        "branches",
        type=(int, str),
        multiple=True,
        metavar="STEP NAME=VALUE",
        help="Continue from the state before a step with another prompt, cfg_scale, sampler, ...: "
        "--branch 5 prompt='a blue dog'. May be repeated, for several changes or steps.",
    ),
    option("--truth", is_flag=True, help="Also compute the error of every step, which takes long."),
    option("--no-attention", is_flag=True, help="Leave out the attention maps of the words."),
    option(
        "-o",
        "--output",
        type=PATH,
        metavar="FILE",
        help="Where to write; the name may contain {prompt} and {seed}. Default: "
        "PROMPT-SEED.safetensors.",
    ),
    option("--overwrite", is_flag=True, help="Replace an existing file."),
    option("--json", "as_json", is_flag=True, help="Print a JSON object about the file."),
    option("-q", "--quiet", is_flag=True, help="Print only errors."),
    option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors."),
)


@click.command(cls=ImageCommand)
@with_options(PROMPT, parameter_options(MODES[MODE].parameters.values()), MODEL, RECORDING)
def record(
    words: tuple[str, ...], prompt: tuple[str, ...], prompts: str | None, **flags: Any
) -> None:
    """Record a run: every state, prediction and attention map, for the denoising explorer.

    Example: ldmref record "red heart" --seed 1 -o heart.safetensors
    """
    from ldmref.explore import branch_run, truth_line
    from ldmref.explore.branching import parameters_of
    from ldmref.explore.record import record_plan, require_one

    configured = settings(flags["config"])
    name = flags["model"] or configured.defaults.get("model", "emoji")
    embedded = not words and not prompt and prompts is None and flags["prompt_embeds"] is not None
    texts = [""] if embedded else read_prompts(words, prompt, prompts, "record")
    with naming_settings(configured, flags):
        path = find_model(name, flags["fetch"], flags["variant"])
        config = read_model_config(path, flags["model_config"], flags["ema"])
        completed = with_settings(MODE, flags | {"prompt": texts, "output": None}, configured)
        [task] = plan_tasks(MODE, config, completed)
        backend = open_backend(
            flags["backend"], flags["device"], flags["dtype"], flags["config"], flags["speed"]
        )
    branches = read_branches(flags["branches"])
    plan = require_one(task.plan)
    job = plan.job
    target = find_target(flags["output"], job.prompts[0], job.seeds[0])
    check_writable(target, flags["overwrite"])
    with stopping() as stop:
        with naming_settings(configured, flags):
            model = load_with_flags(path, backend, flags, configured)
        bar = ProgressBar("none" if flags["quiet"] else "auto")

        def show(progress: Any) -> None:
            done = min(progress.step + 1, progress.steps)
            bar.update(done, progress.steps, 0, 1)

        watched: Values = {"callback": show, "cancel": stop}
        watched["attention"] = not flags["no_attention"]
        if branches:
            *trunks, (step, changes) = branches
            trunk = parameters_of(plan, {}) | {"mode": MODE}
            for earlier, changed in trunks:
                trunk = {"trunk": trunk, "step": earlier, "changes": changed}
            run = branch_run(model, trunk, step, **watched, **changes)
        else:
            run = record_plan(model, plan, **watched)
        if flags["truth"]:
            run = run.with_truth(truth_line(model, run, callback=show, cancel=stop))
        bar.clear()
    run.save(target, overwrite=flags["overwrite"])
    report(target, run, flags)


def read_branches(branches: tuple[tuple[int, str], ...]) -> list[tuple[int, Values]]:
    """Return the changes of each step at which the run branches, in the order of the steps.

    Raises:
        UsageError: A change is not a name and a value of a parameter.
    """
    changes: dict[int, Values] = {}
    for step, text in branches:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(
                f"cannot read the change {text!r}", code="E-USAGE", hint="--branch 5 cfg_scale=6"
            )
        field = find_field(MODE, name.strip(), "E-USAGE")
        changes.setdefault(step, {})[field.name] = read_value(field, value, "E-USAGE")
    return sorted(changes.items())


def find_target(output: str | None, prompt: str, seed: int) -> Path:
    """Return the file to write, from the name given with -o."""
    if output is None or Path(output).is_dir():
        return Path(output or ".") / f"{slugify(prompt)}-{seed}{ENDING}"
    return expand_name(output, [slugify(prompt)], [seed])[0]


def report(target: Path, run: RunRecord, flags: Values) -> None:
    """Print the warnings, a line about the file, and a JSON object."""
    command = click.get_current_context().command
    truth = run.truth
    size = target.stat().st_size
    if not flags["quiet"]:
        for line in run.meta["warnings"]:
            say(one_line(f"ldmref: warning: {rewrite_as_flags(line, command)}"))
        parts = [str(target), f"seed {run.meta['seed']}", f"{run.steps} steps", f"{size:,} bytes"]
        if truth is not None:
            parts.append(f"distance {truth.distance[-1]:.3g} from the converged image")
        say(one_line("  ".join(parts)))
    if flags["as_json"]:
        described = {"path": str(target), "bytes": size, "steps": run.steps}
        words = [word.text for word in run.words]
        keys = ("seed", "params", "branch", "warnings")
        described |= {key: run.meta[key] for key in keys} | {"words": words}
        if truth is not None:
            numbers = {
                "distance": truth.distance.tolist(),
                "local_error": truth.local_error.tolist(),
            }
            described |= {"truth": numbers | truth.description}
        click.echo(json.dumps(described))


COMMANDS = (record,)
