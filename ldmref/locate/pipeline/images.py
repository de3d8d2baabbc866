"""Judge what leads from the images of a request to latents: encoder and masks.

| from                          | to                                        | kind              |
|-------------------------------|-------------------------------------------|-------------------|
| the given image               | the encoder                               | image             |
| the given mask                | what the pipeline prepares of it          | mask              |
| the image without the mask    | the encoder                               | masked image      |
| the encoder's distribution    | what is drawn from it                     | posterior         |
| what is drawn, scaled         | added noise, first state, masked latents  | encoded latents   |
| the given control image       | the ControlNet, the encoder               | control image     |
| a reference image             | the encoder                               | image             |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from ldmref.io.images.pil import to_array
from ldmref.locate.findings import Row
from ldmref.locate.parts.latent_faults import encoding_faults
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.pipeline.roles import first_roles_of
from ldmref.locate.recorded.layouts import relative_error
from ldmref.modes.sizing import resize_image
from ldmref.trace.model import TraceEntry

HALF = 0.5  # from which a mask is white
PIXEL = 1e-5  # relative: an image in float32
IN_METHOD = {
    "prepare_mask_latents": "masked image",
    "prepare_latents": "image",
    "prepare_image": "control image",
}
CHANNELS = (1, 3, 4)  # of an image of bytes
REFERENCES = "prepare_image_latents"  # in which pipelines of diffusers encode references
OF_REFERENCES = ("image_reference", "image")  # arguments; the second is another image elsewhere
Variants = list[tuple[str, np.ndarray]]


def judge_images(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the images, masks and encoded latents of a run."""
    yield from _judge_masks(context)
    yield from _judge_encoded_images(context)
    yield from _judge_posteriors(context)
    controls = context.calls("control")
    for number, entry in enumerate(controls):
        image = context.recorded_output(entry)
        if image is not None:
            requested = control_image(context, _size_of(image.array))
            if requested is not None and len(requested) == len(controls):  # one for each ControlNet
                requested = requested[number : number + 1]
            yield from _judge_image(context, "control image", image, requested)


# -- what was given -------------------------------------------------------------------------------


def read_pixels(image: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """Return a given image as (n, c, h, w), from 0 to 1, or as it is if it has negative values.

    Pipelines of diffusers take bytes (h, w, c), which they resize as Pillow does (Lanczos), and
    arrays (n, h, w, c) and tensors (n, c, h, w), of which they take the nearest values. Other
    programs may record bytes (c, h, w).

    Args:
        image: The image.
        size: Height and width that the pipeline makes of it.
    """
    x = np.asarray(image)
    if x.ndim not in (2, 3, 4):
        return None
    if x.dtype == np.uint8 and x.ndim < 4:
        photo = _as_pillow(x)
        if photo is None:
            return None
        height, width = size
        if photo.size != (width, height):
            photo = photo.resize((width, height), Image.Resampling.LANCZOS)
        x = np.asarray(photo)
        x = x[:, :, None] if x.ndim == 2 else x
        return x.transpose(2, 0, 1)[None, :3].astype(np.float64) / 255.0
    x = x.astype(np.float64)
    if x.ndim == 2:
        x = x[None, None]
    if x.ndim == 3:
        x = x[None] if x.shape[-1] in (1, 3) or x.shape[0] in (1, 3) else x[:, :, :, None]
    if x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    return nearest_pixels(x, size)


def _as_pillow(x: np.ndarray) -> Image.Image | None:
    """Return an image of bytes, (h, w), (h, w, c) or (c, h, w); None if it has other channels."""
    if x.ndim == 3 and x.shape[2] not in CHANNELS:
        if x.shape[0] not in CHANNELS:
            return None
        x = x.transpose(1, 2, 0)
    return Image.fromarray(x[:, :, 0] if x.shape[2:] == (1,) else x)


def nearest_pixels(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image (n, c, h, w) of another size, with the first pixel of each cell."""
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, x.shape[2:], strict=True))
    return x if x.shape[2:] == size else x[:, :, rows][:, :, :, columns]


def _given(context: PipelineContext, name: str, size: tuple[int, int]) -> np.ndarray | None:
    """Return an image of the request, or several; None if there is none."""
    for entry in context.calls("inputs"):
        numbered = [entry.inputs.get(f"{name}.{i}") for i in range(len(entry.inputs))]
        found = [x for x in (entry.inputs.get(name), *numbered) if x is not None]
        pixels = [read_pixels(np.asarray(context.port.tensors[x]), size) for x in found]
        known = [x for x in pixels if x is not None]
        if known and len(known) == len(pixels) and len({x.shape[1:] for x in known}) == 1:
            return np.concatenate(known)
    return None


def given_image(context: PipelineContext, size: tuple[int, int]) -> np.ndarray | None:
    """Return the image of a request as the encoder reads it, from -1 to 1."""
    x = _given(context, "image", size)
    if x is None:
        return None
    return x if x.min() < 0.0 else 2.0 * x - 1.0


def control_image(context: PipelineContext, size: tuple[int, int]) -> np.ndarray | None:
    """Return the control image of a request: from 0 to 1, or from -1 to 1 for the encoder."""
    control = _given(context, "control_image", size)
    control = _given(context, "image", size) if control is None else control
    if control is None or encoded_latents(context, "prepare_image") is None:
        return control
    return control if control.min() < 0.0 else 2.0 * control - 1.0


def given_mask(context: PipelineContext, size: tuple[int, int]) -> np.ndarray | None:
    """Return the mask of a request, (n, 1, h, w) of 0 and 1; 1 is repainted."""
    x = _given(context, "mask_image", size)
    if x is None:
        return None
    if x.shape[1] == 3:  # the luminance, as Pillow rounds it
        x = np.einsum("nchw,c->nhw", x, [0.299, 0.587, 0.114])[:, None]
    return (x >= HALF).astype(np.float64) if x.shape[1] == 1 else None


def _size_of(x: np.ndarray) -> tuple[int, int]:
    return (x.shape[2], x.shape[3])


def repeat_rows(x: np.ndarray, n: int) -> np.ndarray:
    """Return k examples, all of them again and again, as n."""
    return x if len(x) == n or not len(x) or n % len(x) else np.concatenate([x] * (n // len(x)))


# -- masks ----------------------------------------------------------------------------------------


def _judge_masks(context: PipelineContext) -> Iterator[Row]:
    for entry in context.calls("mask"):
        mask = context.recorded(entry, "mask")
        masked = context.recorded(entry, "masked_image")
        if mask is not None:
            yield from _judge_mask(context, mask)
        if masked is not None:
            yield from _judge_masked_image(context, masked, None if mask is None else mask.array)
        if mask is not None:
            yield from _judge_small_mask(context, entry, mask.array)


def _judge_mask(context: PipelineContext, mask: RecordedArray) -> Iterator[Row]:
    n, requested = len(mask.array), given_mask(context, _size_of(mask.array))
    if requested is None or n % len(requested):
        context.coverage.explain(mask.names, "no mask of the request is known")
        return
    expected = np.broadcast_to(repeat_rows(requested, n), mask.array.shape)
    variants = [("the mask is inverted", 1.0 - expected)]
    yield context.judge(mask, "mask", expected, variants=variants)


def _judge_masked_image(
    context: PipelineContext, masked: RecordedArray, mask: np.ndarray | None
) -> Iterator[Row]:
    shape = masked.array.shape
    image = given_image(context, _size_of(masked.array))
    latents = context.requested("masked_image_latents")
    if latents is not None and latents.shape == shape:
        yield context.judge(masked, "masked image", latents)
        return
    if mask is None or image is None or image.shape[1:] != shape[1:]:
        context.coverage.explain(masked.names, "no image of the request is known")
        return
    image = repeat_rows(image, shape[0])
    keep = (mask < HALF).astype(np.float64)
    variants = [
        ("the white part is kept instead of the black one", image * (1.0 - keep)),
        ("the image is not masked", image),
        ("the masked part is black instead of grey", image * keep - (1.0 - keep)),
        ("the masked part is white instead of grey", image * keep + (1.0 - keep)),
    ]
    yield context.judge(masked, "masked image", image * keep, least=PIXEL, variants=variants)


def _judge_small_mask(
    context: PipelineContext, entry: TraceEntry, mask: np.ndarray
) -> Iterator[Row]:
    """Yield a row for the mask in the size of the latents, or with a channel for each pixel."""
    small = context.recorded_output(entry, "mask")
    if small is None or small.array.ndim != 4:
        return
    n, channels, h, w = small.array.shape
    rows, columns = mask.shape[2] // h, mask.shape[3] // w
    if not rows or not columns:
        return
    if channels == rows * columns and rows > 1:
        parts = mask[:, 0].reshape(len(mask), h, rows, w, columns).transpose(0, 2, 4, 1, 3)
        right = parts.reshape(len(mask), rows * columns, h, w)
    else:
        right = nearest_pixels(mask, (h, w))
    right = np.broadcast_to(repeat_rows(right, n), small.array.shape)
    variants = [("the mask is inverted", 1.0 - right)]
    yield context.judge(small, "mask", right, variants=variants)


# -- encoder --------------------------------------------------------------------------------------


def method_of(context: PipelineContext, encoder: str) -> str:
    """Return the method of the pipeline that called an encoder; "" if it is not known."""
    draws = [e for e in context.calls("posterior") if e.attributes.get("encoder") == encoder]
    return str(draws[0].attributes.get("for", "")) if draws else ""


def _control_before(context: PipelineContext, encoder: TraceEntry) -> TraceEntry | None:
    """Return the control image that was prepared last before a call of the encoder."""
    order = context.port.calls
    end = order.index(encoder.call)
    before = [e for e in context.calls("control") if order.index(e.call) < end]
    return before[-1] if before else None


def _judge_encoded_images(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for what the encoder was given."""
    for entry in context.calls("vae.encode"):
        got = context.recorded(entry, *first_roles_of(context, "vae.encode"))
        if got is None:
            continue
        kind = IN_METHOD.get(method_of(context, entry.call), "image")
        masks = context.calls("mask")
        if kind == "masked image" and masks:
            expected = context.read(masks[-1], "masked_image")
        elif kind == "control image":
            expected = context.read_output(_control_before(context, entry))
        else:
            number, references = _references_of(context, entry.call)
            if references:
                yield _judge_reference(context, got, number, references)
                continue
            expected = given_image(context, _size_of(got.array))
        if expected is None and not context.calls("inputs"):
            context.coverage.give(got.names)
        else:
            yield from _judge_image(context, kind, got, expected)


def _references_of(context: PipelineContext, encoder: str) -> tuple[int, list[Image.Image]]:
    """Return which reference a call of the encoder reads, and all of them; [] if unknown."""
    method = method_of(context, encoder)
    modular = not method and context.is_diffusers  # such pipelines have no methods
    if context.model.family.references is None or not (modular or method == REFERENCES):
        return 0, []
    every = [entry.call for entry in context.calls("vae.encode")]
    mine: list[str] = [call for call in every if method_of(context, call) == method]
    for name in OF_REFERENCES:
        pixels = [x for x in _requested(context, name) if x.dtype == np.uint8 and x.ndim == 3]
        images = [_as_pillow(x) for x in pixels]
        found = [image.convert("RGB") for image in images if image is not None]
        if len(found) == len(images) == len(mine):
            return mine.index(encoder), found
    return 0, []


def _judge_reference(
    context: PipelineContext, got: RecordedArray, number: int, images: Sequence[Image.Image]
) -> Row:
    """Return the row of a reference image as the encoder reads it, from the images of all."""
    declared = context.model.family.references
    assert declared is not None
    crop = partial(resize_image, how="crop")
    prepared = [declared.prepared(image, len(images), crop) for image in images]
    size = prepared[number].size
    found = (got.array.shape[3], got.array.shape[2])
    kinds = {"stretch": "squeezed", "crop": "cut"}
    of_size = f"{found[0]} x {found[1]} pixels instead of {size[0]} x {size[1]}"
    changed = [
        (f"the image is {words} to {of_size}", resize_image(images[number], found, how))
        for how, words in kinds.items()
    ]
    if found == size:
        changed = [("the image is squeezed", changed[0][1])]
    others = [x for i, x in enumerate(prepared) if i != number]
    changed += [("the references are in another order", x) for x in others]
    n = len(got.array)
    right = _as_read(prepared[number], n)
    variants = [*((words, _as_read(x, n)) for words, x in changed), *_pixel_faults(right)]
    row = context.judge(got, "image", right, least=PIXEL, variants=variants)
    if row.cause or found == size:
        return row
    exchanged = "width and height are exchanged: " if found == size[::-1] else ""
    return replace(row, note=row.note or exchanged + of_size)


def _as_read(image: Image.Image, n: int) -> np.ndarray:
    """Return an image n times as an encoder reads it, (n, c, h, w) from -1 to 1."""
    return np.asarray(to_array([image] * n), np.float64)


def _requested(context: PipelineContext, name: str) -> Iterator[np.ndarray]:
    """Yield the images of an argument of the request."""
    for entry in context.calls("inputs"):
        numbered = (entry.inputs.get(f"{name}.{i}") for i in range(len(entry.inputs)))
        for found in (entry.inputs.get(name), *numbered):
            if found is not None:
                yield np.asarray(context.port.tensors[found])


def _judge_image(
    context: PipelineContext, kind: str, got: RecordedArray, expected: np.ndarray | None
) -> Iterator[Row]:
    shape = got.array.shape
    if expected is None or expected.shape[1:] != shape[1:]:
        context.coverage.explain(got.names, "no image of the request is known")
        return
    n = shape[0]
    rows = repeat_rows(expected, n) if n >= len(expected) else expected[:n]
    if kind == "control image" and n > len(expected) > 1:
        rows = _control_rows(context, expected, got.array)
    if rows.shape != shape:
        context.coverage.explain(got.names, "the number of images is another one")
        return
    yield context.judge(got, kind, rows, least=PIXEL, variants=_pixel_faults(rows))


def _pixel_faults(x: np.ndarray) -> Variants:
    """Return what ports make of the numbers of pixels (n, c, h, w): in words, and the pixels."""
    return [
        ("pixels in [0, 1] instead of [-1, 1]", 0.5 * x + 0.5),
        ("pixels in [-1, 1] instead of [0, 1]", 2.0 * x - 1.0),
        ("pixels from 0 to 255 instead of [0, 1]", 255.0 * x),
        ("pixels from 0 to 255 instead of [-1, 1]", 127.5 * x + 127.5),
        ("red and blue are exchanged", x[:, ::-1]),
        ("the image is inverted", -x if x.min() < 0 else 1.0 - x),
    ]


def _control_rows(context: PipelineContext, images: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Return the control images of several prompts as a batch of more rows.

    Pipelines of diffusers repeat each image for the images of its prompt, and all rows for the
    negative half. If no positive number of images is recorded, it is what comes nearest to the
    batch.
    """
    each = context.request.get("num_images_per_prompt")
    if type(each) is int and each > 0:
        most = min(each, len(got))  # more rows than the batch has are another number anyway
        return repeat_rows(np.repeat(images, most, axis=0), len(got))
    times = len(got) // len(images)
    tried = [repeat_rows(np.repeat(images, times // halves, axis=0), len(got)) for halves in (1, 2)]
    return min(tried, key=lambda rows: relative_error(got, rows))


def _judge_posteriors(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for what was drawn from the distributions of encoders."""
    for entry in context.calls("posterior"):
        encoder = context.port.find(str(entry.attributes.get("encoder", "")))
        mean = context.read_output(encoder, "mean")
        logvar = context.read_output(encoder, "logvar")
        sampled = context.recorded_output(entry)
        if sampled is None or mean is None or sampled.array.shape != mean.shape:
            continue
        if relative_error(sampled.array, mean) <= context.epsilon:
            yield context.judge(sampled, "posterior", mean)
        elif logvar is not None:
            spread = np.exp(0.5 * np.clip(logvar, -30.0, 20.0))
            noise = sampled.made((sampled.array - mean) / spread)
            yield judge_normal(context, noise, "posterior")
        else:
            why = "the log variance of the encoder's distribution was not recorded"
            context.coverage.explain(sampled.names, why)


def encoded_latents(context: PipelineContext, method: str) -> np.ndarray | None:
    """Return the scaled latents that were drawn within a method of the pipeline, (k, c, h, w)."""
    sampled = [
        context.read_output(e)
        for e in context.calls("posterior")
        if e.attributes.get("for") == method
    ]
    found = [x for x in sampled if x is not None]
    return context.normalize(np.concatenate(found)) if found else None


def judge_encoded(
    context: PipelineContext, got: RecordedArray, method: str, segment: str
) -> Row | None:
    """Return the row of latents that come from an encoder; None if it was not recorded."""
    encoded, x = encoded_latents(context, method), got.array
    if encoded is None or encoded.shape[1:] != x.shape[1:] or len(x) % len(encoded):
        return None
    right = repeat_rows(encoded, len(x))
    return context.judge(
        got,
        "encoded latents",
        right,
        variants=encoding_faults(context.latent_scale, right),
        segment=segment,
    )


def judge_prepared(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for the latents of masked images, from what the encoder returned."""
    for entry in context.calls("mask"):
        got = context.recorded_output(entry, "latents")
        if got is None:
            continue
        requested = context.requested("masked_image_latents")
        if requested is not None and requested.shape[1:] == got.array.shape[1:]:
            right = repeat_rows(requested, len(got.array))
            yield context.judge(got, "encoded latents", right)
            continue
        words = "from the encoder to the latents of the masked image"
        row = judge_encoded(context, got, "prepare_mask_latents", words)
        if row is not None:
            yield row
