"""The kinds of tasks that a request may name; each has a function that makes and checks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ldmref.apps.server.adapters import AdaptedTask, without_adapters
from ldmref.apps.server.engine import Engine
from ldmref.apps.server.errors import BadRequest
from ldmref.apps.server.tasks import ServedTask
from ldmref.errors import did_you_mean, short_repr

Factory = Callable[[Engine, Mapping[str, Any]], ServedTask]  # from the body of a request
KINDS: dict[str, Factory] = {}


def register(kind: str) -> Callable[[Factory], Factory]:
    """Return a decorator that registers a function as the factory for jobs of this kind."""

    def decorate(factory: Factory) -> Factory:
        KINDS[kind] = factory
        return factory

    return decorate


def make_task(engine: Engine, body: Mapping[str, Any]) -> ServedTask:
    """Return the task that the body of a request asks for; everything is checked.

    Raises:
        BadRequest: There is no such kind.
        LdmrefError: Another value is wrong; the error says which.
    """
    kind = body.get("kind", "generate")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadRequest(
            f"unknown kind {short_repr(kind)}",
            code="E-KIND",
            hint=did_you_mean(kind if isinstance(kind, str) else "", KINDS),
        )
    model = engine.find_model(body.get("model"))
    wanted = engine.adapters.choose(model, body)
    task = KINDS[kind](engine, without_adapters(body))
    return AdaptedTask(task, engine.adapters.of[model], wanted) if wanted else task
