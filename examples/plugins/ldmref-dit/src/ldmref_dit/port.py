"""How diffusers' pipeline calls DiT, which ldmref finds through the entry point `ldmref.ports`."""

from ldmref.ports import FamilyPort

PORT = FamilyPort("dit", ("DiTTransformer2DModel",), halves=("cond", "uncond"))
