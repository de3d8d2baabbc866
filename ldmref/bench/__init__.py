"""Speed and memory of ldmref beside its peers, measured in turn in one run (`ldmref bench`).

A row of `rows` says what is computed, by whom, and what ratio is aimed at; `run` makes both sides
(`works`, `peers`), checks that they compute the same, and lets `measure` take the time.
"""
