"""Interfaces of other libraries on top of ldmref.

`ldmref.compat.diffusers` runs code that was written for diffusers.
"""
