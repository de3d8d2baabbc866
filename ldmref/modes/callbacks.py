"""A run to its end: its events go to a callback, its images into a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ldmref.errors import Cancelled, UsageError, short_repr
from ldmref.modes.generate import Callback, CancelFlag, GeneratedImage, Progress

Made = TypeVar("Made", covariant=True)


class Events(Protocol[Made]):
    """A prepared run: a generator of events, and the result of the images among them."""

    def generate(self, cancel: CancelFlag | None = None) -> Iterator[Progress | GeneratedImage]: ...

    def result(self, generated: Sequence[GeneratedImage]) -> Made: ...


def run_to_end(run: Events[Made], callback: Callback | None, cancel: CancelFlag | None) -> Made:
    """Run all steps and return the result.

    Raises:
        Cancelled: `cancel` was set; its `partial` is the result of the finished images.
        UsageError: The callback returned something.
    """
    images = []
    try:
        for event in run.generate(cancel):
            if isinstance(event, GeneratedImage):
                images.append(event)
            elif callback is not None:
                notify(callback, event)
    except Cancelled as stop:
        stop.partial = run.result(images)
        raise
    return run.result(images)


def check_callbacks(callback: object, cancel: CancelFlag | None, *, name: str = "callback") -> None:
    """Check that `callback`, the argument `name`, can be called, and that `cancel` has `is_set`.

    Raises:
        UsageError: One of them is something else.
    """
    if callback is not None and not callable(callback):
        raise UsageError(
            f"{name} must be a function, not {short_repr(callback)}",
            code="E-CALLBACK",
            hint=f"{name}=lambda progress: print(progress)",
        )
    if cancel is not None and not callable(getattr(cancel, "is_set", None)):
        raise UsageError(
            f"cancel must be a threading.Event, not {short_repr(cancel)}", code="E-CANCEL"
        )


def notify(callback: Callback, progress: Progress) -> None:
    """Call the callback after a step; its own exceptions pass through.

    Raises:
        UsageError: It returned something, which would have no effect.
    """
    returned: Any = callback(progress)  # type: ignore[func-returns-value]
    if returned is not None:
        raise UsageError(
            f"the callback returned {short_repr(returned)}, which has no effect",
            code="E-CALLBACK",
            hint="a callback watches and returns None; cancel= stops a run",
        )
