"""The autoencoders that families since 2025 share, each a kind that configurations name.

| file                      | holds                                                            |
|---------------------------|------------------------------------------------------------------|
| `flux2.py`                | FLUX.2's, whose latents are normalised patches; also of FLUX.3   |
| `qwen_image.py`           | Qwen-Image's for one image; also of Krea 2                       |
| `qwen_image_21.py`        | Qwen-Image 2.1's, of images with alpha                           |
| `qwen_image_21_config.py` | its configuration                                                |
"""
