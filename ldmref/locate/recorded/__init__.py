"""What another program recorded, in ldmref's terms: names, order in memory, rows and conventions.

| module            | what of a recording it reads                                          |
|-------------------|-----------------------------------------------------------------------|
| `names`           | names of layers and of their arrays                                   |
| `makers`          | the names of layers in the file of a model's makers                   |
| `unnamed`         | layers that ldmref's definition has no name for                       |
| `argument_names`  | names of the arguments of networks, and of parts of a run             |
| `argument_parts`  | arguments that a program joins to one                                 |
| `arguments`       | arguments that were not recorded                                      |
| `listed`          | arguments that are lists, with an array for each image                |
| `several_outputs` | which of several results is the one that ldmref's network returns     |
| `derived`         | arrays that are made of recorded ones                                 |
| `layouts`         | order and scale of numbers in an array                                |
| `precision`       | number formats                                                        |
| `padding`         | rows of padding                                                       |
| `kept_rows`       | rows that are kept, cut or added                                      |
| `joint_masks`     | masks of image and text together                                      |
| `latents_within`  | latents that an autoencoder scales itself                             |
| `alignment`       | operations without names, and the order of sums                       |
| `conventions`     | right ways to write the same network                                  |
| `terms`           | which of these a port has, adopted so that all layers agree           |
| `unfit`           | arrays that do not fit each other                                     |
| `unfilled`        | layers that all read other tokens than they should                    |
"""
