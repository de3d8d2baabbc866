"""Run records as ldmref wrote them before they were traces, and damaged records of both kinds."""

from __future__ import annotations

import json

import numpy as np
import safetensors.numpy

from ldmref.explore.format import pack_input

FORMAT = "ldmref-run 1"


def old_tensors(record):
    """The tensors of a record in the old format, all steps in one tensor."""
    tensors = {
        "x": record.x,
        "x0": record.x0,
        "x0_uncond": record.x0_uncond,
        "x0_cond": record.x0_cond,
        "sigmas": record.sigmas,
        "attention": record.attention,
        "image": np.asarray(record.image),
        "training_alpha_bar": record.training_alpha_bar,
    }
    if record.preview is not None:
        tensors |= {"preview_matrix": record.preview.matrix, "preview_bias": record.preview.bias}
    if record.truth is not None:
        tensors |= {"truth": record.truth.states, "truth_distance": record.truth.distance}
        tensors |= {"local_error": record.truth.local_error}
    tensors |= {f"input_{name}": pack_input(value) for name, value in record.inputs.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def old_file(record, tensors=(), meta=(), without=()):
    """The bytes of a record in the old format, with other tensors and another description."""
    content = old_tensors(record) | dict(tensors)
    kept = {name: np.ascontiguousarray(x) for name, x in content.items() if name not in without}
    described = {"format": FORMAT} | record.meta | dict(meta)
    return safetensors.numpy.save(kept, {"ldmref": json.dumps(described)})


def read_metadata(content):
    """The metadata of a safetensors file."""
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def changed_file(record, tensors=(), manifest=(), without=()):
    """The bytes of a record with other tensors and other entries of its manifest."""
    content = record.to_bytes()
    metadata = read_metadata(content)
    described = json.loads(metadata["manifest"]) | dict(manifest)
    arrays = safetensors.numpy.load(content) | dict(tensors)
    kept = {name: np.ascontiguousarray(x) for name, x in arrays.items() if name not in without}
    return safetensors.numpy.save(kept, metadata | {"manifest": json.dumps(described)})
