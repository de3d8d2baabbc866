"""A1111's extension for ControlNets: units of a request, and its lists under /controlnet.

Fields and their meaning: Mikubill/sd-webui-controlnet, internal_controlnet/args.py (ControlNetUnit)
and scripts/enums.py; the names that it still reads are `legacy_field_alias` there. A unit acts at
step i of n, counted from 0, if guidance_start <= i / n <= guidance_end (scripts/hook.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from ldmref.apps.server.a1111.fields import is_neutral
from ldmref.apps.server.a1111.names import UNKNOWN
from ldmref.errors import UsageError, short_repr
from ldmref.io.images.pil import read_image as read_rgb
from ldmref.models.config import ModelConfig
from ldmref.models.control import ControlNet
from ldmref.modes.control import Control
from ldmref.modes.job import skip_steps
from ldmref.modes.sizing import resize_image
from ldmref.modes.validation import check_number

SCRIPT = "controlnet"  # its name in `alwayson_scripts`, in any case
CODE = "E-CONTROL"
HASH = 8  # digits in the name of a model
FORMER = {"guidance": "guidance_end", "input_image": "image", "mask_image": "mask"}
# How the image is brought to the size of the result, by the name and by the number of the mode.
RESIZES: dict[Any, str] = {
    "Just Resize": "stretch",
    "Crop and Resize": "crop",
    "Scale to Fit (Inner Fit)": "crop",
    "Inner Fit (Scale to Fit)": "crop",
    "Resize and Fill": "fill",
    "Envelope (Outer Fit)": "fill",
    "Outer Fit (Shrink to Fit)": "fill",
    0: "stretch",
    1: "crop",
    2: "fill",
}
ALLOWED = {  # the values of fields that ldmref knows one meaning of
    "module": ("none", "None"),
    "control_mode": ("Balanced", 0),
    "hr_option": ("Both", 0),
    "union_control_type": ("Unknown",),
    "mask": (),
    "effective_region_mask": (),
    "advanced_weighting": (),
    "batch_images": (),
    "ipadapter_input": (),
}
HINTS = {
    "module": 'ldmref has no preprocessors: send the finished image, with module "none"',
    "control_mode": 'the net acts on both predictions: "Balanced"',
}
ReadImage = Callable[[str, Any], Image.Image]  # name, and base64 or a data URL


class Units:
    """The units of a request, which its model and its size complete.

    Args:
        nets: The ControlNets of the server by name.
        read_image: Decodes an image of a unit.
    """

    def __init__(self, nets: Mapping[str, ControlNet], read_image: ReadImage):
        self.nets = nets
        self.read_image = read_image

    def read(
        self,
        script: object,
        config: ModelConfig,
        values: Mapping[str, Any],
        size: tuple[int, int],
    ) -> list[Control]:
        """Return the controls of the extension's arguments.

        Args:
            script: The entry of the extension in `alwayson_scripts`.
            config: The configuration of the model.
            values: The parameters of the mode.
            size: That of the image to which the images of the units belong.

        Raises:
            UsageError: A value is wrong, or asks for what ldmref does not do.
            ImageError: An image cannot be decoded.
        """
        args = script.get("args") if isinstance(script, Mapping) else None
        if not isinstance(args, list) or not all(isinstance(unit, Mapping) for unit in args):
            raise UsageError(
                f"the script {SCRIPT} must be an object with a list of units as args",
                code=CODE,
                hint='{"controlnet": {"args": [{"image": ..., "model": ...}]}}',
            )
        steps = values.get("steps") or config.defaults.steps
        if (strength := values.get("strength")) is not None:
            steps -= skip_steps(config, steps, strength, values.get("sigmas"))
        units = [{FORMER.get(str(name), str(name)): unit[name] for name in unit} for unit in args]
        enabled = [unit for unit in units if unit.get("enabled", True)]
        controls = [self._read_unit(unit, values, size, steps) for unit in enabled]
        return [control for control in controls if control is not None]

    def _read_unit(
        self,
        unit: Mapping[str, Any],
        values: Mapping[str, Any],
        size: tuple[int, int],
        steps: int,
    ) -> Control | None:
        """Return the control of a unit; None if it acts in no step."""
        for name, allowed in ALLOWED.items():
            value = unit.get(name)
            if value not in (*allowed, None) and not is_neutral(name, value):
                raise UsageError(
                    f"a ControlNet unit cannot have {name} {short_repr(value)} here",
                    code=CODE,
                    hint=HINTS.get(name, "leave it out"),
                )
        net = find_net(unit.get("model"), self.nets)
        image = unit.get("image")
        image = image.get("image") if isinstance(image, Mapping) else image
        mode = unit.get("resize_mode")
        mode = mode if isinstance(mode, int | str | None) else repr(mode)
        how = RESIZES.get("Crop and Resize" if mode is None else mode)
        if how is None:
            known = ", ".join(repr(name) for name in RESIZES if isinstance(name, str))
            message = f"unknown resize_mode {short_repr(mode)} of a ControlNet unit"
            raise UsageError(message, code=CODE, hint=f"known: {known}")
        read = self._read_image(image, values)
        if read is not None and read.size != size:
            read = resize_image(read, size, how)
        start = check_number("guidance_start", unit.get("guidance_start", 0.0), 0.0, 1.0)
        end = check_number("guidance_end", unit.get("guidance_end", 1.0), start, 1.0)
        weight = check_number("weight", unit.get("weight", 1.0), 0.0, 2.0)
        part = find_steps(start, end, steps)
        return None if part is None else Control(net, read, weight, *part)

    def _read_image(self, encoded: object, values: Mapping[str, Any]) -> Image.Image | None:
        """Return a unit's image; without one, that of img2img, or None for that of inpaint."""
        if encoded:
            return read_rgb(self.read_image("the image of a ControlNet unit", encoded))
        if "mask" in values:
            return None
        if (init_image := values.get("image")) is not None:
            return init_image
        message = "a ControlNet unit of txt2img needs an image"
        raise UsageError(message, code=CODE, hint="send it in base64 as image")


def find_steps(start: float, end: float, steps: int) -> tuple[float, float] | None:
    """Return start and end of a `Control` for those of a unit; None if it has no step.

    Step i of n, which a unit has if start <= i / n <= end, ends at (i + 1) / n, where `Control`
    compares it.

    >>> find_steps(0.0, 0.5, 4)  # steps 0, 1 and 2
    (0.0, 0.75)
    """
    inside = [i for i in range(steps) if start <= i / steps <= end]
    return (inside[0] / steps, (inside[-1] + 1) / steps) if inside else None


def split_scripts(always: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return the entry of the extension, None without one, and the names of other scripts."""
    mine = [name for name in always if name.lower() == SCRIPT]
    others = [name for name in always if name.lower() != SCRIPT]
    return (always[mine[0]] if mine else None), others


def find_net(label: object, nets: Mapping[str, ControlNet]) -> ControlNet:
    """Return the served ControlNet of a title or name, which is never opened as a path.

    Raises:
        UsageError: There is none.
    """
    titles = list_nets(nets)
    for (name, net), title in zip(nets.items(), titles, strict=True):
        if isinstance(label, str) and label.lower() in (name.lower(), title.lower()):
            return net
    offers = f"this server offers {', '.join(titles)}" if titles else "this server has none"
    message = f"ControlNet model {short_repr(label)} not found"
    raise UsageError(message, code=UNKNOWN, hint=offers)


def list_nets(nets: Mapping[str, ControlNet]) -> Sequence[str]:
    """Return the titles of ControlNets: name and beginning of the hash."""
    return [f"{name} [{net.sha256[:HASH]}]" if net.sha256 else name for name, net in nets.items()]


def describe_extension(nets: Mapping[str, ControlNet]) -> dict[str, Any]:
    """Return the answers under /controlnet, by path."""
    titles = list_nets(nets)
    kind = {"module_list": ["none"], "model_list": ["None", *titles]}
    return {
        "version": {"version": 3},
        "model_list": {"model_list": titles},
        "module_list": {
            "module_list": ["none"],
            "module_detail": {"none": {"model_free": False, "sliders": []}},
        },
        "control_types": {
            "control_types": {"All": kind | {"default_option": "none", "default_model": "None"}}
        },
        "settings": {"control_net_unit_count": 16},
    }
