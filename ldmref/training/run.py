"""A complete training, from pictures to a model folder. It can be interrupted and resumed.

out/autoencoder.safetensors   checkpoint of the first stage
out/diffusion.safetensors     checkpoint of the second stage
out/tokenizer.json            built once from the captions
out/model/                    the model: averaged weights in float16, ready for `ldmref.load`
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

from tokenizers import Tokenizer

from ldmref.backends.torch import TorchBackend
from ldmref.io.native import save_folder
from ldmref.models.config import ModelConfig
from ldmref.models.params import Params, tree_map
from ldmref.prompts.tokenizer import PromptTokenizer, word_tokenizer
from ldmref.training.autoencoder import autoencoder_trainer, encode_dataset
from ldmref.training.data import Dataset
from ldmref.training.diffusion import Latents, diffusion_trainer
from ldmref.training.trainer import Trainer, TrainingConfig, TrainingProgress

AUTOENCODER = TrainingConfig(
    steps=4900, batch_size=32, learning_rate=1.2e-3, warmup=100, ema_decay=0.995
)
DIFFUSION = TrainingConfig(
    steps=10_000, batch_size=64, learning_rate=1e-3, warmup=300, ema_decay=0.998, muon_rate=2e-3
)

ProgressCallback = Callable[[str, TrainingProgress], None]  # callback(stage, progress)


def train(
    data: Dataset, config: ModelConfig, out: Path, ops: TorchBackend, *,
    autoencoder: TrainingConfig = AUTOENCODER, diffusion: TrainingConfig = DIFFUSION,
    report: ProgressCallback = lambda stage, progress: None, cancel: Event | None = None,
    checkpoint_seconds: float = 120.0, card: str = "",
) -> Path:  # fmt: skip
    """Train both stages, or the rest of them, and export the model; returns `out/model`.

    A checkpoint is saved on any interruption: `cancel`, Ctrl-C, an exception of `report`.
    """

    def run_stage(trainer: Trainer, stage: str) -> None:
        checkpoint, steps = out / f"{stage}.safetensors", trainer.config.steps
        if checkpoint.exists():
            trainer.resume(checkpoint)
        if trainer.step >= steps:
            return
        saved = time.monotonic()
        try:
            for progress in trainer.run(max(1, min(100, steps // 20)), cancel):
                report(stage, progress)
                if time.monotonic() - saved > checkpoint_seconds:
                    trainer.save(checkpoint)
                    saved = time.monotonic()
        finally:
            trainer.save(checkpoint)

    out.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(data, config, out / "tokenizer.json")

    first = autoencoder_trainer(data, config.vae, autoencoder, ops)
    run_stage(first, "autoencoder")
    vae = first.ema_params()
    exact = TorchBackend(ops.device, "float32")
    latents = Latents(*encode_dataset(data, tree_map(exact.asarray, vae), config.vae, exact))
    config = replace(config, vae=replace(config.vae, scaling_factor=latents.scaling_factor))

    second = diffusion_trainer(data, latents, tokenizer, config, diffusion, ops)
    try:
        run_stage(second, "diffusion")
    finally:
        params = Params(second.ema_params() | {"vae": vae})
        export(out / "model", config, params, tokenizer, card)
    return out / "model"


def export(folder: Path, config: ModelConfig, params: Params, tokenizer: PromptTokenizer,
           card: str) -> None:  # fmt: skip
    """Write the model folder: float16 weights, configuration, tokenizer and model card."""
    text = tokenizer.tokenizer.to_str(pretty=True)
    save_folder(folder, config, params, text, extra={"README.md": card} if card else None)


def _tokenizer(data: Dataset, config: ModelConfig, path: Path) -> PromptTokenizer:
    text = config.text_encoder
    if not path.exists():
        tokenizer = word_tokenizer(data.vocabulary(), text.vocab_size)
        path.write_text(tokenizer.to_str(pretty=True), "utf-8")
    return PromptTokenizer(Tokenizer.from_file(str(path)), text.max_position_embeddings)
