"""Qwen3 and the text part of Qwen3-VL: the text encoders of the families since 2025.

| file         | holds                                                                   |
|--------------|-------------------------------------------------------------------------|
| `encoder.py` | the network: grouped queries, rotary positions, choice of hidden states |
| `tokens.py`  | its byte-level BPE                                                      |
| `files.py`   | the configuration files of transformers                                 |
| `prompts.py` | the chat around a prompt, and the rules of families that read it       |
| `siblings.py` | models of the same shapes, and how a file says which it is             |
| `presets.py` | the published sizes                                                     |
"""
