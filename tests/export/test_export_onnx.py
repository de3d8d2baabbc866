"""Exported models: valid files, ldmref's numbers in both runtimes, and folders that stay safe."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from graph_runs import run_graph as run

import ldmref
from ldmref.apps.cli.main import main
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases.shrink import shrink
from ldmref.errors import BackendUnavailable, InputError, OutputError, UsageError
from ldmref.export import export_onnx
from ldmref.export.networks import list_networks
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import PRESETS, preset
from ldmref.models.residuals import add_residuals
from ldmref.models.taesd import TinyAutoencoder, TinyConfig, tiny_spec

onnx = pytest.importorskip("onnx")
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", backend="numpy")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny"
    export_onnx(model, path)
    return path


def assert_close(got, want):
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_both_runtimes_compute_ldmref_s_numbers(folder, model, runtime):
    """At sizes other than those of the trace."""
    ids = model.tokenizer.encode(["a red cat", "", "hat"])[0]
    states = model.encode_text(["a red cat", "", "hat"])
    got = run(folder, "text_encoder", runtime, input_ids=ids.astype(np.int32))
    assert_close(got["last_hidden_state"], states)
    x = normal(3, 4, 6, 9)
    for t in (np.asarray([7.0, 300.0, 999.0], np.float32), np.asarray([300.0], np.float32)):
        arrays = {"sample": x, "timestep": t, "encoder_hidden_states": states[:, :11]}
        got = run(folder, "unet", runtime, **arrays)
        assert_close(got["out_sample"], model.unet(x, np.broadcast_to(t, 3), states[:, :11]))
    z = normal(2, 4, 5, 7)
    scale = model.config.vae.scaling_factor
    got = run(folder, "vae_decoder", runtime, latent_sample=z / np.float32(scale))
    assert_close(got["sample"], model.decode(z))
    image = np.tanh(normal(2, 3, 12, 8))
    got = run(folder, "vae_encoder", runtime, sample=image)
    mean, deviation = model.encode_posterior(image)
    assert_close(got["latent_sample"] * scale, mean)
    assert_close(np.exp(0.5 * got["latent_logvar"]) * scale, deviation)


def test_files_are_valid_and_weights_lie_beside_them(folder):
    manifest = json.loads((folder / "ldmref.json").read_text())
    assert list(manifest["networks"]) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    for network in manifest["networks"].values():
        path = folder / network["file"]
        onnx.checker.check_model(str(path), full_check=True)
        graph = onnx.load(str(path), load_external_data=False).graph
        described = {
            x.name: [d.dim_param or d.dim_value or None for d in x.type.tensor_type.shape.dim]
            for x in graph.input
        }
        assert described == network["inputs"]
        assert [x.name for x in graph.output] == list(network["outputs"])
        outside = [x for x in graph.initializer if x.external_data]
        assert len(outside) > 5 and path.stat().st_size < 150_000
        places = [{e.key: e.value for e in x.external_data} for x in outside]
        assert {place["location"] for place in places} == {"model.onnx_data"}
        ends = [int(place["offset"]) + int(place["length"]) for place in places]
        assert max(ends) == (path.parent / "model.onnx_data").stat().st_size


def test_the_manifest_says_how_to_sample_and_tokenize(folder, model):
    from tokenizers import Tokenizer

    manifest = json.loads((folder / "ldmref.json").read_text())
    (tokens,) = manifest["tokens"]
    words = Tokenizer.from_file(str(folder / tokens["file"]))
    ids = [tokens["start"], *words.encode("a red cat", add_special_tokens=False).ids, tokens["end"]]
    ids += [tokens["pad"]] * (tokens["length"] - len(ids))
    np.testing.assert_array_equal([ids], model.tokenizer.encode(["a red cat"])[0])
    assert len(manifest["schedule"]["alphas_cumprod"]) == 1000
    assert manifest["schedule"]["prediction_type"] == "eps"
    assert manifest["latents"]["scaling_factor"] == model.config.vae.scaling_factor


def sdxl_like():
    tiny = preset("tiny")
    second = replace(tiny.text_encoder, projection_dim=24, hidden_size=16, skipped_layers=1)
    unet = replace(
        tiny.unet,
        cross_attention_dim=32 + 16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 48,
    )
    return replace(tiny, denoiser=unet, text_encoder_2=second)


def make_model(config):
    tokenizer = ldmref.random_model("tiny").tokenizer
    return LatentDiffusion(NumpyBackend(), config, init(model_spec(config)), tokenizer)


def test_two_text_encoders_and_image_sizes(tmp_path):
    model = make_model(sdxl_like())
    files = export_onnx(model, tmp_path / "xl")
    assert [file.network for file in files][:3] == ["text_encoder", "text_encoder_2", "unet"]
    ids = model.tokenizer.encode(["a cat", "dog"])[0]
    states = run(tmp_path / "xl", "text_encoder", input_ids=ids.astype(np.int32))[
        "last_hidden_state"
    ]
    second = run(tmp_path / "xl", "text_encoder_2", input_ids=ids.astype(np.int32))
    encoded = model.encode_prompts(["a cat", "dog"], 0, ldmref.prompts.PromptOptions())
    context = np.concatenate([states, second["hidden_states"]], axis=2)
    assert_close(context, encoded.states)
    assert_close(second["text_embeds"], encoded.pooled)
    x = normal(2, 4, 8, 6)
    sizes = np.asarray([[16, 12, 0, 0, 16, 12]] * 2, np.float32)
    got = run(
        tmp_path / "xl", "unet", sample=x, timestep=np.asarray([500.0], np.float32),
        encoder_hidden_states=context, text_embeds=second["text_embeds"], time_ids=sizes,
    )  # fmt: skip
    from ldmref.models.conditioning import Conditioning

    conditioning = Conditioning(encoded.states, encoded.pooled, sizes)
    assert_close(got["out_sample"], model.unet(x, np.full(2, 500.0), conditioning))


def test_taesd_replaces_the_autoencoder(tmp_path):
    model = make_model(preset("tiny"))
    config = TinyConfig(encoder_channels=8, decoder_channels=8)
    model.tiny_autoencoder = TinyAutoencoder(model.backend, config, init(tiny_spec(config)))
    export_onnx(model, tmp_path / "tiny")
    manifest = json.loads((tmp_path / "tiny/ldmref.json").read_text())
    assert manifest["latents"]["scaling_factor"] == 1.0
    z = normal(1, 4, 3, 5)
    got = run(tmp_path / "tiny", "vae_decoder", latent_sample=z)["sample"]
    assert_close(got, model.decode(z))
    assert list(manifest["networks"]["vae_encoder"]["outputs"]) == ["latent_sample"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_networks_of_every_preset(name):
    """The large ones too: a graph needs shapes only."""
    config = PRESETS[name]
    networks = {network.name: network for network in list_networks(config)}
    assert {"unet", "vae_decoder", "vae_encoder"} <= set(networks)
    assert ("cond_stage" in networks) == bool(config.segmentation_classes)
    assert ("text_encoder" in networks) == bool(config.text_encoders)
    spec = model_spec(config)
    for network in networks.values():
        params = broadcast(spec[network.params])
        graph = network.trace(params)
        assert tuple(x.name for x in graph.outputs) == network.outputs
        assert len(graph.parameters) > 0 and len(graph.nodes) > len(graph.outputs)


def broadcast(spec):
    """Return parameters that take no memory."""
    from ldmref.models.params import Params

    zero = np.float32(0)
    return Params(
        {
            k: broadcast(v) if isinstance(v, dict) else np.broadcast_to(zero, v)
            for k, v in spec.items()
        }
    )


# -- weights and files ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_weights_keep_the_type_of_their_file(tmp_path, model, dtype):
    source = tmp_path / "model"
    params = {name: model.params[name] for name in model.params}
    ldmref.io.save_folder(source, model.config, params, [model.tokenizer], dtype)
    files = export_onnx(source, tmp_path / "out")
    weights = tmp_path / "out/unet/model.onnx_data"
    graph = onnx.load(str(tmp_path / "out/unet/model.onnx"), load_external_data=False).graph
    stored = {x.name: x for x in graph.initializer if x.external_data}
    kernel = stored["conv_in.weight"]
    kind = onnx.helper.tensor_dtype_to_np_dtype(kernel.data_type)
    assert kind == dtype and files[1].bytes > weights.stat().st_size
    place = {entry.key: entry.value for entry in kernel.external_data}
    content = weights.read_bytes()[int(place["offset"]) :][: int(place["length"])]
    want = np.asarray(model.params.unet.conv_in.weight).astype(dtype)
    np.testing.assert_array_equal(np.frombuffer(content, dtype).reshape(want.shape), want)
    states = model.encode_text(["a cat"])
    x = normal(1, 4, 8, 8)
    t = np.asarray([50.0], np.float32)
    got = run(tmp_path / "out", "unet", sample=x, timestep=t, encoder_hidden_states=states)
    want = ldmref.load(source, backend="numpy").unet(x, t, states)
    assert_close(got["out_sample"], want)


def test_a_model_on_torch_gives_the_same_files(tmp_path, folder):
    pytest.importorskip("torch")
    export_onnx(ldmref.random_model("tiny", backend="torch"), tmp_path / "torch")
    for name in ("unet/model.onnx", "unet/model.onnx_data", "vae_decoder/model.onnx_data"):
        assert (tmp_path / "torch" / name).read_bytes() == (folder / name).read_bytes()


def test_only_exports_are_replaced(tmp_path, model):
    target = tmp_path / "out"
    export_onnx(model, target)
    (target / "unet/model.onnx").write_text("old")
    with pytest.raises(OutputError, match="exists") as caught:
        export_onnx(model, target)
    assert caught.value.code == "E-EXISTS"
    export_onnx(model, target, overwrite=True)
    onnx.checker.check_model(str(target / "unet/model.onnx"))
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "ldmref.json").write_text('{"format": "something else"}')
    with pytest.raises(OutputError, match="not an exported model"):
        export_onnx(model, other, overwrite=True)
    assert [path.name for path in other.iterdir()] == ["ldmref.json"]
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError, match="is a file"):
        export_onnx(model, file, overwrite=True)


def test_a_failure_leaves_nothing_behind(tmp_path, model, monkeypatch):
    from ldmref.export import folder as module

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_model", full)
    with pytest.raises(OutputError, match="No space left"):
        export_onnx(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_everything_is_checked_before_weights_are_read(tmp_path, model, monkeypatch):
    from ldmref.export import folder as module

    monkeypatch.setattr(module, "load", lambda *a, **k: pytest.fail("weights were read"))
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError):
        export_onnx("emoji", tmp_path / "out")
    with pytest.raises(OutputError, match="does not exist"):
        export_onnx("emoji", tmp_path / "no/out")
    with pytest.raises(UsageError, match="lora cannot change"):
        export_onnx(model, tmp_path / "new", lora=["a.safetensors"])
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(BackendUnavailable) as caught:
        export_onnx("emoji", tmp_path / "new")
    assert "ldmref[onnx]" in caught.value.hint


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError):
        export_onnx("no/such/model", tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- the command ----------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys, model):
    source = tmp_path / "model"
    params = {name: model.params[name] for name in model.params}
    ldmref.io.save_folder(source, model.config, params, [model.tokenizer])
    out = tmp_path / "out"
    assert main(["export", "onnx", str(source), "-o", str(out), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["network"] for row in rows][:2] == ["text_encoder", "unet"]
    assert rows[1]["inputs"]["sample"] == ["batch", 4, "height", "width"]
    assert all((out / row["file"]).is_file() and row["bytes"] > 0 for row in rows)
    assert main(["export", "onnx", str(source), "-o", str(out)]) == 8
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", "onnx", str(source), "-o", str(out), "--overwrite"]) == 0
    assert "out_sample" in capsys.readouterr().err
    assert main(["export", "onnx", str(source)]) == 2
    assert main(["export", "onnx", "emoij", "-o", str(tmp_path / "new")]) == 3
    assert not (tmp_path / "new").exists()


def make_controlnet(model, seed=3, **changes):
    """Make a ControlNet for the model's U-Net whose zero convolutions are not zero."""
    config = ControlNetConfig(replace(model.config.unet, **changes), 3, (4, 8))
    return ControlNet(model.backend, config, init(controlnet_spec(config), seed))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_controlnets_and_the_unet_that_takes_their_outputs(model, tmp_path, runtime):
    nets = [make_controlnet(model, seed) for seed in (3, 4)]
    files = export_onnx(model, tmp_path / "m", controlnets=nets)
    names = ["text_encoder", "controlnet", "controlnet_2", "unet", "vae_decoder", "vae_encoder"]
    assert [file.network for file in files] == names
    channels = model.config.unet.in_channels
    x = normal(2, channels, 8, 16)
    t = np.array([500.0, 20.0], np.float32)
    context = normal(2, 5, model.config.unet.cross_attention_dim)
    arrays = {"sample": x, "timestep": t, "encoder_hidden_states": context}
    totals = {}
    wanted = None
    for net, name in zip(nets, names[1:3], strict=True):
        image = RNG.random((2, 3, 8 * net.config.factor, 16 * net.config.factor), np.float32)
        want = net.residuals(x, t, context, net.encode_hint(image))
        got = run(tmp_path / "m", name, runtime, controlnet_cond=image, **arrays)
        for i, residual in enumerate(want.down):
            assert_close(got[f"down_block_res_samples.{i}"], residual)
        assert_close(got["mid_block_res_sample"], want.mid)
        assert f"down_block_res_samples.{len(want.down)}" not in got
        for output in [name for name in got if "_block_res_sample" in name]:
            to = output.replace("res_samples", "additional_residuals")
            to = to.replace("res_sample", "additional_residual")
            totals[to] = totals.get(to, 0) + got[output]
        wanted = add_residuals([want] if wanted is None else [wanted, want])
    got = run(tmp_path / "m", "unet", runtime, **arrays, **totals)
    assert_close(got["out_sample"], model.unet(x, t, context, wanted))
    assert np.abs(got["out_sample"] - model.unet(x, t, context)).max() > 1e-3


def test_a_controlnet_of_sdxl_takes_sizes(tmp_path):
    config = shrink(PRESETS["sdxl"])
    net = ControlNetConfig(config.unet, 3, (4, 8))
    exported, *_ = [x for x in list_networks(config, None, [net]) if x.name == "controlnet"]
    graph = exported.trace(init(controlnet_spec(net), 0))
    names = [x.name for x in graph.inputs]
    assert names == [
        "sample", "timestep", "encoder_hidden_states", "controlnet_cond", "text_embeds", "time_ids",
    ]  # fmt: skip


def test_a_controlnet_of_another_unet_is_refused(model, tmp_path):
    net = make_controlnet(model, layers_per_block=model.config.unet.layers_per_block + 1)
    with pytest.raises(UsageError, match="does not fit the model: it has layers_per_block"):
        export_onnx(model, tmp_path / "m", controlnets=[net])
    assert not (tmp_path / "m").exists()
