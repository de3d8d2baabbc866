"""`ldmref record`: the trace of a run's states in one file, for the denoising explorer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ldmref.apps.cli.console import report_file
from ldmref.apps.cli.file_names import expand_name, slugify
from ldmref.apps.cli.options import PATH, ImageCommand, option, parameter_options, with_options
from ldmref.apps.cli.parameter_text import find_field, read_value
from ldmref.apps.cli.progress import ProgressBar, stopping
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.settings import with_settings
from ldmref.apps.cli.shared_options import MODEL, PROMPT
from ldmref.apps.cli.sources import read_prompts
from ldmref.apps.cli.tasks import Values, plan_tasks
from ldmref.apps.foreign import foreign_value, read_foreign
from ldmref.errors import UsageError
from ldmref.io.atomic import check_writable
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

    The file is a trace, which ldmref trace show and ldmref diff read too.

    Example: ldmref record "red heart" --seed 1 -o heart.safetensors
    """
    from ldmref.explore import branch_run, truth_line
    from ldmref.explore.branching import parameters_of
    from ldmref.explore.record import record_plan, require_one

    session = CommandSession(flags)
    embedded = not words and not prompt and prompts is None and flags["prompt_embeds"] is not None
    texts = [""] if embedded else read_prompts(words, prompt, prompts, "record")
    with session.planning() as config:
        own = flags | {"prompt": texts, "output": None}
        [task] = plan_tasks(MODE, config, with_settings(MODE, own, session.configured))
    branches = [
        (step, read_foreign(config, changes)) for step, changes in read_branches(flags["branches"])
    ]
    plan = require_one(task.plan)
    job = plan.job
    target = find_target(flags["output"], job.prompts[0], job.seeds[0])
    check_writable(target, flags["overwrite"])
    with stopping() as stop:
        model = session.load()
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
    report_record(target, run, flags)


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
        read = read_value(field, value, "E-USAGE")
        changes.setdefault(step, {})[field.name] = foreign_value(name.strip(), read)
    return sorted(changes.items())


def find_target(output: str | None, prompt: str, seed: int) -> Path:
    """Return the file to write, from the name given with -o."""
    if output is None or Path(output).is_dir():
        return Path(output or ".") / f"{slugify(prompt)}-{seed}{ENDING}"
    return expand_name(output, [slugify(prompt)], [seed])[0]


def report_record(target: Path, run: RunRecord, flags: Values) -> None:
    """Print the warnings, a line about the file, and a JSON object."""
    size = target.stat().st_size
    line = [str(target), f"seed {run.meta['seed']}", f"{run.steps} steps", f"{size:,} bytes"]
    row: Values = {"path": str(target), "bytes": size, "steps": run.steps}
    row |= {key: run.meta[key] for key in ("seed", "params", "branch", "warnings")}
    row["words"] = [word.text for word in run.words]
    if (truth := run.truth) is not None:
        line.append(f"distance {truth.distance[-1]:.3g} from the converged image")
        numbers = {"distance": truth.distance.tolist(), "local_error": truth.local_error.tolist()}
        row["truth"] = numbers | truth.description
    report_file(line, run.meta["warnings"], row, flags)


COMMANDS = (record,)
