"""ControlNets in a request: those that the server was started with, by their names."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from small_models import save_controlnet

import ldmref
from ldmref import explore, modes
from ldmref.apps.cli.serve import load_controlnets
from ldmref.errors import LdmrefError
from ldmref.io.images.metadata import read_parameters
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init
from ldmref.modes import Control

ASKED = {"prompt": "a red cat", "steps": 4, "seed": 5}
EDGES = Image.fromarray(np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8))
MASK = Image.fromarray(np.repeat(np.repeat([[0, 255], [0, 0]], 8, 0), 8, 1).astype(np.uint8))


def encode(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def nets(tiny):
    """Two ControlNets of the model, and one that fits no model here."""
    config = ControlNetConfig(tiny.config.unet, conditioning_embedding_out_channels=(4, 8))
    other = ControlNetConfig(tiny.config.unet, conditioning_embedding_out_channels=(4, 8, 8))
    return {
        name: ControlNet(tiny.backend, c, init(controlnet_spec(c), seed), name, f"{seed:x}" * 64)
        for seed, (name, c) in enumerate({"edges": config, "poses": config, "other": other}.items())
    }


@pytest.fixture(scope="module")
def served(serve_once, tiny, nets):
    return serve_once({"tiny": tiny}, controlnets=nets)


def ask(server, control, mode="txt2img", **more):
    body = {"mode": mode, "parameters": {**ASKED, **more, "control": control}}
    return server.client.post("/v1/generate", json=body)


def pixels(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def refusal(answer):
    assert answer.status_code == 422, answer.text
    return answer.json()["error"]


def test_the_command_loads_each_net_for_a_model_that_it_fits(tiny, tmp_path):
    folder = str(save_controlnet(tmp_path / "net"))
    flow = ldmref.random_model("sd3-tiny", backend="numpy")
    found = load_controlnets((f"edges={folder}", folder), {"flow": flow, "tiny": tiny})
    assert [*found] == ["edges", "net"] and found["edges"].backend == tiny.backend
    with pytest.raises(LdmrefError, match="two ControlNets are named 'a'"):
        load_controlnets((f"a={folder}", f"a={folder}"), {"tiny": tiny})
    with pytest.raises(LdmrefError, match="it is one of the family latent-diffusion, not sd3"):
        load_controlnets((folder,), {"flow": flow})


# -- the native interface -------------------------------------------------------------------------


def test_the_image_is_that_of_python(served, tiny, nets):
    given = [
        {"net": "edges", "image": encode(EDGES), "weight": 0.7, "start": 0.25, "end": 0.75},
        {"net": "poses", "image": encode(EDGES.rotate(90))},
    ]
    same = [
        Control(nets["edges"], EDGES, 0.7, 0.25, 0.75),
        Control(nets["poses"], EDGES.rotate(90)),
    ]
    answer = ask(served, given)
    want = modes.txt2img(tiny, control=same, **ASKED)
    assert np.array_equal(pixels(answer), want.images[0])
    assert (want.latents != modes.txt2img(tiny, **ASKED).latents).any()
    record = read_parameters(io.BytesIO(answer.content))["ldmref"]
    assert [(c["name"], c["weight"]) for c in record["control"]] == [("edges", 0.7), ("poses", 1.0)]


@pytest.mark.parametrize("name", ["edge", "/etc/passwd", "../edges", 3, None, {"path": "x"}])
def test_another_name_is_refused_and_never_opened(served, name, monkeypatch):
    monkeypatch.setattr("ldmref.modes.control.open_controlnet", None)
    error = refusal(ask(served, [{"net": name, "image": encode(EDGES)}]))
    assert error["code"] == "E-CONTROL" and error["parameter"] == "control"
    assert "must name a ControlNet of the server" in error["message"]


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ("edges", "must be a list of objects"),
        (["edges"], "must be an object with net"),
        ([{"image": "x"}], "must be an object with net"),
        ([{"net": "edges", "image": "/etc/passwd"}], "cannot read control as an image"),
        ([{"net": "edges", "path": "x"}], "unknown key control.path"),
        ([{"net": "edges"}], "needs an image to read"),
        ([{"net": "edges", "image": encode(EDGES), "weight": 11}], "from -10 to 10, not 11"),
        ([{"net": "edges", "image": encode(EDGES), "start": 1}], "start before it ends"),
        ([{"net": "edges", "image": encode(EDGES), "mode": 0}], "knows one kind of images"),
        ([{"net": "other", "image": encode(EDGES)}], "does not fit the model"),
        ([{"net": "edges", "image": encode(EDGES)}] * 17, "17 controls, the limit is 16"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(served, control, said):
    error = refusal(ask(served, control))
    assert said in error["message"] and "\n" not in error["message"]


def test_a_server_without_nets_says_how_to_have_some(serve, tiny):
    server = serve({"tiny": tiny})
    error = refusal(ask(server, [{"net": "edges", "image": encode(EDGES)}]))
    assert "the server has no ControlNet" in error["message"] and "--controlnet" in error["hint"]
    answer = server.client.get("/v1/capabilities").json()
    assert "control" not in answer["modes"]["txt2img"]["schema"]["properties"]
    assert answer["models"][0]["controlnets"] == []
    assert server.client.get("/controlnet/model_list").status_code == 404


def test_the_capabilities_offer_the_nets_that_fit(served):
    answer = served.client.get("/v1/capabilities").json()
    declared = answer["modes"]["txt2img"]["schema"]["properties"]["control"]["items"]
    assert declared["properties"]["net"] == {"type": "string", "enum": ["edges", "poses", "other"]}
    assert declared["properties"]["weight"]["maximum"] == 10 and declared["required"] == ["net"]
    assert answer["models"][0]["controlnets"] == [
        {"name": "edges", "source": "edges", "kinds": 0, "image": True},
        {"name": "poses", "source": "poses", "kinds": 0, "image": True},
    ]
    description = served.client.get("/openapi.json").json()
    known = description["components"]["schemas"]["parameters-txt2img"]["properties"]["control"]
    assert known["items"]["properties"].keys() == declared["properties"].keys()


def test_an_inpainting_net_reads_the_image_of_the_request(served, tiny, nets):
    given = {"image": encode(EDGES), "mask": encode(MASK), "strength": 1.0}
    answer = ask(served, [{"net": "edges"}], "inpaint", **given)
    asked = ASKED | {"image": EDGES, "mask": MASK, "strength": 1.0}
    want = modes.inpaint(tiny, control=[Control(nets["edges"])], **asked)
    assert np.array_equal(pixels(answer), want.images[0])
    assert (want.latents != modes.inpaint(tiny, **asked).latents).any()


def test_an_image_names_its_nets_and_lacks_their_images(served):
    answer = ask(served, [{"net": "edges", "image": encode(EDGES), "weight": 0.5}])
    found = served.client.post("/v1/inspect", content=answer.content).json()
    assert found["missing"] == ["control"]
    [control] = found["parameters"]["control"]
    assert control == {"net": "edges", "weight": 0.5, "start": 0.0, "end": 1.0}
    again = ask(served, [control | {"image": encode(EDGES)}])
    assert again.content == answer.content


def run_job(served, body):
    answer = served.client.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    job = served.finish(answer.json()["id"])
    assert job["state"] == "done", job
    return job["id"]


def served_trunk():
    values = ASKED | {"control": [{"net": "edges", "image": encode(EDGES)}]}
    return {"mode": "txt2img", "parameters": values}


def test_a_record_and_a_branch_have_them(served, tiny, nets):
    run_job(served, {"kind": "record", **served_trunk()})
    changes = {"prompt": "a dog"}
    run_job(served, {"kind": "branch", "trunk": served_trunk(), "step": 2, "changes": changes})
    control = [Control(nets["edges"], EDGES)]
    record = explore.record_run(tiny, control=control, **ASKED)
    branch = explore.branch_run(tiny, {"mode": "txt2img", "control": control, **ASKED}, 2)
    assert np.array_equal(branch.x, record.x)


def test_a_grid_has_them(served, tiny, nets):
    x = {"name": "cfg_scale", "values": [1.0, 2.0]}
    job = run_job(served, {"kind": "grid", **served_trunk(), "x": x, "distance": False})
    image = served.client.get(f"/v1/jobs/{job}/images/1.png")
    control = [Control(nets["edges"], EDGES)]
    want = modes.txt2img(tiny, control=control, **ASKED | {"cfg_scale": 2.0})
    assert np.array_equal(pixels(image), want.images[0])


def test_mcp_takes_them(served, tiny, nets):
    control = [{"net": "edges", "image": encode(EDGES)}]
    call = {"name": "generate_image", "arguments": ASKED | {"control": control}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    answer = served.client.post("/mcp", json=message).json()["result"]
    [image] = [part["data"] for part in answer["content"] if part["type"] == "image"]
    want = modes.txt2img(tiny, control=[Control(nets["edges"], EDGES)], **ASKED)
    got = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))
    assert np.array_equal(got, want.images[0])


# -- A1111's extension ----------------------------------------------------------------------------


def ask_a1111(server, units, path="txt2img", name="controlnet", **more):
    body = {"prompt": "a red cat", "steps": 4, "seed": 5, "width": 16, "height": 16}
    scripts = {name: {"args": units}}
    return server.client.post(
        f"/sdapi/v1/{path}", json={**body, "alwayson_scripts": scripts, **more}
    )


def a1111_image(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))))


def test_a_unit_is_a_control(served, tiny, nets):
    """A step of the extension has both ends of its interval, which `Control` compares apart."""
    unit = {"enabled": True, "module": "none", "model": "edges [00000000]", "weight": 0.5}
    unit |= {"image": encode(EDGES), "guidance_end": 0.5, "control_mode": 0, "pixel_perfect": True}
    off = {"enabled": False, "model": "None", "module": "canny"}
    answer = ask_a1111(served, [unit, off], name="ControlNet")
    asked = ASKED | {"prompt_weights": "a1111", "long_prompts": "chunk"}
    want = modes.txt2img(tiny, control=[Control(nets["edges"], EDGES, 0.5, 0.0, 0.75)], **asked)
    assert np.array_equal(a1111_image(answer), want.images[0])
    assert "alwayson_scripts" not in answer.json()["parameters"]


def test_the_resize_modes(served, tiny, nets):
    wide = EDGES.resize((32, 16))
    shown = {}
    for mode in ("Just Resize", "Crop and Resize", "Resize and Fill", None, 1):
        unit = {"model": "edges", "image": encode(wide), "resize_mode": mode}
        shown[mode] = a1111_image(ask_a1111(served, [unit]))
    assert np.array_equal(shown[None], shown[1])
    assert np.array_equal(shown[1], shown["Crop and Resize"])
    different = [shown[name] for name in ("Just Resize", "Crop and Resize", "Resize and Fill")]
    assert len({x.tobytes() for x in different}) == 3


def test_a_unit_of_img2img_reads_the_given_image(served):
    given = {"init_images": [encode(EDGES)], "denoising_strength": 1.0}
    without = ask_a1111(served, [{"model": "edges"}], "img2img", **given)
    same = ask_a1111(served, [{"model": "edges", "image": encode(EDGES)}], "img2img", **given)
    assert np.array_equal(a1111_image(without), a1111_image(same))


@pytest.mark.parametrize(
    ("unit", "status", "said"),
    [
        ({"module": "canny"}, 422, "cannot have module 'canny'"),
        ({"control_mode": "My prompt is more important"}, 422, "cannot have control_mode"),
        ({"control_mode": 2}, 422, "cannot have control_mode 2"),
        ({"advanced_weighting": [1.0]}, 422, "cannot have advanced_weighting"),
        ({"mask": "x"}, 422, "cannot have mask"),
        ({"model": "None"}, 404, "ControlNet model 'None' not found"),
        ({"model": "/etc/passwd"}, 404, "ControlNet model '/etc/passwd' not found"),
        ({"image": None}, 422, "needs an image"),
        ({"image": "/etc/passwd"}, 422, "cannot read the image of a ControlNet unit"),
        ({"resize_mode": "Other"}, 422, "unknown resize_mode 'Other'"),
        ({"resize_mode": []}, 422, "unknown resize_mode"),
        ({"weight": 3}, 422, "weight must be a number from 0 to 2"),
        ({"guidance_start": 0.6, "guidance_end": 0.5}, 422, "guidance_end must be a number"),
    ],
)
def test_what_the_extension_does_and_ldmref_does_not_is_refused(served, unit, status, said):
    answer = ask_a1111(served, [{"model": "edges", "image": encode(EDGES)} | unit])
    assert answer.status_code == status and said in answer.text


def test_the_lists_of_the_extension(served):
    get = served.client.get
    titles = ["edges [00000000]", "poses [11111111]", "other [22222222]"]
    assert get("/controlnet/model_list").json() == {"model_list": titles}
    assert get("/controlnet/module_list").json()["module_list"] == ["none"]
    assert get("/controlnet/version").json() == {"version": 3}
    assert get("/sdapi/v1/scripts").json()["txt2img"] == ["controlnet"]
    kinds = get("/controlnet/control_types").json()["control_types"]
    assert kinds["All"]["model_list"] == ["None", *titles]
    assert get("/controlnet/settings").json()["control_net_unit_count"] == 16
