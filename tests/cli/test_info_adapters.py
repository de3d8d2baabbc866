"""`ldmref info` on adapters, on pickles and on what has the wrong ending."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import preset

torch = pytest.importorskip("torch")


def facts_of(ran):
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def pairs(name, end="to_q.weight"):
    """Return kohya's tensors, of rank 4 and alpha 2, of layers of a preset that end so."""
    tensors = {}
    for tensor, shape in flatten(model_spec(preset(name))).items():
        part, _, path = tensor.removesuffix(".weight").partition(".")
        if part in ("unet", "transformer") and tensor.endswith(end):
            layer = "lora_unet_" + path.replace(".", "_")
            tensors[f"{layer}.lora_down.weight"] = np.zeros((4, shape[1]), np.float16)
            tensors[f"{layer}.lora_up.weight"] = np.zeros((shape[0], 4), np.float16)
            tensors[f"{layer}.alpha"] = np.full((), 2, np.float16)
    return tensors


FAMILIES = {  # preset -> the end of layers whose shapes no other family has
    "sd15": "attn2.to_k.weight",
    "sd2-base": "attn2.to_k.weight",
    "sdxl": "attn2.to_k.weight",
    "sd3-medium": "to_q.weight",
    "sd35-large": "to_q.weight",
    "flux-dev": "proj_mlp.weight",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lora_names_its_family(ldm, work, name):
    save_file(pairs(name, FAMILIES[name]), "style.safetensors")
    adapter = facts_of(ldm("info", "style.safetensors", "--json"))["adapter"]
    assert adapter["kind"] == "a LoRA" and adapter["fits"][0] == name
    assert not {"sd15", "sd2-base", "sdxl", "sd3-medium", "flux-dev"} - {name} & {*adapter["fits"]}
    assert (adapter["rank"], adapter["alpha"]) == ("4", "2")
    assert sum(adapter["changes"].values()) == adapter["forms"]["LoRA"] > 10
    shown = ldm("info", "style.safetensors").out
    assert name in shown and "not found" not in shown


def test_a_folder_of_peft(ldm, work):
    (work / "style").mkdir()
    path = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    parts = {"lora_A": (4, 768), "lora_B": (320, 4), "lora_magnitude_vector": (320,)}
    tensors = {
        f"{path}.{part}" + ".weight" * (part[-2] == "_"): np.zeros(x) for part, x in parts.items()
    }
    save_file(tensors, "style/adapter_model.safetensors")
    recorded = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": True}
    (work / "style" / "adapter_config.json").write_text(json.dumps(recorded))
    adapter = facts_of(ldm("info", "style", "--json"))["adapter"]
    assert adapter["kind"] == "a DoRA" and adapter["fits"][0] == "sd15"
    assert adapter["peft"] == recorded


ADAPTERS = {
    "a LoHa": ("lora_unet_x.hada_w1_a", (2, 2)),
    "a LoKr": ("lora_unet_x.lokr_w1", (2, 2)),
    "an OFT": ("x.oft_R.weight", (2, 2)),
    "an (IA)3": ("x.ia3_l", (2,)),
    "an IP-Adapter": ("image_proj.proj.weight", (2, 2)),
    "a T2I-Adapter": ("adapter.body.0.resnets.0.block1.weight", (2, 2, 1, 1)),
    "a ControlNet": ("controlnet_cond_embedding.conv_in.weight", (2, 2)),
    "a textual inversion": ("clip_l", (2, 768)),
    "a textual inversion of the word '<toy>'": ("<toy>", (768,)),
    "a hypernetwork": ("768.0.linear.0.weight", (2, 2)),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_are_named(ldm, work, kind):
    name, shape = ADAPTERS[kind]
    save_file({name: np.zeros(shape, np.float32)}, "a.safetensors")
    adapter = facts_of(ldm("info", "a.safetensors", "--json"))["adapter"]
    assert adapter["kind"].startswith(kind) and adapter["use"]


PICKLED = {
    "a textual inversion": {"string_to_param": {"*": torch.zeros(2, 768)}, "name": "toy"},
    "a hypernetwork": {768: [{"linear.0.weight": torch.zeros(2, 2)}] * 2, "name": "h"},
    "a LoRA": {"unet.conv_in.lora_A.weight": torch.zeros(2, 2)},
    "a model": {"state_dict": {"model.diffusion_model.out.0.weight": torch.zeros(2)}},
}


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".pth", ".bin"])
@pytest.mark.parametrize("kind", PICKLED)
def test_pickles_are_named(ldm, work, kind, ending):
    torch.save(PICKLED[kind], f"a{ending}")
    facts = facts_of(ldm("info", f"a{ending}", "--json"))
    assert facts["pickle"] and facts["kind"].startswith(kind) and facts["tensors"]
    assert "ldmref convert" in ldm("info", f"a{ending}", "--tensors").out


def test_a_pickle_with_code_is_refused(ldm, work):
    import pickle

    (work / "a.pt").write_bytes(pickle.dumps({"a": json.loads}, 2))
    assert (
        ldm("info", "a.pt").code != 0 and "cannot read as an image" not in ldm("info", "a.pt").err
    )


@pytest.mark.parametrize(
    ("ending", "format"),
    [(".gguf", "GGUF"), (".safetensors", "safetensors"), (".ckpt", "safetensors")],
)
def test_a_page_in_place_of_a_file(ldm, work, ending, format):
    (work / f"a{ending}").write_text("<!DOCTYPE html><html>")
    ran = ldm("info", f"a{ending}")
    assert ran.code == 3 and f"an HTML page, not a {format} file" in ran.err
