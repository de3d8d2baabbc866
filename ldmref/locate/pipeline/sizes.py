"""Judge the positions and the sizes that the denoiser is given, from the size of its latents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.roles import roles_of

SIZES = ("original_size", "crops_coords_top_left", "target_size")
OWN_SIZES = ("original_width", "sizes")  # requests of other programs


def judge_positions(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the positions that are passed with the tokens of Flux.1, once for all."""
    seen: dict[str, list[np.ndarray]] = {"img_ids": [], "txt_ids": []}
    for network in context.calls(context.denoiser):
        sample = context.read(network, *roles_of(context, "x"))
        for role in seen:
            got = context.recorded(network, role)
            if got is None or got.array.shape[1:] != (3,) or sample is None:
                continue
            if sample.ndim != 4 or any(context.agrees(got, x) for x in seen[role]):
                continue
            seen[role].append(got.array)
            rows, columns = (size // 2 for size in sample.shape[2:])
            right = np.zeros_like(got.array)
            variants: list[tuple[str, np.ndarray]] = []
            if role == "img_ids" and rows * columns == len(right):
                place = np.indices((rows, columns)).reshape(2, -1).T
                right[:, 1:] = place
                down = np.indices((columns, rows)).reshape(2, -1).T
                variants = [
                    ("rows and columns are exchanged", right[:, [0, 2, 1]]),
                    ("rows and columns are exchanged", np.insert(down, 0, 0, axis=1)),
                    ("rows and columns count from 1", right + np.array([0, 1, 1])),
                    ("the positions are twice as large", 2 * right),
                    ("all positions are zero", np.zeros_like(right)),
                ]
            yield context.judge(
                got,
                "positions",
                right,
                variants=variants,
                segment=f"from the latents to the denoiser's {role}",
            )


def judge_sizes(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for the sizes, once for all calls that were given the same."""
    names = roles_of(context, "sizes")
    seen: list[np.ndarray] = []
    for network in context.calls(context.denoiser):
        sizes = context.recorded(network, *names)
        sample = context.read(network, *roles_of(context, "x"))
        if sizes is None or sample is None or sizes.array.shape[1:] != (6,):
            continue
        if any(context.params.get(name) is not None for name in OWN_SIZES):
            why = "the sizes of another program's request are not computed"
            context.coverage.explain(sizes.names, why)
            continue
        if any(context.agrees(sizes, x) for x in seen):
            continue
        seen.append(sizes.array)
        factor = context.model.config.vae.factor
        h, w = (float(size * factor) for size in sample.shape[2:])
        usual = np.array([h, w, 0.0, 0.0, h, w])
        expected = np.broadcast_to(_asked_sizes(context, usual), sizes.array.shape).copy()
        if any(context.params.get(f"negative_{name}") is not None for name in SIZES):
            negative = _asked_sizes(context, expected[-1], "negative_")
            expected[: len(expected) // 2] = negative
        variants = [
            ("the micro-conditioning is forgotten: all sizes are zero", np.zeros_like(expected)),
            ("width and height are exchanged", expected[:, [1, 0, 3, 2, 5, 4]]),
            ("sizes of the latents instead of the image", expected / factor),
            ("original and target size without the crop's place", expected[:, [0, 1, 4, 5, 2, 3]]),
        ]
        yield context.judge(sizes, "micro-conditioning", expected, variants=variants)


def _asked_sizes(context: PipelineContext, usual: np.ndarray, prefix: str = "") -> np.ndarray:
    """Return the six sizes of a request: original height and width, top and left, target."""
    found = usual.copy()
    for i, name in enumerate(SIZES):
        asked = context.params.get(prefix + name)
        if isinstance(asked, list | tuple) and len(asked) == 2:
            found[2 * i : 2 * i + 2] = asked
    return found
