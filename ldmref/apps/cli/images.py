"""The commands that generate images, one for each mode.

Settings, the model's configuration, every parameter, the source images and the output are checked
before anything is loaded: then the backend, and last the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from ldmref import modes
from ldmref.apps.cli.combined import Animation, Sheet, is_animated
from ldmref.apps.cli.console import Console
from ldmref.apps.cli.options import ImageCommand, Notation, option, parameter_options, with_options
from ldmref.apps.cli.origin import Origin
from ldmref.apps.cli.output import Output
from ldmref.apps.cli.preview import previewing
from ldmref.apps.cli.progress import Stop, stopping
from ldmref.apps.cli.session import CommandSession
from ldmref.apps.cli.shared_options import FILES, INTERPOLATING, INVERTING, MODEL, PROMPT, SHEET
from ldmref.apps.cli.sources import is_embedded, read_prompts
from ldmref.apps.cli.standard_streams import check_stdout
from ldmref.apps.cli.tasks import WITHOUT_PROMPT, Task, Values, plan_tasks
from ldmref.declare import Flag
from ldmref.errors import LdmrefError, UsageError
from ldmref.models.model import LatentDiffusion
from ldmref.modes.notation import parse_positions
from ldmref.modes.registry import MODES

SUMMARIES = {  # the first sentence is also in the list of commands
    "txt2img": """Generate images from a text prompt.

    Example: ldmref txt2img "red heart" --seed 1
    """,
    "img2img": """Change an image to match a prompt.

    Example: ldmref img2img "blue heart" -i heart.png --strength 0.5
    """,
    "inpaint": """Repaint the white area of a mask; black pixels are preserved exactly.

    Example: ldmref inpaint "cat face" -i photo.png --mask mask.png
    """,
    "interpolate": """Generate images that gradually turn one prompt into another.

    PROMPT is the first prompt, --to the last one. To change only the noise, give two seeds.

    Example: ldmref interpolate "red heart" --to "blue heart" --count 24 --animate
    """,
    "invert": """Find the noise that gives an image, then edit the image with another prompt.

    PROMPT describes the image, --edit the new image.

    Example: ldmref invert "red heart" -i heart.png --edit "blue heart"
    """,
    "edit": """Edit an image with a flow-matching model; what two prompts share stays as it is.

    PROMPT describes the edited image, --source-prompt the given one. Needs SD3 or Flux.

    Example: ldmref edit "a dog" --source-prompt "a cat" -i cat.png -m sd35-medium
    """,
    "superres": """Upscale an image by the model's factor; needs a super-resolution model.

    Example: ldmref superres -m bsr-sr -i small.png
    """,
    "seg2img": """Generate an image from a segmentation map; needs a model trained for it.

    Example: ldmref seg2img -m semantic --map map.png
    """,
}


OWN_OPTIONS = {
    "invert": INVERTING,
    "interpolate": (
        *INTERPOLATING,
        option(
            "--positions",
            type=Notation(Flag(metavar="A,B,...", parse=parse_positions)),
            help="Their positions from 0 to 1, instead of a number of images.",
        ),
    ),
}


def command(mode: str) -> click.Command:
    """Return the command of a mode."""
    prompt = () if mode in WITHOUT_PROMPT else PROMPT
    flags = parameter_options(MODES[mode].parameters.values())

    @with_options(prompt, flags, OWN_OPTIONS.get(mode, ()), MODEL, FILES, SHEET)
    def run(
        words: tuple[str, ...] = (),
        prompt: tuple[str, ...] = (),
        prompts: str | None = None,
        **flags: object,
    ) -> None:
        texts = [""]
        if mode not in WITHOUT_PROMPT and not is_embedded(words, prompt, prompts, flags):
            texts = read_prompts(words, prompt, prompts, mode)
        generate(mode, flags | {"prompt": texts}, Origin())

    return click.command(name=mode, help=SUMMARIES[mode], cls=ImageCommand)(run)


COMMANDS = tuple(command(mode) for mode in MODES)


def generate(mode: str, flags: Values, origin: Origin) -> None:
    """Check everything, load the model, generate and save."""
    session = CommandSession(flags)
    with session.planning() as config:
        origin.check_model(session)
        flags = origin.complete(mode, config, flags, session.configured)
        if flags["output"] == "-" and flags["as_json"]:
            raise UsageError("-o - and --json both want standard output", code="E-OUTPUT")
        try:
            tasks = plan_tasks(mode, config, flags)
        except UsageError as error:  # a record of a flow does not suit a model of noise, ...
            error.hint = origin.name_model(config) or error.hint
            raise
    output = make_output(mode, flags, tasks)
    output.check()
    if flags["as_json"]:
        check_stdout()
    with stopping() as stop, previewing(flags) as preview:
        total = sum(len(task.labels) for task in tasks)
        console = Console(flags, output, total, click.get_current_context().command, preview)
        console.settings(session.configured, session.name, session.backend)
        model = session.load()
        console.loaded(model, tasks[0].plan.passes[-1])
        console.warn(origin.compare_model(model))
        try:
            for task in tasks:
                _generate_task(task, model, console, stop, origin)
            console.finish()
        except LdmrefError as error:
            raise console.interrupted(error) from error


def _generate_task(
    task: Task, model: LatentDiffusion, console: Console, stop: Stop, origin: Origin
) -> None:
    """Generate the images of one task, and save each as soon as it is done."""
    plan = task.plan if task.finish is None else task.finish(model, console, stop)
    run = plan.prepare(model)
    console.warn(run.warnings)
    console.warn(origin.compare_run(run))
    first = console.finished
    for event in run.generate(stop, console.preview):
        if isinstance(event, modes.Progress):
            console.step(event, first)
        else:
            console.image(event, run, first)


def make_output(mode: str, flags: Values, tasks: Sequence[Task]) -> Output:
    """Return the output of the tasks: a file for each image, or one for all."""
    labels = [label for task in tasks for label in task.labels]
    seeds = [seed for task in tasks for seed in task.plan.job.seeds]
    seeded = seeds if "seed" in MODES[mode].parameters else None
    to = flags["output"]
    kind = flags["kind"]
    files = {"kind": kind, "overwrite": flags["overwrite"], "metadata": not flags["no_metadata"]}
    animated = is_animated(flags.get("animate"), to)
    if animated and flags.get("sheet"):
        raise UsageError("--sheet and an animation exclude each other", code="E-USAGE")
    if animated:
        return Animation(to, labels, seeded, duration=flags["duration"], **files)
    return (Sheet if flags.get("sheet") else Output)(to, labels, seeded, **files)
