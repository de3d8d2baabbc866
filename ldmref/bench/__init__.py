"""`ldmref bench`: ldmref beside its peers, in time and memory.

`cases` lists what is measured; `compare` runs a case on both sides, `peers` being the other one.
`profile` looks at ldmref alone.
"""
