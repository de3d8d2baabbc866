"""What is given because the caller chose not to record what computes it (`Selection`)."""

from __future__ import annotations

import re

from ldmref.locate.pipeline.ledger import Ledger
from ldmref.models.config import TEXT_ENCODERS
from ldmref.trace.model import Trace

DENOISER = "denoiser"  # stands for the name of the model's
Sources = tuple[str, ...]
SOURCES: tuple[tuple[str, str, Sources], ...] = (  # kind of call, pattern of roles, their sources
    ("sampler", "sample|x", ("initial", "schedule")),
    ("sampler", "timestep|sigma|sigma_next", ("schedule",)),
    ("sampler", r"model_output|prediction.*|x0.*|x_at.*|sigma_at.*", (DENOISER,)),
    ("guidance", ".*", (DENOISER,)),
    (DENOISER, "sample|input|x|timestep|t|guidance", ("sampler",)),
    (DENOISER, "encoder_hidden_states|text_embeds|pooled_projections|context", TEXT_ENCODERS),
    ("vae.decode", ".*", ("sampler",)),
    ("vae.encode", ".*", ("inputs",)),
    ("scale_input", ".*", ("sampler",)),
    ("add_noise", ".*", ("vae.encode",)),
)


def mark_selected(port: Trace, ledger: Ledger, denoiser: str) -> None:
    """Mark inputs as given whose sources are not in a trace of selected calls.

    Args:
        port: The trace.
        ledger: What was compared.
        denoiser: The name of the denoiser's calls.
    """
    selection = port.manifest.get("selection") or {}
    if not selection.get("calls") and not selection.get("without"):
        return
    recorded = {call.kind for call in port.calls}
    for entry in port.entries:
        kind = entry.call.kind
        kind = DENOISER if kind == denoiser else kind
        for of, roles, sources in SOURCES:
            named = {denoiser if source == DENOISER else source for source in sources}
            if entry.layer or kind != of or recorded & named:
                continue
            for role in entry.inputs:
                if re.fullmatch(roles, role):
                    ledger.mark(entry, role)
