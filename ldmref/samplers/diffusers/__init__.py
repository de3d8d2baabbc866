"""Conventions of diffusers' schedulers, for checkpoints that are configured by one.

Nothing else in ldmref depends on them. `schedule.make_schedule` calls `diffusers.schedule` if a
configuration's convention is "diffusers", and `configure.configured_step` then calls
`diffusers.configure`. Version described: diffusers 0.42.1.
"""
