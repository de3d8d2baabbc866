"""Judge what the denoiser reads of reference images, from what the encoder returned of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.images import REFERENCES, method_of, repeat_rows
from ldmref.locate.pipeline.roles import roles_of
from ldmref.models.config import ModelConfig
from ldmref.trace.model import TraceEntry

ReferenceArrays = Mapping[str, np.ndarray]


def judge_references(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for each array of references that the denoiser reads, once for all calls."""
    inputs = [x for x in context.model.denoiser.inputs if x.of_references]
    seen: dict[str, list[np.ndarray]] = {}
    expected: list[tuple[str, ReferenceArrays]] | None = None
    for network in context.calls(context.denoiser):
        for known in inputs:
            names = roles_of(context, known.argument)
            got = context.recorded(network, *names)
            if got is None:
                continue
            expected = list(_expected(context)) if expected is None else expected
            arrays = [(text, part[known.argument]) for text, part in expected]
            fitting = [(text, x) for text, x in arrays if x.shape[1:] == got.array.shape[1:]]
            if not fitting or fitting[0][0]:
                why = "the encoder's calls for the reference images are not known"
                context.coverage.explain(got.names, why)
                continue
            if any(context.agrees(got, x) for x in seen.setdefault(known.role, [])):
                continue
            seen[known.role].append(got.array)
            n = len(got.array)
            (_, right), *faults = [(text, repeat_rows(x, n)) for text, x in fitting]
            yield context.judge(
                got,
                known.role.replace("_", " "),
                right,
                least=max(1e-6, context.rounding),
                variants=faults,
                segment="from the encoder to the denoiser's references",
            )


def _expected(context: PipelineContext) -> Iterator[tuple[str, ReferenceArrays]]:
    """Yield "" and the right arrays by argument, then words and arrays of known faults."""
    scale = context.latent_scale

    def denormalized(x: np.ndarray) -> np.ndarray:
        return scale.kind.denormalize(scale.ops, scale.params, scale.config, scale.fold(x))

    changes = {
        "": scale.normalize,
        "the latents are not normalised": scale.fold,
        "denormalised instead of normalised": denormalized,
    }
    for encoders in _encoders(context):
        means = [context.read_output(entry, "mean") for entry in encoders]
        found = [x[:1].astype(np.float64) for x in means if x is not None]
        if not found or len(found) != len(means):
            continue
        for text, change in changes.items():
            yield text, _encode(context, [change(x) for x in found])
        backwards = [scale.normalize(x) for x in found[::-1]]
        yield "the references are in another order", _encode(context, backwards)


def _encoders(context: PipelineContext) -> Iterator[list[TraceEntry]]:
    """Yield the calls of the encoder that may be those for the references, the likeliest first."""
    every = context.calls("vae.encode")
    if context.is_diffusers:
        yield [entry for entry in every if method_of(context, entry.call) == REFERENCES]
        yield every  # inpainting also reads the image itself
    else:  # the references are encoded last
        digests = context.params.get("references")
        yield every[-len(digests) :] if isinstance(digests, list) and digests else []


class _Encoded:
    """A model whose encoder has already returned the latents of each image."""

    def __init__(self, config: ModelConfig, latents: Sequence[np.ndarray]):
        self.config = config
        self.backend = NumpyBackend(dtype="float64")
        self._latents = iter(latents)

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        """Return the latents of the next image."""
        return next(self._latents)


def _encode(context: PipelineContext, latents: Sequence[np.ndarray]) -> ReferenceArrays:
    """Return the arrays of references by argument, from their latents."""
    declared = context.model.family.references
    assert declared is not None  # the denoiser has inputs for them
    factor = context.model.config.vae.factor
    images = [np.zeros((1, 3, factor * x.shape[2], factor * x.shape[3])) for x in latents]
    return declared.encode(_Encoded(context.model.config, latents), images, (factor, factor))
