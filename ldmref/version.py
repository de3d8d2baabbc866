"""The version of ldmref, which pictures record."""

__version__ = "0.1.0"
