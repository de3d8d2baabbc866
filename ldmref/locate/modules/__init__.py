"""Any PyTorch module as the original of a port: its own code judges each layer that was recorded.

| module            | what it is                                                           |
|-------------------|----------------------------------------------------------------------|
| `formats`         | copies of a module in float64 and in the port's number format        |
| `arrays`          | recorded arrays as tensors, and tensors as arrays                    |
| `operations`      | calls of functions of torch, and of simple modules, as operations    |
| `watched`         | a copy of a module whose calls are seen and may be answered          |
| `replay`          | the module, followed from layer to layer with what the port recorded |
| `repeated`        | parts of it that are run again: changed, or in another format        |
| `original`        | the modules of a port's calls, judged call by call                   |
| `own_run`         | the first step of the original's pipeline, with the port's states    |
| `given`           | what the pipeline gives to its networks, against what the port gave  |
| `selected_states` | the states that a wrong selection from a text encoder gives          |
| `exact_run`       | a run of a module in a number format, recorded                       |
| `loading`         | `my.module:make`, the function that makes them                       |
"""
