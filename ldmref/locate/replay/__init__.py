"""A network, followed from layer to layer with what another program recorded.

| module       | what it has                                                               |
|--------------|---------------------------------------------------------------------------|
| `following`  | what is judged on the way, and what follows from it                       |
| `definition` | ldmref's definition of a network, followed                                |
| `networks`   | which network a recorded call is of, its parameters and its arguments     |
| `points`     | recorded arrays, and what has to be run again to compute them again       |
| `repeating`  | parts that are computed again: with an operation exchanged, or in a format |
| `beginning`  | the beginning of a part, which is computed once                           |
| `graph`      | the part of a definition that leads to an array, as a graph of operations |
| `unvisited`  | layers of which a run of the definition reads nothing                     |
| `autodiff`   | the gradients of a training step                                          |

`ldmref.locate.modules` follows a module of PyTorch in the same way.
"""
