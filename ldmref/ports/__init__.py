"""How other programs write a family: diffusers' pipelines, and ports to other frameworks.

The reference needs none of it. The wings that follow foreign programs read it: recorders, `ldmref
diff`, kits, and the check of a family.

| file | holds |
|---|---|
| `port.py` | `FamilyPort`, what other programs do with the networks of a family |
| `parts.py` | `PipelineParts`, how diffusers' pipeline of a model is made |
| `network_port.py` | `NetworkPort`, a kind of text encoder or autoencoder |
| `library_object.py` | `LibraryObject`, a class of another library with its arguments |
| `latent_diffusion.py` | Stable Diffusion 1, 2 and XL, and latent diffusion before it |
| `sd3.py`, `flux.py` | Stable Diffusion 3, Flux.1 |
| `z_image.py`, `flux2.py`, `flux3.py` | Z-Image, FLUX.2, FLUX.3 |
| `krea2.py`, `qwen_image_21.py` | Krea 2, Qwen-Image 2.1 |
| `sizes_of_images.py` | the vector of SDXL's makers: pooled text and sizes |
| `text_encoders.py`, `qwen3.py` | the text encoders of ldmref |
| `autoencoders.py` | the autoencoders of ldmref |
| `arguments.py` | the names that programs give to the arrays of networks |
| `former.py` | the declaration of earlier versions |
| `pipeline_folder.py`, `written.py` | a model as a folder that diffusers opens |

A package adds those of its own with entry points of the groups `ldmref.ports`,
`ldmref.ports.text_encoders` and `ldmref.ports.autoencoders` (docs/add-a-family.md). Public and
stable are the names that this package exports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldmref.support.lazy import export_lazily

if TYPE_CHECKING:
    from ldmref.ports.arguments import first_layers_of as first_layers_of
    from ldmref.ports.arguments import names_of as names_of
    from ldmref.ports.latent_diffusion import describe_scheduler as describe_scheduler
    from ldmref.ports.library_object import LibraryObject as LibraryObject
    from ldmref.ports.network_port import NetworkPort as NetworkPort
    from ldmref.ports.network_port import find_autoencoder_port as find_autoencoder_port
    from ldmref.ports.network_port import find_text_encoder_port as find_text_encoder_port
    from ldmref.ports.parts import PipelineParts as PipelineParts
    from ldmref.ports.parts import describe_flow_scheduler as describe_flow_scheduler
    from ldmref.ports.port import FamilyPort as FamilyPort
    from ldmref.ports.port import find_port as find_port
    from ldmref.ports.port import port_of as port_of

__getattr__, __dir__, __all__ = export_lazily(__name__)
