"""The key of a row: a digest of everything that decides about its bytes.

A row is resolved (`Plan.params`): defaults are filled in, and files are replaced by their SHA-256.
`digest_request` is the SHA-256 of that as canonical JSON (sorted names, no spaces). `make_key` also
covers the model, the backend with its dtype, and the version of ldmref. Images with one key are
the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten
from ldmref.support.version import __version__

SEED_DIGITS = 8  # hexadecimal: 32 bits, as many as random seeds have


@dataclass(frozen=True)
class ModelIdentity:
    """The model, backend and version that images are generated with, as JSON-able values."""

    model: Mapping[str, Any]
    backend: Mapping[str, str]
    ldmref: str = __version__


def identify_model(model: LatentDiffusion) -> ModelIdentity:
    """Return the identity of a model; one without a file is identified by its parameters."""
    digest = model.sha256 or digest_parameters(model)
    named = {"name": model.config.name, "sha256": digest} | model.modifications
    return ModelIdentity(json.loads(json.dumps(named)), model.backend.describe())


def digest_parameters(model: LatentDiffusion) -> str:
    """Return the SHA-256 of all parameters of a model, with their names."""
    digest = hashlib.sha256()
    for name in sorted(model.params):
        for path, array in sorted(flatten(model.params[name]).items()):
            host = np.ascontiguousarray(model.backend.to_numpy(model.backend.asarray(array)))
            digest.update(f"{name}.{path} {host.dtype} {host.shape}\n".encode())
            digest.update(host.tobytes())
    return digest.hexdigest()


def digest_request(request: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a resolved request.

    >>> digest_request({"b": 1, "a": 2}) == digest_request({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(to_canonical_json(request).encode()).hexdigest()


def derive_seed(request: Mapping[str, Any]) -> int:
    """Return the seed of a request without one: the first 32 bits of its digest."""
    return int(digest_request(request)[:SEED_DIGITS], 16)


def make_key(request: Mapping[str, Any], identity: ModelIdentity) -> str:
    """Return the key of a resolved request."""
    return digest_request({"request": dict(request), "with": asdict(identity)})


def to_canonical_json(value: object) -> str:
    """Return JSON that is the same for equal values.

    >>> to_canonical_json({"b": 1.0, "a": [True, None]})
    '{"a":[true,null],"b":1.0}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
