"""Run records of other programs, from tensors of all steps, and damaged records."""

from __future__ import annotations

import json

import numpy as np
import safetensors.numpy


def steps_as_trace(tensors, manifest=(), words=()):
    """The file of a trace, from tensors of all steps.

    Args:
        tensors: `x` (n + 1, c, h, w), `x0`, `sigmas` (n + 1,) and `image`; perhaps `x0_uncond`,
            `x0_cond`, `attention`, `training_alpha_bar`, `timesteps`, `truth_distance` and
            `local_error`.
        manifest: Further entries of the manifest.
        words: The words of the attention maps.
    """
    arrays = {}
    entries = []

    def add(call, inputs, outputs, **attributes):
        entry = {"call": call, "layer": "", "kind": "", "attributes": attributes}
        for side, roles in (("input", inputs), ("output", outputs)):
            found = {r: f"{call}//{side}{'.' * bool(r)}{r}" for r in roles}
            arrays.update({found[r]: np.ascontiguousarray(x) for r, x in roles.items()})
            entry[f"{side}s"] = {r or side: name for r, name in found.items()}
        entries.append(entry)

    levels = {"sigmas": tensors["sigmas"]}
    for name, role in (("timesteps", "timesteps"), ("training_alpha_bar", "alphas_cumprod")):
        levels |= {role: tensors[name]} if name in tensors else {}
    add("schedule", {}, levels)
    for i in range(len(tensors["x"]) - 1):
        halves = {
            half: tensors[f"x0_{half}"][i] for half in ("uncond", "cond") if f"x0_{half}" in tensors
        }
        kept = {half: x[None] for half, x in halves.items() if not np.isnan(x).all()}
        sigma, after = (np.asarray(tensors["sigmas"][k], np.float64) for k in (i, i + 1))
        guided = {"": tensors["x0"][i][None]} if "x0" in tensors else {}
        name = f"guidance.{i:03}"
        add(name, kept | {"scale": np.float64(2.0), "sigma": sigma}, guided, prediction_type="x0")
        if "attention" in tensors:
            add(f"words.{i:03}", {}, {"": tensors["attention"][i][None]}, words=list(words))
        state = {"x": tensors["x"][i][None], "sigma": sigma, "sigma_next": after}
        if guided:
            state["prediction"] = guided[""]
        step = {"i": i, "evaluations": [name], "prediction_type": "x0"}
        add(f"sampler.{i:03}", state, {"": tensors["x"][i + 1][None]}, **step)
    add("image", {}, {"": tensors["image"][None]})
    if "truth_distance" in tensors:
        names = {"distance": "truth_distance", "local_error": "local_error"}
        add("truth", {}, {role: tensors[name] for role, name in names.items()})
    described = {"params": {"mode": "txt2img"}, "entries": entries} | dict(manifest)
    described = {"format": "ldmref-trace", "version": 1, "complete": True} | described
    metadata = {"format": "ldmref-trace", "version": "1", "manifest": json.dumps(described)}
    return safetensors.numpy.save(arrays, metadata)


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
