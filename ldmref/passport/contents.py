"""What the files of a kit say of each other, before a port is judged by them.

Digests tell that a file was changed after the kit was made. A kit that was changed by hand, with
its digests made anew, must neither pass a port that it does not compare nor end in an internal
error.
"""

from __future__ import annotations

import numpy as np

from ldmref.errors import CorruptModelError, LdmrefError, abbreviated
from ldmref.models.validate import config_from_dict
from ldmref.modes import plan
from ldmref.passport.kit import Kit
from ldmref.passport.module_rows import CONTENTS
from ldmref.passport.recorded import CODE
from ldmref.trace.model import tensor_name

AGAIN = "make the kit again, or take it from its source"
MODE = "txt2img"


def check_contents(kit: Kit) -> None:
    """Require that the files of a kit agree with each other and with its manifest.

    Raises:
        CorruptModelError: They do not.
    """
    problem = _problem_of_run(kit) or _problem_of_floors(kit)
    problem = problem or (_problem_of_modules(kit) if kit.networks else _problem_of_model(kit))
    if problem:
        message = f"the kit {kit.family} is damaged: {problem}"
        raise CorruptModelError(message, code=CODE, hint=AGAIN)


def _problem_of_run(kit: Kit) -> str:
    """Return what is wrong with the run of a kit; "": nothing."""
    nodes = sum(bool(entry.outputs) for entry in kit.trace.entries)
    if not nodes or not kit.trace.manifest.get("complete"):
        return "its trace is no complete run"
    if kit.nodes and nodes != kit.nodes:
        return f"its trace has {nodes} nodes, and kit.json counts {kit.nodes}"
    return ""


def _problem_of_floors(kit: Kit) -> str:
    """Return whether a number of the run has no floor, and would pass unseen.

    A format in which a module cannot run has none.
    """
    named = {name for floors in kit.floors.values() for name in floors}
    if kit.networks and not named:
        return ""
    judged = [entry for entry in kit.trace.entries if entry.outputs]
    names = [tensor_name(e.call, e.layer, "output", next(iter(e.outputs))) for e in judged]
    stored = (name for name in names if name in kit.trace.tensors)
    floats = [name for name in stored if np.asarray(kit.trace.tensors[name]).dtype.kind == "f"]
    missing = [name for name in floats if name not in named]
    return f"floors.json has no floor of {abbreviated(missing, 3)}" if missing else ""


def _problem_of_modules(kit: Kit) -> str:
    """Return what is wrong with a kit of modules; "": nothing."""
    of_run = {str(call).partition(".")[0] for call in kit.trace.calls}
    missing = [name for name in kit.networks if name not in of_run]
    kinds = {kind for rows in kit.rows.values() for kind in rows.values()}
    if missing:
        return f"its trace has no call of {', '.join(missing)}"
    if not kinds <= {*CONTENTS} or not kit.rows.keys() <= {*kit.networks}:
        return f"the rows of arguments are {', '.join(CONTENTS)}, of its networks"
    return ""


def _problem_of_model(kit: Kit) -> str:
    """Return what is wrong with the model or the request of a kit; "": nothing."""
    config = kit.config
    recorded = (kit.trace.manifest.get("model") or {}).get("config")
    if config.name != kit.family:
        return f"its checkpoint is a model {config.name}"
    if recorded is not None and config_from_dict(recorded) != config:
        return "its trace is a run of another model than its checkpoint"
    params = kit.trace.manifest.get("params") or {}
    other = [name for name, x in kit.request.items() if name in params and params[name] != x]
    if other:
        return f"kit.json asks for another {', '.join(other)} than its trace was made with"
    try:
        plan(MODE, config, **kit.request)
    except (LdmrefError, TypeError) as error:
        return f"its model cannot run the request: {error}"
    return ""
