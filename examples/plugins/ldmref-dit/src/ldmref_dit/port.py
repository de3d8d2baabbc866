"""How diffusers' pipeline calls DiT, which ldmref finds through the entry point `ldmref.ports`."""

from ldmref.ports import FamilyPort

PORT = FamilyPort(
    "dit",
    ("DiTTransformer2DModel",),
    halves=("cond", "uncond"),
    # names of arguments in other programs, and their places
    arguments={"x": ("hidden_states",), "t": ("1",), "labels": ("2", "y")},
)
