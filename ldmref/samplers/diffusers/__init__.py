"""The habits of diffusers' schedulers, for checkpoints that are configured by one.

Nothing else in ldmref depends on them. `schedule.make_schedule` enters `diffusers.schedule` when a
configuration's convention is "diffusers", and `configure.configured_step` then enters
`diffusers.configure`. Version described: diffusers 0.42.1.
"""
