"""The small model and the run of DiT that golden cases hold, by the entry point `ldmref.cases`."""

from ldmref.cases import GoldenModels, GoldenRun
from ldmref_dit import shrink

RUNS = (GoldenRun("dit-s-2-256", "ddim", params={"prompt": "3", "negative_prompt": ""}),)
MODELS = GoldenModels(shrink, RUNS)
