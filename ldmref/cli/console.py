"""What one drawing command prints and saves: settings, steps, warnings, and every image."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

import click

from ldmref import modes
from ldmref.backends import Backend
from ldmref.cli.output import Output
from ldmref.cli.preview import Preview
from ldmref.cli.progress import Progress, duration, one_line, say
from ldmref.cli.wording import in_flags
from ldmref.config import Settings
from ldmref.errors import Cancelled, LdmrefError
from ldmref.models.model import LatentDiffusion
from ldmref.modes.plan import AnyRun
from ldmref.modes.request import Request


class Console:
    """The output of one command; `flags` are its `--quiet`, `--verbose`, `--json`, `--progress`."""

    def __init__(
        self,
        flags: dict[str, Any],
        output: Output,
        total: int,
        command: click.Command,
        preview: Preview | None = None,
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
        self.bar = Progress("none" if self.quiet else flags["progress"])
        self._last = time.monotonic()

    def settings(self, configured: Settings, model: str, backend: Backend) -> None:
        """With --verbose: every setting and where it comes from."""
        if not self.verbose:
            return
        for key, origin in configured.origin.items():
            table, name = key.split(".")
            value = getattr(configured, table)[name]
            say(one_line(f"ldmref: {key} = {value!r} from {origin}"))
        say(one_line(f"ldmref: model {model}, {backend!r}"))

    def memory(self, model: LatentDiffusion, request: Request) -> None:
        """With --verbose: an estimate of the memory that the images take."""
        if not self.verbose:
            return
        needs = model.estimate_memory(
            request.width, request.height, request.batch_size, request.tile
        )
        apart = needs.peak_offloaded(model.params.releasable)
        say(
            f"ldmref: memory about {needs.peak_resident / 1e9:.1f} GB, "
            f"{apart / 1e9:.1f} GB with a network at a time (--max-memory)"
        )

    def warn(self, warnings: Iterable[str]) -> None:
        """A line for each, once."""
        for text in () if self.quiet else warnings:
            if text in self._warned:
                continue
            self._warned.add(text)
            say(one_line(f"ldmref: warning: {in_flags(text, self.command)}"))

    def step_up(self, progress: modes.Progress) -> None:
        """A step from an image to its noise."""
        self.bar.update(progress.step + 1, progress.steps, 0, 1, "to the noise")
        if progress.step + 1 == progress.steps:
            self.clear()
            self.bar.start = time.monotonic()

    def step(self, progress: modes.Progress, before: int = 0) -> None:
        """A step of a batch, after `before` images of other runs."""
        if self.preview is not None and progress.step + 1 < progress.steps:
            self.clear()
            self.preview.show(progress)
        self.bar.update(progress.step + 1, progress.steps, before + progress.first, self.total)

    def clear(self) -> None:
        """Remove the progress bar."""
        self.bar.clear()

    def image(self, image: modes.GeneratedImage, run: AnyRun, before: int = 0) -> None:
        """Save an image, and print its line and its JSON object."""
        self.clear()
        now = time.monotonic()
        seconds = now - self._last
        self._last = now
        params = run.params_of(image.index)
        if params["mode"] == "invert":
            del params["seed"]  # its noise is that of an image
        name = self.output.write(image.image, before + image.index, params)
        self.finished += 1
        self.saved.append(name)
        if self.preview is not None:
            self.preview.end(image.image)
        if not self.quiet:
            say(one_line(_line(name, params, image.image.size, run.plan.request, seconds)))
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
        """Write what is written after the last image, and say so."""
        name = self.output.finish()
        if name is not None and not self.quiet:
            say(one_line(f"{'standard output' if name == '-' else name}  {self.finished} images"))

    def interrupted(self, error: LdmrefError, exit_code: int) -> LdmrefError:
        """The error, and how many images are saved."""
        self.clear()
        self.finish()
        message = str(error)
        stopped = isinstance(error, Cancelled)
        if stopped:
            error.exit_code = exit_code
            message = "stopped"
        if stopped or self.total > 1:
            message += f"; {len(self.saved)} of {self.total} images are saved"
        if self.saved:
            message += f", {self.saved[0]} to {self.saved[-1]}"
        error.args = (message,)
        return error


def _line(
    name: str, params: dict[str, Any], size: tuple[int, int], request: Request, seconds: float
) -> str:
    """What is said of an image; `size` is that of its file."""
    seed = params.get("seed")
    items = (
        "standard output" if name == "-" else name,
        *(() if seed is None else (f"seed {seed}",)),
        f"{size[0]}x{size[1]}",
        f"{request.steps} steps {request.sampler.name}",
        f"cfg {request.cfg_scale:g}",
        params["backend"]["name"],
        duration(seconds),
    )
    return "  ".join(items)
