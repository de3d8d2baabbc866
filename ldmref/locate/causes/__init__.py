"""The cause of a wrong array of a network: one change of what it is computed from, or two.

| module         | what it has                                                            |
|----------------|------------------------------------------------------------------------|
| `diagnosis`    | the search: a layout, a missing operation, another weight, a fault     |
| `nearby`       | arrays around a wrong one, which it may equal or lack                  |
| `part_faults`  | the known faults (`ldmref.locate.faults`) that a part may have         |
| `pairs`        | two of them at once                                                    |
| `rotations`    | which positions a table of angles stands for                           |
| `elsewhere`    | what is missing at one layer, and is applied at another one            |
| `alike`        | what explained other layers of the same kind                           |
| `known_causes` | what explained the same array before                                   |
"""
