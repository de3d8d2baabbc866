"""Changes that are right in themselves, and make another model: what `ldmref diff` says of them.

The rows of `assets/pitfalls.toml` that are marked so name the families that they concern, and the
words of the causes that stand for them.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ldmref.locate.findings import DIFFERS, Row
from ldmref.locate.pitfalls import read_pitfalls


def mark_reasonable(row: Row, family: str) -> Row:
    """Return a row that says why the cause of its error does not improve this model.

    Args:
        row: A judged row.
        family: The name of the model's family; "" for a model that ldmref does not know.

    >>> cause = "the end of the levels is shifted once instead of twice"
    >>> row = Row("schedule", "", "sigmas", verdict="differs", cause=cause)
    >>> mark_reasonable(row, "sd3").reasonable.rpartition(" (")[2]
    'huggingface/diffusers#13243, huggingface/diffusers#13962)'
    >>> mark_reasonable(row, "flux").reasonable
    ''
    """
    if row.verdict != DIFFERS or not row.cause:
        return row
    for known in read_pitfalls():
        concerned = family in known.families and re.fullmatch(known.words, row.cause)
        if concerned and re.fullmatch(known.layers, row.layer):
            reason = f"{known.hypothesis} ({', '.join(known.threads)})"
            return replace(row, reasonable=reason)
    return row
