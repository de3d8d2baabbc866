"""Whole runs of small models: every mode, every backend, and what a plan estimates."""

from __future__ import annotations

import numpy as np

from ldmref import modes
from ldmref.backends import get_backend
from ldmref.models.config import ModelConfig
from ldmref.models.family import with_text_length
from ldmref.testing.family.report import Findings
from ldmref.testing.family.subject import Subject
from ldmref.trace import Trace, read_trace, record_trace

COMMON = ("txt2img", "img2img", "inpaint")
WITHIN = 1  # of 255 levels


def check_modes(subject: Subject, found: Findings) -> None:
    """Check that every mode that a small model has makes images of finite numbers."""
    with found.about(""):
        for name, config in subject.require_small().items():
            offered = subject.modes(config)
            with found.about(f"{name!r}"):
                found.require(bool(offered), f"{name!r} has no mode")
            for mode, request in offered.items():
                with found.about(f"{mode} of {name!r}"):
                    result = subject.generate(subject.model(name), mode, request)
                    latents = np.asarray(getattr(result, "latents", 0.0))
                    finite = bool(np.isfinite(latents).all())
                    found.require(finite, f"{mode} of {name!r} gives NaN or infinity")
            for mode in COMMON:
                if mode not in offered:
                    found.leave_out(f"{name!r} has no {mode}")
            if subject.family.text.with_length is not None and "txt2img" in offered:
                with found.about(f"another text length of {name!r}"):
                    _check_text_length(subject, name, config, found)


def _check_text_length(subject: Subject, name: str, config: ModelConfig, found: Findings) -> None:
    """Check that a text of another length changes the configuration and gives an image."""
    length = max(text.max_position_embeddings for text in config.text_encoders) // 2
    changed = with_text_length(config, length)
    found.require(changed != config, f"text.with_length({name!r}, {length}) changes nothing")
    request = subject.modes(config)["txt2img"] | {"max_sequence_length": length}
    result = subject.generate(subject.model(name), "txt2img", request)
    found.require(
        bool(np.isfinite(result.latents).all()),
        f"txt2img of {name!r} with max_sequence_length={length} gives NaN or infinity",
    )


def check_backends(subject: Subject, found: Findings) -> None:
    """Check that the same seed gives the same image on every backend, within 1/255."""
    with found.about(""):
        small = subject.require_small()
        for backend, missing in subject.backends.items():
            if missing:
                found.leave_out(f"{backend}: {missing}")
                continue
            for name, config in small.items():
                with found.about(f"{name!r} on {backend}"):
                    _compare_backend(subject, name, config, backend, found)


def _compare_backend(
    subject: Subject, name: str, config: ModelConfig, backend: str, found: Findings
) -> None:
    mode, request = subject.first_mode(config)

    def on_numpy() -> np.ndarray:
        return pixels_of(subject.generate(subject.model(name), mode, request).images[0])

    want = subject.keep(("image", name), on_numpy)
    model = subject.model(name, get_backend(backend))
    got = pixels_of(subject.generate(model, mode, request).images[0])
    off = int(np.abs(got - want).max())
    found.require(
        off <= WITHIN, f"{mode} of {name!r} on {backend} is {off}/255 away from NumPy's image"
    )


def pixels_of(image: object) -> np.ndarray:
    """Return the pixels of an image as integers, (h, w, 3); arrays are in [0, 1].

    Those of an image with alpha are over white, as in ldmref's modes.
    """
    pixels = np.asarray(image)
    shares = pixels if pixels.dtype.kind == "f" else pixels / 255.0
    if shares.shape[-1] == 4:
        alpha = shares[..., 3:]
        shares = shares[..., :3] * alpha + (1.0 - alpha)
    return np.round(shares * 255.0).astype(int)


def check_estimate(subject: Subject, found: Findings) -> None:
    """Check that a plan estimates the evaluations of its run, and more work for larger images."""
    with found.about(""):
        for name, config in subject.require_small().items():
            with found.about(f"{name!r}"):
                mode, request = subject.first_mode(config)
                model = subject.model(name)
                plan = modes.plan(mode, model, **request)
                estimated = plan.estimate(model).evaluations
                took = count_evaluations(subject, name, config)
                found.require(
                    estimated == took,
                    f"{name!r}: a plan says {estimated} evaluations, its run takes {took}",
                )
                for line in _compare_sizes(subject, config):
                    found.problem(f"{name!r}: {line}")


def _compare_sizes(subject: Subject, config: ModelConfig) -> list[str]:
    """Return the counts that do not grow with the image."""
    side = 8 * config.size_multiple
    lines = []
    for what in ("flops", "activations"):
        count = getattr(subject.family.work, what)
        small, wide = (count(config, width, side) for width in (side, 2 * side))
        if not 0 < small < wide:
            lines.append(
                f"work.{what} says {small:,} for {side} x {side}, {wide:,} for twice as wide"
            )
    return lines


def recorded(subject: Subject, name: str) -> Trace:
    """Return the trace of a run of a small model in its first mode."""

    def record() -> Trace:
        model = subject.model(name)
        mode, request = subject.first_mode(subject.small[name])
        folder = subject.place("trace")
        record_trace(modes.plan(mode, model, **request), model, folder)
        return read_trace(folder)

    return subject.keep(("trace", name), record)


def count_evaluations(subject: Subject, name: str, config: ModelConfig) -> int:
    """Return how often a recorded run evaluated the denoiser, a batch counting each row."""
    trace = recorded(subject, name)
    network = subject.denoiser(config)
    role = network.inputs[0].role
    calls = [call for call in trace.calls if call.rpartition(".")[0] == network.name]
    return sum(len(trace.tensors[f"{call}//input.{role}"]) for call in calls)
