"""Ids and masks of text encoders, parts of batches, and what is given where calls are left out."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, entry_of

from ldmref.locate.pipeline import tokens


def ids_of(*prompts, model="tiny", length=0):
    """Return the ids and the mask of prompts, (n, l)."""
    context = context_of({"sampler.000": {"output": np.zeros(1)}}, model)
    found = tokens.tokenize(context, 0, prompts, {}, length)
    return found.ids.reshape(len(prompts), -1), found.mask.reshape(len(prompts), -1)


@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("prompt", ["a cat", None])
def test_recorded_tokens_are_those_of_a_call(encoder, prompt):
    """Of any encoder, if a prompt has one call for all of them; otherwise of the first."""
    ids, _ = ids_of("a cat", "a dog")
    attributes = {} if prompt is None else {"tokens.000": {"prompt": prompt}}

    def judged_of(own, read, role="input_ids"):
        calls = {"tokens.000": {"output.ids": own}, f"{encoder}.000": {f"input.{role}": read}}
        context = context_of(calls, "sd3-tiny", attributes=attributes)
        rows = [row.verdict for row in tokens._judge_given(context)]
        reasons = [why for (name, *_), why in context.coverage.reasons.items() if "tokens" in name]
        return rows, context.coverage.has(entry_of(context, "tokens.000"), "ids", "output"), reasons

    equal = ([], True, [])
    assert judged_of(ids[:1], ids) == judged_of(ids[::-1], ids) == equal
    if encoder != "text_encoder" and prompt is None:  # nothing reads them
        assert judged_of(ids + 1, ids) == equal
        return
    assert judged_of(ids + 1, ids) == judged_of(ids[:, 1:], ids) == (["differs"], True, [])
    why = "the ids of a call of text_encoder were not recorded"
    assert judged_of(ids, ids, "hidden") == ([], False, [why])


# -- runs of which some calls were recorded -------------------------------------------------------
