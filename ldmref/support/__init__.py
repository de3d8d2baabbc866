"""What every part of ldmref builds on: configuration, files, plug-ins, lazy names, the version.

Errors and declared fields are in `ldmref.errors` and `ldmref.declare`: plug-ins import them.
"""
