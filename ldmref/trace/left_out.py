"""What a recording leaves out: the program that is recorded goes on, and the trace says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ldmref.errors import abbreviated, one_line, shortened

LEFT_OUT = "left_out"  # the key of the manifest: name -> why it was not recorded
MAX_LISTED = 3

AnyFunction = Callable[..., Any]


class LeftOut:
    """What could not be recorded in a run, and why.

    Only `Exception` is caught: Ctrl-C still ends the run.

    Attributes:
        reasons: For each name of a tensor, layer or call, why it is not in the trace.
        ended: Whether the recording has ended: methods that are still observed, because another
            program holds them, are called and nothing else.

    >>> lost = LeftOut()
    >>> with lost.guard("unet.000/conv_in"):
    ...     raise ValueError("no values")
    >>> lost.reasons
    {'unet.000/conv_in': 'ValueError: no values'}
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.ended = False

    def note(self, name: str, reason: BaseException | str) -> None:
        """Note that something is not recorded; the first reason of a name is kept."""
        if isinstance(reason, BaseException):
            reason = f"{type(reason).__name__}: {_text_of(reason)}"
        self.reasons.setdefault(name, one_line(shortened(reason)))

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Note an error of the block, which ends there."""
        try:
            yield
        except Exception as error:
            self.note(name, error)

    def guarded(self, function: AnyFunction, name: str) -> AnyFunction:
        """Return a function that returns None where `function` raises, and notes the error."""

        def run(*args: object, **kwargs: object) -> Any:
            with self.guard(name):
                return function(*args, **kwargs)
            return None

        return run

    def observed(
        self,
        method: AnyFunction,
        name: str,
        before: AnyFunction | None = None,
        after: AnyFunction | None = None,
    ) -> AnyFunction:
        """Return a method that is observed: it is called once with its own arguments.

        Args:
            method: The method.
            name: What is missing in the trace if observing it fails.
            before: Called with (args, kwargs); what it returns is passed to `after`.
            after: Called with (what `before` returned, args, kwargs, result); not if `before`
                failed.
        """

        @wraps(method)
        def run(*args: object, **kwargs: object) -> Any:
            if self.ended:
                return method(*args, **kwargs)
            begun = False
            state = None
            with self.guard(name):
                state = None if before is None else before(args, kwargs)
                begun = True
            try:
                result = method(*args, **kwargs)
            except BaseException as error:
                self.note(name, error)
                raise
            if begun and after is not None:
                with self.guard(name):
                    after(state, args, kwargs, result)
            return result

        return run

    def warn(self, empty: bool = False) -> None:
        """Warn if something was left out.

        Args:
            empty: Whether no call was recorded, which is warned of as well.
        """
        if empty:
            what = "no network, sampler or module that is observed ran to its end in the block"
            warnings.warn(f"nothing was recorded: {what}", stacklevel=2)
        if self.reasons:
            listed = abbreviated([f"{k} ({v})" for k, v in self.reasons.items()], MAX_LISTED)
            warnings.warn(f"not recorded: {listed}", stacklevel=2)


def _text_of(error: BaseException) -> str:
    """Return the message of an error; those of other programs may have none."""
    try:
        return str(error)
    except Exception:
        return ""
