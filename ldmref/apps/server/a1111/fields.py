"""The fields of A1111's txt2img and img2img: how they are read, and which have no effect."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ldmref.errors import UsageError, one_line, short_repr
from ldmref.support.config import read_number

IMAGES = ("init_images", "mask", "alwayson_scripts")  # never echoed
# Without an effect on images, or only with another field
SILENT = """
    comments disable_extra_networks do_not_save_grid do_not_save_samples firstphase_height
    firstphase_width force_task_id hr_additional_modules hr_cfg hr_checkpoint_name
    hr_negative_prompt hr_prompt hr_resize_x hr_resize_y hr_sampler_name hr_scale hr_scheduler
    hr_second_pass_steps hr_upscaler image_cfg_scale include_init_images override_settings
    override_settings_restore_afterwards refiner_switch_at save_images subseed
    denoising_strength
""".split()
UNSUPPORTED = """
    alwayson_scripts infotext initial_noise_multiplier latent_mask mask_blur_x mask_blur_y
    refiner_checkpoint restore_faces s_churn s_min_uncond s_noise s_tmax s_tmin script_args
    script_name seed_resize_from_h seed_resize_from_w styles subseed_strength tiling
""".split()
SILENT_SETTINGS = ("sd_model_checkpoint", "samples_format", "save_to_dirs")
NEUTRAL = (None, "", "None", "Automatic", [], {})
NEUTRAL_VALUES = {"s_noise": 1, "initial_noise_multiplier": 1, "s_tmax": math.inf}
MOST_NAMED = 50
FLAGS = {  # of pydantic, which reads A1111's requests
    word: word in ("1", "on", "t", "true", "y", "yes")
    for word in ("0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes")
}
WHOLE = re.compile(r"\s*-?[0-9]{1,29}\s*")  # a whole number as text


class Fields:
    """The body of a request, which remembers what was read."""

    def __init__(self, body: Mapping[str, Any]):
        self._body = body
        self._read: set[str] = set()
        self._settings = self.mapping("override_settings")
        self._used_settings = {*SILENT_SETTINGS}

    def _value(self, name: str) -> Any:
        self._read.add(name)
        return self._body.get(name)

    def text(self, name: str) -> str:
        """Return a text, "" if it is absent."""
        value = self._value(name)
        if value is not None and not isinstance(value, str):
            raise _wrong(name, "a text", value)
        return value or ""

    def number(self, name: str) -> float | None:
        """Return a finite number, None if it is absent; a text may hold it, as A1111 allows."""
        value = self._value(name)
        if value is None:
            return None
        try:
            if isinstance(value, str):
                value = read_number(value)
            number = math.nan if isinstance(value, bool | list | dict) else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise _wrong(name, "a number", value)
        return number

    def integer(self, name: str) -> int | None:
        """Return a whole number, None if it is absent; a text may hold it, as A1111 allows."""
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, str) and WHOLE.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(name, "a whole number", value)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a flag; 0 and 1 are flags also, and the words that A1111 takes for either."""
        value = self._value(name)
        if value is None:
            return default
        if isinstance(value, str):
            value = FLAGS.get(value.lower(), value)
        if value not in (False, True):
            raise _wrong(name, "true or false", value)
        return bool(value)

    def other(self, name: str) -> Any:
        """Return a field whose value has no meaning here."""
        return self._value(name)

    def images(self, name: str) -> list[Any]:
        """Return a list of images that are not decoded yet."""
        value = self._value(name)
        if value is not None and not isinstance(value, list):
            raise _wrong(name, "a list of images in base64", value)
        return value or []

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object, empty if it is absent."""
        value = self._value(name)
        if value is not None and not isinstance(value, Mapping):
            raise _wrong(name, "an object", value)
        return value or {}

    def override(self, name: str, default: object = None) -> Any:
        """Return an entry of `override_settings`."""
        self._used_settings.add(name)
        value = self._settings.get(name)
        return default if value is None else value

    def echo(self) -> dict[str, Any]:
        """Return the fields of A1111's API, without images; other fields may hold passwords."""
        known = self._read.union(SILENT, UNSUPPORTED).difference(IMAGES)
        return {name: value for name, value in self._body.items() if name in known}

    def ignored(self) -> list[str]:
        """Return the names of fields and settings that ask for something that is not done."""
        known = self._read.union(SILENT)
        names = [
            name
            for name, value in self._body.items()
            if name not in known and not is_neutral(name, value)
        ]
        names += [
            f"override_settings.{name}"
            for name, value in self._settings.items()
            if name not in self._used_settings and not is_neutral(name, value)
        ]
        return [one_line(name[:80]) for name in names[:MOST_NAMED]]


def is_neutral(name: str, value: object) -> bool:
    """Return whether a value of a field asks for nothing.

    >>> is_neutral("tiling", False), is_neutral("s_noise", 1), is_neutral("styles", ["a"])
    (True, True, False)
    """
    if isinstance(value, bool | int | float):
        return value in (False, -1, NEUTRAL_VALUES.get(name, 0))
    return value in NEUTRAL


def _wrong(name: str, kind: str, value: object) -> UsageError:
    return UsageError(f"{name} must be {kind}, not {short_repr(value)}", code="E-USAGE")
