"""Training: bitwise resumable, data sets, and a complete run in miniature."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training runs on the torch backend")

import ldmref  # noqa: E402
from ldmref import modes  # noqa: E402
from ldmref.backends.torch import TorchBackend  # noqa: E402
from ldmref.errors import InputError  # noqa: E402
from ldmref.models.presets import preset  # noqa: E402
from ldmref.prompts.tokenizer import PromptTokenizer, word_tokenizer  # noqa: E402
from ldmref.training import emoji as emoji_data  # noqa: E402
from ldmref.training.autoencoder import autoencoder_trainer  # noqa: E402
from ldmref.training.data import FolderDataset  # noqa: E402
from ldmref.training.diffusion import Latents, diffusion_trainer  # noqa: E402
from ldmref.training.run import train  # noqa: E402
from ldmref.training.trainer import TrainingConfig  # noqa: E402


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("red_square", "red"), ("blue-square", "blue"), ("green", "green")):
        Image.new("RGB", (20, 16), colour).save(folder / f"{name}.png")
    (folder / "green.txt").write_text("grass\n\nlawn\n", "utf-8")
    return folder


def trainers(data, training):
    ops, config = TorchBackend(), preset("tiny")
    tokenizer = PromptTokenizer(word_tokenizer(data.vocabulary(), 512), 16)
    rng = np.random.default_rng(0)
    latents = Latents(*rng.standard_normal((2, len(data.images), 4, 8, 8)).astype(np.float32))
    return {
        "autoencoder": lambda: autoencoder_trainer(data, config.vae, training, ops),
        "diffusion": lambda: diffusion_trainer(data, latents, tokenizer, config, training, ops),
    }


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_resumed_training_equals_uninterrupted_training(pictures, tmp_path, stage):
    """20 steps at once, and 8 steps, checkpoint, 12 steps: the same bits."""
    torch.set_num_threads(1)
    make = trainers(FolderDataset(pictures, 16), TrainingConfig(steps=20, batch_size=2, warmup=5))[
        stage
    ]
    uninterrupted = make()
    losses = [p.loss for p in uninterrupted.run(report_every=1)]

    first = make()
    for progress in first.run(report_every=1):
        if progress.step == 8:
            break
    first.save(tmp_path / "checkpoint.safetensors")
    second = make()
    second.resume(tmp_path / "checkpoint.safetensors")
    resumed = [p.loss for p in second.run(report_every=1)]

    assert resumed == losses[8:]
    for name, parameter in uninterrupted.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name
        assert torch.equal(uninterrupted.ema[name], second.ema[name]), name


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_loss_falls(pictures, stage):
    training = TrainingConfig(steps=60, batch_size=4, learning_rate=3e-3, warmup=5)
    trainer = trainers(FolderDataset(pictures, 16), training)[stage]()
    losses = [p.loss for p in trainer.run(report_every=10)]
    assert losses[-1] < 0.8 * losses[0], losses


def test_latents_of_any_scale_train_alike(pictures):
    """Ten times the latents at a tenth of the scaling factor is the same problem."""
    data, ops, config = FolderDataset(pictures, 16), TorchBackend(), preset("tiny")
    tokenizer = PromptTokenizer(word_tokenizer(data.vocabulary(), 512), 16)
    mean, logvar = np.random.default_rng(0).standard_normal((2, 3, 4, 8, 8)).astype(np.float32)
    losses = []
    for factor in (1.0, 10.0):
        latents = Latents(mean * factor, logvar + np.float32(2 * np.log(factor)))
        vae = replace(config.vae, scaling_factor=latents.scaling_factor)
        training = TrainingConfig(steps=3, batch_size=2, warmup=1)
        scaled = replace(config, vae=vae)
        trainer = diffusion_trainer(data, latents, tokenizer, scaled, training, ops)
        losses.append([p.loss for p in trainer.run(report_every=1)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_checkpoint_of_another_network_is_refused(pictures, tmp_path):
    make = trainers(FolderDataset(pictures, 16), TrainingConfig(steps=1, batch_size=2))
    make["autoencoder"]().save(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="another network"):
        make["diffusion"]().resume(tmp_path / "a.safetensors")


def test_a_complete_training_makes_a_model_that_draws(pictures, tmp_path):
    training = TrainingConfig(steps=3, batch_size=2, warmup=1)
    stages = []
    folder = train(
        FolderDataset(pictures, 16), preset("tiny"), tmp_path / "run", TorchBackend(),
        autoencoder=training, diffusion=training,
        report=lambda stage, progress: stages.append(stage),
    )  # fmt: skip
    assert stages == ["autoencoder"] * 3 + ["diffusion"] * 3
    model = ldmref.load(folder, backend="numpy")
    assert model.config.vae.scaling_factor != 1.0
    r = modes.txt2img(model, "red square", seed=1)
    assert r.images[0].size == (16, 16) and not r.warnings


def test_an_interrupted_training_is_resumed(pictures, tmp_path):
    training = TrainingConfig(steps=4, batch_size=2, warmup=1)

    def stop(stage, progress):
        if stage == "diffusion" and progress.step == 2:
            raise KeyboardInterrupt

    def record(stage, progress):
        steps.append((stage, progress.step))

    data, steps = FolderDataset(pictures, 16), []
    arguments = (data, preset("tiny"), tmp_path / "run", TorchBackend())
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, autoencoder=training, diffusion=training, report=stop)
    train(*arguments, autoencoder=training, diffusion=training, report=record)
    assert steps == [("diffusion", 3), ("diffusion", 4)]


# -- data -----------------------------------------------------------------------------------------


def test_folder_captions(pictures):
    data, rng = FolderDataset(pictures, 16), np.random.default_rng(0)
    assert data.images.shape == (3, 3, 16, 16) and data.images.dtype == np.uint8
    captions = {data.caption(i, rng) for _ in range(40) for i in range(3)}
    assert captions == {"red square", "blue square", "grass", "lawn"}
    assert (data.images[2][0] > 250).all()  # red_square, sorted last


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_caption_tables(pictures, kind):
    rows = {"red_square.png": "a red one", "green.png": "a green one"}
    if kind == "jsonl":
        text = "\n".join(json.dumps({"file_name": k, "text": v}) for k, v in rows.items())
    else:
        text = "file_name,text\n" + "\n".join(f"{k},{v}" for k, v in rows.items())
    (pictures / f"metadata.{kind}").write_text(text, "utf-8")
    assert FolderDataset(pictures, 16).captions == [["blue square"], ["a green one"], ["a red one"]]


@pytest.mark.parametrize("text", ["nonsense", '{"file_name": "a.png"}', "[1]"])
def test_bad_caption_tables_are_refused(pictures, text):
    (pictures / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError):
        FolderDataset(pictures, 16)


def test_empty_and_missing_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError):
            FolderDataset(folder, 16)


needs_font = pytest.mark.skipif(
    not (emoji_data.FONT.exists() and emoji_data.NAMES.exists()),
    reason="fonts-noto-color-emoji and unicode-data are not installed",
)


@needs_font
def test_the_emoji_list():
    emoji = emoji_data.emoji_list()
    assert len(emoji) >= 3655
    assert sum(not e.has_skin_tone for e in emoji) >= 1870
    assert any(e.name == "red heart" for e in emoji)


@needs_font
def test_the_drawing_is_the_font_s_own_bitmap_centred_on_white():
    heart = next(e for e in emoji_data.emoji_list() if e.name == "red heart")
    picture = np.asarray(emoji_data.render(heart))
    assert picture.shape == (136, 136, 3) and (picture[:4] == 255).all()
    red = (picture[..., 0] > 200) & (picture[..., 1] < 100)
    rows, columns = np.nonzero(red)
    assert red.sum() > 4000 and abs(columns.mean() - 67.5) < 3 and abs(rows.mean() - 64) < 8


@needs_font
def test_emoji_captions_name_the_picture():
    data = emoji_data.EmojiDataset.__new__(emoji_data.EmojiDataset)
    data.emoji = [e for e in emoji_data.emoji_list() if e.name == "hot dog"]
    data.keywords, data.names = [["frankfurter"]], {"hot dog"}
    rng = np.random.default_rng(0)
    captions = [data.caption(0, rng) for _ in range(400)]
    assert {"hot dog", "dog", "hot", "frankfurter", "a hot dog"} <= set(captions)
    assert 0.5 < captions.count("hot dog") / 400 < 0.8


@needs_font
def test_the_name_of_another_emoji_is_never_a_caption():
    """ "dog" means the dog, and not, now and then, the hot dog."""
    data = emoji_data.EmojiDataset.__new__(emoji_data.EmojiDataset)
    data.emoji = [e for e in emoji_data.emoji_list() if e.name in ("dog", "hot dog")]
    data.keywords, data.names = [[], ["Dog"]], {"dog", "hot dog"}
    rng = np.random.default_rng(0)
    assert [e.name for e in data.emoji] == ["dog", "hot dog"]
    captions = {data.caption(1, rng) for _ in range(400)}
    assert "dog" not in {caption.lower() for caption in captions} and "hot" in captions
    assert {data.caption(0, rng) for _ in range(50)} <= {"dog", "a dog", "an dog", "the dog"}
