"""Make the model `emoji-map` of a flow map that `ldmref finetune emoji-map` wrote.

    python scripts/embed_flow_map.py runs/emoji-map/model

The folder ldmref/assets/emoji-map gets the map's configuration and its denoiser alone; text
encoder, autoencoder and tokenizer must be those of `emoji`, which lends them. The digests that the
script prints belong into `PUBLISHED` (ldmref/io/embedded.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ldmref.io.embedded import BASES, embedded_folder
from ldmref.io.native import CONFIG, DIGESTS, WEIGHTS, NativeFolder, hash_file
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.support.files import read_json

NAME = "emoji-map"
DENOISER = "unet."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the folder that the training wrote")
    args = parser.parse_args()
    tensors = NativeFolder(args.model).read()
    base = NativeFolder(embedded_folder(BASES[NAME])).read()
    for name, stored in base.items():
        if not name.startswith(DENOISER) and not np.array_equal(stored, tensors[name]):
            parser.error(f"{name} is not that of {BASES[NAME]}")
    sources = {name: source(x) for name, x in tensors.items() if name.startswith(DENOISER)}
    folder = embedded_folder(NAME)
    folder.mkdir(exist_ok=True)
    write_tensors(folder / WEIGHTS, sources, overwrite=True)
    config = read_json(args.model / CONFIG)
    config[DIGESTS] = {WEIGHTS: hash_file(folder / WEIGHTS)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for name in (CONFIG, WEIGHTS):
        print(f'        {name}: "{hash_file(folder / name)}",')


if __name__ == "__main__":
    main()
