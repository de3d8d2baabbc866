"""PixArt in diffusers' pipeline, in golden cases and in a training.

ldmref finds each by an entry point: `ldmref.ports`, `ldmref.cases`, `ldmref.training`.
"""

from ldmref.cases import GoldenModels, GoldenRun
from ldmref.ports import FamilyPort
from ldmref.training import TrainingRules
from ldmref_pixart.files import shrink

PORT = FamilyPort(
    "pixart",
    ("PixArtTransformer2DModel",),
    # names of arguments in other programs, and their places
    arguments={"x": ("hidden_states",), "context": ("1",)},
)
ENDS = ("pos_embed.proj.weight", "transformer.proj_out.weight", "scale_shift_table")
MODELS = GoldenModels(shrink, (GoldenRun("pixart-sigma", "ddim"),))
RULES = TrainingRules(ends=ENDS)
