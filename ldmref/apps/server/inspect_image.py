"""The record in an image file, as parameters that a client can submit again."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ldmref.apps.a1111.reading import replay_parameters
from ldmref.apps.a1111.replay import replay_request
from ldmref.apps.server.bodies import as_json
from ldmref.apps.server.inputs import open_bytes
from ldmref.apps.server.served import Served
from ldmref.declare import get_fields
from ldmref.errors import UsageError, one_line, shortened
from ldmref.io.images.metadata import read_parameters
from ldmref.io.images.other_programs import describe_other_programs
from ldmref.models.control import ControlNet
from ldmref.models.model import LatentDiffusion
from ldmref.modes.control import Control
from ldmref.modes.record import find_missing, find_several, replay, upgrade_record
from ldmref.modes.registry import MODES


def inspect_image(data: bytes, max_pixels: int, networks: Served, asked: str) -> dict[str, Any]:
    """Return what an image file records, and the request that generates it again.

    `mode` and `parameters` can be submitted again, with the inputs in `missing`, which an image
    does not contain. `notes` say what is not exact. `mode` is None if the file does not record how
    it was made, or in the way of another program: `notes` then say what that recorded. `models` are
    the names of the models whose weights made the image.

    Args:
        data: The bytes of a PNG, JPEG or WebP file.
        max_pixels: Pixels of the image at most.
        networks: The served models and ControlNets.
        asked: The name of the model that replays an image of A1111, if no served one made it.

    Raises:
        ImageError: It is not such a file, is damaged or too large.
        UsageError: It records several images.
        BadRequest: Its record is nested too deeply.
        InputError: Its text is damaged.
    """
    image = open_bytes("the file", data, max_pixels)
    recorded = as_json(read_parameters(io.BytesIO(data)))
    answer = {
        "width": image.width,
        "height": image.height,
        "infotext": recorded.get("parameters", ""),
        "recorded": recorded.get("ldmref"),
    }
    record, notes = find_record(recorded)
    if record is None:
        lines = describe_other_programs(image.info, answer["infotext"])
        notes = [shortened(one_line(line)) for line in lines]
        nothing = {"mode": None, "parameters": {}, "missing": [], "model": None, "models": []}
        return answer | nothing | {"notes": notes}
    mode = record["mode"]
    models = networks.models
    served = find_served(record.get("model"), models)
    known = find_served(record.get("guide"), models)
    second: dict[str, Any] = {"guide": known[0]} if known else {}
    controls, complete = read_controls(record.get("control"), networks.controlnets)
    second |= {"control": controls} if complete else {}
    parameters = replay(record, second)
    parameters.pop("control", None)
    parameters |= {"control": controls} if controls else {}
    if made := record.get("a1111"):
        config = models[served[0] if served else asked].config
        try:
            values, more = replay_request(mode, config, parameters, made)
        except UsageError as error:  # the other settings are of use
            more = [one_line(f"{error}: the noise levels of A1111 are left out")]
        else:
            parameters = {name: value for name, value in values.items() if value is not None}
        notes += more
    return answer | {
        "mode": mode,
        "parameters": parameters,
        "missing": find_missing(record, second),
        "model": record.get("model"),
        "notes": notes,
        "models": served,
    }


def read_controls(
    recorded: object, nets: Mapping[str, ControlNet]
) -> tuple[list[dict[str, Any]], bool]:
    """Return the ControlNets of an image as a request has them, and whether these are complete.

    An image does not contain the images of its ControlNets.

    Args:
        recorded: What the image records of them.
        nets: The served ControlNets by name.
    """
    listed = recorded if isinstance(recorded, list) else []
    controls = []
    complete = bool(listed)
    for control in listed:
        digest = control.get("sha256") if isinstance(control, Mapping) else None
        name = next((name for name, net in nets.items() if digest and net.sha256 == digest), None)
        complete = complete and name is not None and "image" not in control
        if name is not None:
            kept = (key for key in get_fields(Control) if key in control and key != "image")
            controls.append({"net": name} | {key: control[key] for key in kept})
    return controls, complete


def find_served(record: object, models: Mapping[str, LatentDiffusion]) -> list[str]:
    """Return the names of the models whose weights made an image.

    Args:
        record: What the image records of its model; its digest may be shortened.
        models: The models by name, whose digests are computed only if the image has one.
    """
    digest = record.get("sha256") if isinstance(record, Mapping) else None
    if not digest or not isinstance(digest, str):
        return []
    served = {name: model.sha256 for name, model in models.items()}
    return [
        name
        for name, own in served.items()
        if own and (own.startswith(digest) or digest.startswith(own))
    ]


def find_record(recorded: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the record of an image, exact or from A1111's text, and notes; None without one."""
    exact = recorded.get("ldmref")
    if isinstance(exact, dict) and exact.get("mode") in list(MODES):
        if several := find_several(exact):
            raise UsageError(f"the file records several images, by its {several}", code="E-REPLAY")
        return upgrade_record(exact), []
    text = None if exact else replay_parameters(recorded.get("parameters", ""))
    if text is None:
        return None, []
    return text
