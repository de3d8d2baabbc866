"""The version of ldmref, which images record."""

__version__ = "0.1.0"
