"""What the web UI of AUTOMATIC1111 (A1111, version 1.10) means by its settings, in ldmref's terms.

| file             | content                                                                    |
|------------------|----------------------------------------------------------------------------|
| `names.py`       | its samplers, schedulers and sources of noise                              |
| `programs.py`    | other programs that write its text with names of their own                 |
| `levels.py`      | its noise levels                                                           |
| `prompts.py`     | how it reads a prompt: networks, chunks, clip skip                         |
| `second_pass.py` | its hires fix: the text, and the noise levels                              |
| `reading.py`     | the text in an image, the infotext, as parameters                          |
| `replay.py`      | these parameters as a request of `ldmref.modes` for a model, with notes    |

The command line (`ldmref run --from`), the server's `/v1/inspect` and its interface for A1111's
clients read the same functions. Three things stay in lower layers, which need them themselves: the
infotext as it is written and taken apart (`io.images.infotext`), because every saved image has it;
weights in prompts (`prompts.weights`) and the noise of a CUDA generator (`samplers.rng_cuda`),
because they are choices of any request (`prompt_weights="a1111"`, `rng="a1111-gpu"`).
"""
