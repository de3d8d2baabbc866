"""The work `inside`: tokens, hidden states and the levels of the U-Net in one step."""

import json

import numpy as np
import pytest
import safetensors.numpy
from small_models import save_flow

import ldmref
from ldmref import modes
from ldmref.apps.server.inside_tasks import look_inside
from ldmref.backends import get_backend
from ldmref.trace import read_trace, record_trace

RUN = {"kind": "inside", "parameters": {"prompt": "a red cat", "steps": 3, "seed": 5}, "step": 1}


def look(server, body):
    answer = server.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job = server.finish(answer.json()["id"])
    assert job["state"] == "done", job
    [file] = job["files"]
    content = server.client.get(file["url"]).content
    length = int.from_bytes(content[:8], "little")
    described = json.loads(content[8 : 8 + length])["__metadata__"]["inside"]
    return json.loads(described), safetensors.numpy.load(content)


def test_the_inside_of_a_step_is_that_of_its_trace(server, tiny, tmp_path):
    described, tensors = look(server, RUN)
    plan = modes.plan("txt2img", tiny, **RUN["parameters"])
    record_trace(plan, tiny, tmp_path / "trace")
    trace = read_trace(tmp_path / "trace")
    assert described["pieces"][1:-1] == ["a", "red", "cat"]
    count = len(described["pieces"])
    assert np.array_equal(tensors["ids"], trace.tensors["tokens//output.ids"].ravel()[:count])
    hidden = trace.tensors["text_encoder//output"][0, :count]
    assert np.allclose(tensors["hidden"], hidden, atol=2e-3, rtol=1e-3)
    assert described["steps"] == [1] and described["cut"] == ""
    assert described["levels"][0] == "down_blocks.0" and "mid_block" in described["levels"]
    output = trace.tensors["unet.001/mid_block.resnets.1/output"][1]
    expected = np.sqrt(np.mean(output.astype(float) ** 2, axis=0))
    assert tensors["mid_block"].shape == (1, *expected.shape)
    assert np.allclose(tensors["mid_block"][0], expected, rtol=2e-3)


def test_what_is_cut_off_is_said(server):
    words = " ".join(["a red cat"] * 40)
    described, _ = look(server, RUN | {"parameters": {"prompt": words, "steps": 2}})
    assert "left out" in described["cut"]
    assert len(described["pieces"]) == described["limit"]


@pytest.mark.parametrize("step", [-1, 3, True, "1", None])
def test_a_step_that_is_not_there_is_refused(server, step):
    answer = server.client.post("/v1/jobs", json=RUN | {"step": step})
    assert answer.status_code in (400, 422)
    assert "step must be a whole number from 0 to 2" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name, read", [("sd3-tiny", ["CLIP", "T5"]), ("flux-tiny", ["T5"])])
def test_each_encoder_that_a_transformer_attends_to(serve, tmp_path, name, read):
    """With its own tokenizer, and without CLIP for Flux.1, whose attention does not see it."""
    model = ldmref.load(save_flow(tmp_path / name, name), backend="numpy")
    described, tensors = look(serve({name: model}), RUN)
    texts = [described, *described["more"]]
    assert [text["encoder"] for text in texts] == read
    of_t5 = texts[-1]["pieces"]
    assert "".join(of_t5) == "aredcat</s>"  # its vocabulary has no word for red or cat
    assert len(of_t5) > len("a red cat".split()) + 1
    end = f"_{len(texts) - 1}" if len(texts) > 1 else ""
    assert tensors[f"hidden{end}"].shape == (len(of_t5), model.config.text_encoders[-1].hidden_size)
    if name == "sd3-tiny":
        assert described["pieces"] == ["<start>", "a", "red", "cat", "<end>"]


@pytest.mark.parametrize("name, package", [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_backend_that_compiles_has_the_same_levels(tiny, name, package):
    """It computes the networks operation by operation here, so that the layers are seen."""
    pytest.importorskip(package)
    plan = modes.plan("txt2img", tiny, **RUN["parameters"])
    compiled = tiny.with_backend(get_backend(name))
    assert compiled.backend.compiles
    expected, found = (
        safetensors.numpy.load(look_inside(model, plan, (1,))) for model in (tiny, compiled)
    )
    assert {"down_blocks.0", "mid_block", "up_blocks.0"} <= expected.keys()
    assert found.keys() == expected.keys()
    for level, values in expected.items():
        assert np.allclose(found[level], values, rtol=2e-3, atol=2e-3), level
