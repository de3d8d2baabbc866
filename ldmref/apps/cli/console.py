"""Terminal output of a generating command: settings, warnings, progress, and every image."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from ldmref import modes
from ldmref.advice.cost import estimate_job_memory
from ldmref.apps.cli.messages import rewrite_as_flags
from ldmref.apps.cli.output import Output
from ldmref.apps.cli.preview import LivePreview
from ldmref.apps.cli.progress import ProgressBar, duration, one_line, say
from ldmref.backends import Backend
from ldmref.errors import Cancelled, LdmrefError
from ldmref.models.model import LatentDiffusion
from ldmref.modes.job import Job
from ldmref.modes.run import Run
from ldmref.support.config import Settings


class Console:
    """The output of one command.

    Args:
        flags: Values of all flags; `--quiet`, `--verbose`, `--json` and `--progress` are used.
        output: Target of the images.
        total: Number of images of the command.
        command: The click command, whose flags messages name.
        preview: Preview of the image while it is generated, if one was asked for.
    """

    def __init__(
        self,
        flags: dict[str, Any],
        output: Output,
        total: int,
        command: click.Command,
        preview: LivePreview | None = None,
    ):
        self.quiet = flags["quiet"]
        self.verbose = flags["verbose"]
        self.as_json = flags["as_json"]
        self.output = output
        self.command = command
        self.preview = preview
        self.total = total
        self.finished = 0
        self.saved: list[str] = []
        self._warned: set[str] = set()
        self.bar = ProgressBar("none" if self.quiet else flags["progress"])
        self._last = time.monotonic()

    def settings(self, configured: Settings, model: str, backend: Backend) -> None:
        """Print every setting and where it comes from, if --verbose was given."""
        if not self.verbose:
            return
        for key, origin in configured.origin.items():
            table, name = key.split(".")
            value = getattr(configured, table)[name]
            say(one_line(f"ldmref: {key} = {value!r} from {origin}"))
        say(one_line(f"ldmref: model {model}, {backend!r}"))

    def loaded(self, model: LatentDiffusion, job: Job) -> None:
        """Start the time of the first image, and with --verbose print the memory of the images."""
        self._last = time.monotonic()
        if not self.verbose:
            return
        needs = estimate_job_memory(model, job)
        names = model.params.releasable
        say(
            f"ldmref: memory about {needs.peak_resident / 1e9:.1f} GB, "
            f"{needs.peak_offloaded(names) / 1e9:.1f} GB with one network at a time, or "
            f"{needs.peak_streamed(names) / 1e9:.1f} GB with one block (--max-memory)"
        )

    def warn(self, warnings: Iterable[str]) -> None:
        """Print each warning once, one per line."""
        for text in () if self.quiet else warnings:
            if text in self._warned:
                continue
            self._warned.add(text)
            say(one_line(f"ldmref: warning: {rewrite_as_flags(text, self.command)}"))

    def step_up(self, progress: modes.Progress) -> None:
        """Show the progress of an inversion."""
        self.bar.update(progress.step + 1, progress.steps, 0, 1, "inversion")
        if progress.step + 1 == progress.steps:
            self.clear()
            self.bar.start = time.monotonic()

    def step(self, progress: modes.Progress, before: int = 0) -> None:
        """Show the progress of a batch; `before` is the number of images of earlier runs."""
        if self.preview is not None and progress.step + 1 < progress.steps:
            self.clear()
            self.preview.show()
        self.bar.update(progress.step + 1, progress.steps, before + progress.first, self.total)

    def clear(self) -> None:
        """Remove the progress bar."""
        self.bar.clear()

    def image(self, image: modes.GeneratedImage, run: Run, before: int = 0) -> None:
        """Save an image, and print a line and a JSON object about it."""
        self.clear()
        now = time.monotonic()
        seconds = now - self._last
        self._last = now
        params = run.params_of(image.index)
        if params["mode"] == "invert":
            del params["seed"]  # the noise comes from an image, not from a seed
        name = self.output.write(image.image, before + image.index, params)
        self.finished += 1
        self.saved.append(name)
        if self.preview is not None:
            self.preview.end(image.image)
        if not self.quiet:
            say(one_line(_summary(name, params, image.image.size, run.job, seconds)))
        if self.as_json:
            width, height = image.image.size
            record = {
                "path": name,
                "seed": params.get("seed"),
                "width": width,
                "height": height,
                "params": params,
                "warnings": run.warnings,
                "seconds": round(seconds, 3),
            }
            click.echo(json.dumps(record))

    def finish(self) -> None:
        """Write the file of all images, if the output is one file, and print its name."""
        name = self.output.finish()
        if name is not None and not self.quiet:
            say(one_line(f"{'standard output' if name == '-' else name}  {self.finished} images"))

    def interrupted(self, error: LdmrefError) -> LdmrefError:
        """Add to an error how many images are saved, and return it."""
        self.clear()
        self.finish()
        message = str(error)
        stopped = isinstance(error, Cancelled)
        if stopped:
            message = "stopped"
        if stopped or self.total > 1:
            message += f"; {len(self.saved)} of {self.total} images are saved"
        if self.saved:
            message += f", {self.saved[0]} to {self.saved[-1]}"
        error.args = (message,)
        return error


def _summary(
    name: str, params: dict[str, Any], size: tuple[int, int], job: Job, seconds: float
) -> str:
    """Return the line printed for an image of the given size, in pixels."""
    seed = params.get("seed")
    items = (
        "standard output" if name == "-" else name,
        *(() if seed is None else (f"seed {seed}",)),
        f"{size[0]}x{size[1]}",
        f"{job.steps} steps {job.sampler.name}",
        f"cfg {job.cfg_scale:g}",
        params["backend"]["name"],
        duration(seconds),
    )
    return "  ".join(items)


def report_file(
    parts: Sequence[str], warnings: Sequence[str], row: Mapping[str, Any], flags: Mapping[str, Any]
) -> None:
    """Print what a command wrote: warnings, one line of parts, and with `--json` an object."""
    command = click.get_current_context().command
    if not flags["quiet"]:
        for line in warnings:
            say(one_line(f"ldmref: warning: {rewrite_as_flags(line, command)}"))
        say(one_line("  ".join(parts)))
    if flags["as_json"]:
        click.echo(json.dumps(row))
