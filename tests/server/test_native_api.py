"""The native interface over HTTP, as clients use it."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from itertools import islice

import httpx2 as httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image
from waiting import wait_until

from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.apps.server.errors import UnknownJob as AnyError
from ldmref.apps.server.errors import error_body
from ldmref.declare import get_fields
from ldmref.io.native import save_folder
from ldmref.models.model import LatentDiffusion
from ldmref.modes.registry import MODES
from ldmref.prompts.completion import complete_word, list_words
from ldmref.samplers import GUIDANCES, SAMPLERS, SPACINGS
from ldmref.samplers.spacings import FLOW_SPACINGS

SECONDS = 30.0
CAT = {"prompt": "a cat", "steps": 2, "seed": 3}


def submit(server, parameters=CAT, **body):
    answer = server.client.post("/v1/jobs", json={"parameters": parameters, **body})
    assert answer.status_code == 202, answer.text
    return answer.json()


def to_base64(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture(size=(16, 16), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def read_events(lines):
    """Return (number, name, data) of server-sent events; comments have no name."""
    events = []
    fields = {}
    for line in lines:
        if line:
            key, _, value = line.partition(": ")
            fields[key] = value
        elif "event" in fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            fields = {}
    return events


# -- jobs -----------------------------------------------------------------------------------------


def test_a_job_from_its_submission_to_its_image(server):
    answer = server.client.post("/v1/jobs", json={"parameters": CAT, "mode": "txt2img"})
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == job["url"]
    assert job["kind"] == "generate" and job["model"] == "tiny"
    assert job["request"]["sampler"] == "ddim" and job["request"]["seed"] == 3
    done = server.finish(job["id"])
    assert done["state"] == "done" and done["error"] is None
    assert done["progress"] | {"seconds_left": 0} == {
        "step": 2,
        "steps": 2,
        "image": 0,
        "images": 1,
        "seconds_left": 0,
    }
    assert done["created"] <= done["started"] <= done["finished"]
    (image,) = done["images"]
    assert (image["index"], image["seed"], image["width"], image["height"]) == (0, 3, 16, 16)
    png = server.client.get(image["url"])
    assert png.headers["content-type"] == "image/png"
    assert "txt2img-3-0.png" in png.headers["content-disposition"]
    assert "immutable" in png.headers["cache-control"]
    (listed,) = server.client.get("/v1/jobs").json()["jobs"]
    assert listed["id"] == job["id"] and listed["images"] == [image["url"]]
    assert listed["prompt"] == "a cat" and "request" not in listed


def test_images_are_the_bytes_of_the_command_line_and_of_python(serve, tiny, tmp_path):
    save_folder(tmp_path / "tiny", tiny.config, tiny.params, [tiny.tokenizer])
    import ldmref

    model = ldmref.load(tmp_path / "tiny", backend="numpy")
    server = serve({"tiny": model})
    picture().save(tmp_path / "in.png")
    image = base64.b64encode((tmp_path / "in.png").read_bytes()).decode()
    requests = {
        "txt2img": (CAT | {"count": 2, "negative_prompt": "日本"}, ["--count", "2", "-n", "日本"]),
        "img2img": (CAT | {"image": image, "strength": 0.5}, ["-i", str(tmp_path / "in.png")]),
    }
    for mode, (parameters, flags) in requests.items():
        done = server.finish(submit(server, parameters, mode=mode)["id"])
        served = [server.client.get(image["url"]).content for image in done["images"]]
        out = tmp_path / mode
        argv = [mode, "a cat", "-m", str(tmp_path / "tiny"), "--steps", "2", "--seed", "3", *flags]
        argv += ["--strength", "0.5"] if mode == "img2img" else []
        assert main([*argv, "-o", f"{out}/", "--backend", "numpy"]) == 0
        assert served == [path.read_bytes() for path in sorted(out.iterdir())]
        given = parameters | ({"image": tmp_path / "in.png"} if mode == "img2img" else {})
        result = modes.plan(mode, model, **given).run(model)
        saved = result.save(tmp_path / f"python-{mode}.png")
        assert served == [path.read_bytes() for path in saved]


def test_a_request_that_was_made_can_be_repeated(server):
    first = server.finish(submit(server, CAT | {"count": 2})["id"])
    single = {k: v for k, v in first["images"][1]["params"].items() if k in CAT}
    again = server.client.post("/v1/generate", json={"parameters": single}).content
    pixels = [np.asarray(Image.open(io.BytesIO(png))) for png in (again, get(server, first, 1))]
    assert np.array_equal(*pixels)


def get(server, job, i):
    return server.client.get(job["images"][i]["url"]).content


def test_generate_answers_with_the_image(server):
    answer = server.client.post("/v1/generate", json={"parameters": CAT | {"width": 64}})
    assert answer.status_code == 200 and answer.headers["ldmref-seed"] == "3"
    assert "64 x 16 is far from" in answer.headers["ldmref-warning"]
    assert Image.open(io.BytesIO(answer.content)).size == (64, 16)
    assert answer.headers["cache-control"] == "no-store"
    assert server.engine.get(answer.headers["ldmref-job"]).state == "done"


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("img2img", {"image": to_base64(picture()), "strength": 0.5}),
        ("img2img", {"image": "data:image/png;base64," + to_base64(picture()), "strength": 1}),
        (
            "inpaint",
            {"image": to_base64(picture()), "mask": to_base64(Image.new("L", (16, 16), 255))},
        ),
        ("interpolate", {"prompt_b": "a dog", "positions": [0.5]}),
        ("txt2img", {"latents": np.zeros((1, 4, 8, 8)).tolist()}),
        ("txt2img", {"guidance": {"name": "rescale", "phi": 0.5}, "cfg_scale": 2}),
        ("txt2img", {"control": [], "latents": None}),
    ],
)
def test_modes_and_their_inputs(server, mode, more):
    done = server.finish(submit(server, CAT | more, mode=mode)["id"])
    assert done["state"] == "done", done["error"]
    assert done["images"][0]["params"]["mode"] == mode


def test_delete_cancels_once_and_for_all(server, gated):
    task = gated()
    job = server.engine.submit(task)
    assert task.started.wait(SECONDS)
    for _ in range(2):
        answer = server.client.delete(job.describe()["url"])
        assert answer.status_code == 200
        assert job.wait(SECONDS)
    assert answer.json()["state"] == "cancelled"


# -- events ---------------------------------------------------------------------------------------


def test_events_are_streamed_and_resumed(server, gated):
    def act(report, cancel):
        report.progress(1, 2)
        report.warn("mind the step")
        report.file("a b.txt", "text/plain", b"content")
        report.data({"distance": 0.5, "worst": (float("inf"), float("nan"))})

    task = gated(act)
    job = server.engine.submit(task)
    with server.client.stream("GET", f"/v1/jobs/{job.id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        task.gate.set()
        events = read_events(answer.iter_lines())
    names = [name for _, name, _ in events]
    assert names == ["queued", "started", "progress", "done"] or names == names[1:]
    number, _, done = events[-1]
    assert done["data"] == {"distance": 0.5, "worst": [None, None]} and done["warnings"] == [
        "mind the step"
    ]
    (file,) = done["files"]
    content = server.client.get(file["url"])
    assert content.text == "content" and file["size"] == 7
    assert "a%20b.txt" in content.headers["content-disposition"]
    resumed = server.client.get(
        f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": str(number - 1)}
    )
    assert [name for _, name, _ in read_events(resumed.text.split("\n"))] == ["done"]
    for junk in ("-1", "x", "9" * 30, "²"):
        headers = {"Last-Event-ID": junk.encode("latin-1", "replace")}
        again = server.client.get(f"/v1/jobs/{job.id}/events", headers=headers)
        assert [name for _, name, _ in read_events(again.text.split("\n"))] == names


def test_a_stream_shows_previews_while_an_image_is_made(serve, tiny, monkeypatch):
    monkeypatch.setattr("ldmref.apps.server.jobs.PREVIEW_SECONDS", 0.0)
    server = serve({"tiny": tiny})
    job = submit(server, CAT | {"steps": 200, "sampler": "euler"})
    with server.client.stream("GET", job["events"]) as answer:
        events = read_events(answer.iter_lines())
    previews = [data for _, name, data in events if name == "preview"]
    assert previews and previews[0]["image"].startswith("data:image/png;base64,")
    steps = [preview["step"] for preview in previews]
    assert steps == sorted(steps) and 0 < steps[0] < 200
    image = next(data for _, name, data in events if name == "image")
    assert image["url"].endswith("/images/0.png") and image["seed"] == 3
    none = submit(server, CAT | {"steps": 50, "sampler": "euler"}, previews=False)
    with server.client.stream("GET", none["events"]) as answer:
        assert "preview" not in {name for _, name, _ in read_events(answer.iter_lines())}


def test_a_comment_keeps_an_idle_stream_open(server, gated, monkeypatch):
    monkeypatch.setattr("ldmref.apps.server.streams.HEARTBEAT_SECONDS", 0.02)
    job = server.engine.submit(gated())
    with server.client.stream("GET", f"/v1/jobs/{job.id}/events") as answer:
        assert any(line.startswith(":") for line in islice(answer.iter_lines(), 30))


def test_many_streams_of_one_job(server, gated):
    task = gated()
    job = server.engine.submit(task)
    ended = []

    def follow():
        with httpx.stream("GET", f"{server.url}/v1/jobs/{job.id}/events", timeout=60) as answer:
            ended.append(read_events(answer.iter_lines())[-1][1])

    threads = [threading.Thread(target=follow) for _ in range(20)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS
    while len(job.log._readers) < 20 and time.monotonic() < end:
        time.sleep(0.01)
    task.gate.set()
    for thread in threads:
        thread.join(SECONDS)
    assert ended == ["done"] * 20 and not job.log._readers


# -- clients that disappear -----------------------------------------------------------------------


def raw(server, text):
    """Send a request over a new connection, and return the connection."""
    connection = socket.create_connection(server.address, timeout=SECONDS)
    connection.sendall(text)
    return connection


def test_a_client_that_disappears_frees_its_place(server):
    body = json.dumps({"parameters": CAT | {"steps": 1000, "count": 60}}).encode()
    head = f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    connection = raw(server, head.encode() + body)
    wait_until(lambda: [job.state for job in server.engine.jobs()] == ["running"])
    connection.close()
    (job,) = server.engine.jobs()
    assert job.wait(SECONDS) and job.state == "cancelled"
    assert server.client.post("/v1/generate", json={"parameters": CAT}).status_code == 200


def test_a_reader_that_disappears_is_forgotten(server, gated):
    job = server.engine.submit(gated())
    head = f"GET /v1/jobs/{job.id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection = raw(server, head.encode())
    wait_until(lambda: job.log._readers)
    connection.close()
    wait_until(lambda: not job.log._readers)
    assert job.state == "running"


def test_a_cancelled_job_answers_the_client_that_waits(server):
    answers = []

    def wait():
        body = {"parameters": CAT | {"steps": 1000, "count": 60}}
        answers.append(httpx.post(f"{server.url}/v1/generate", json=body, timeout=60))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: server.engine.jobs())
    server.client.delete(f"/v1/jobs/{server.engine.jobs()[0].id}")
    thread.join(SECONDS)
    assert answers[0].status_code == 409 and answers[0].json()["error"]["code"] == "E-CANCELLED"


# -- what a server says about itself --------------------------------------------------------------


def test_capabilities(server, tiny):
    told = server.client.get("/v1/capabilities").json()
    (model,) = told["models"]
    assert model["name"] == "tiny" and model["native_size"] == [16, 16]
    assert model["defaults"]["sampler"] in SAMPLERS and model["backend"] == "numpy"
    plan = modes.plan("txt2img", tiny, prompt="a cat").params
    assert {key: plan[key] for key in model["defaults"] if key in plan} == {
        key: value for key, value in model["defaults"].items() if key in plan
    }
    assert told["modes"].keys() == MODES.keys()
    for name, mode in told["modes"].items():
        properties = mode["schema"]["properties"]
        assert properties.keys() == MODES[name].parameters.keys() - {"control"}
        jsonschema.Draft202012Validator.check_schema(mode["schema"])
    assert [row["name"] for row in told["samplers"]] == list(SAMPLERS)
    assert [row["name"] for row in told["schedules"]] == [*SPACINGS, *FLOW_SPACINGS]
    assert [row["name"] for row in told["guidances"]] == list(GUIDANCES)
    for row in (*told["samplers"], *told["schedules"], *told["guidances"]):
        assert row["summary"] and "\n" not in row["summary"]


def test_the_embedded_model_has_one_size_and_prompts_to_try(serve, emoji):
    told = serve({"emoji": emoji}).client.get("/v1/capabilities").json()
    (model,) = told["models"]
    assert model["one_size"] and model["native_size"] == [128, 128]
    assert "red heart" in model["prompts"] and model["prompts_note"]
    assert model["reads_guidance"] is False
    assert model["modes"] == ["img2img", "inpaint", "interpolate", "invert", "txt2img"]


def test_the_openapi_description_lists_every_route(serve, tiny):
    server = serve({"tiny": tiny})
    description = server.client.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1.") and description["info"]["version"]
    native = ["/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/events", "/v1/generate", "/healthz", "/"]
    assert {*native, "/v1/jobs/{id}/images/{index}.png"} <= description["paths"].keys()
    schemas = description["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    operations = [
        (path, m, o) for path, item in description["paths"].items() for m, o in item.items()
    ]
    identifiers = [operation["operationId"] for _, _, operation in operations]
    assert len(identifiers) == len({*identifiers})
    for path, method, operation in operations:
        assert method in ("get", "post", "put", "delete") and operation["summary"], path
        named = {p["name"] for p in operation.get("parameters", ())}
        assert all(f"{{{name}}}" in path for name in named) and path.count("{") == len(named)
        assert "default" in operation["responses"] and len(operation["responses"]) > 1
    references = set(find_references(description))
    assert references and all(name in schemas for name in references)
    task = jsonschema.Draft202012Validator(schemas["Task"] | {"components": {"schemas": schemas}})
    assert task.is_valid({"parameters": CAT})
    assert task.is_valid({"mode": "img2img", "parameters": CAT | {"image": "aGk="}})
    assert not task.is_valid({"mode": "img2img", "parameters": CAT})
    assert not task.is_valid({"parameters": CAT | {"stepps": 3}})


def find_references(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner.removeprefix("#/components/schemas/")
            else:
                yield from find_references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from find_references(inner)


def test_health_and_page(server):
    assert server.client.get("/healthz").json() == {"status": "ok"}
    page = server.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and "ldmref" in page.text
    again = server.client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert again.status_code == 304
    paths = [
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "/etc/passwd",
        "C:/x",
        "a%00b",
        "static.py",
    ]
    for path in paths:
        assert server.client.get(f"/page/{path}").status_code in (404, 405), path


def test_the_page_can_be_left_out(serve, tiny):
    server = serve({"tiny": tiny}, page=False)
    assert server.client.get("/").status_code == 404


# -- images that are inspected --------------------------------------------------------------------


def test_an_image_of_the_server_can_be_inspected_and_repeated(server):
    png = server.client.post("/v1/generate", json={"parameters": CAT}).content
    found = server.client.post("/v1/inspect", content=png).json()
    assert found["mode"] == "txt2img" and found["missing"] == [] and found["notes"] == []
    assert (found["width"], found["height"]) == (16, 16)
    assert found["infotext"].startswith("a cat\nSteps: 2")
    body = {"mode": found["mode"], "parameters": found["parameters"]}
    assert server.client.post("/v1/generate", json=body).content == png


def test_the_digest_of_a_model_is_computed_when_an_image_needs_it(serve, tiny):
    """A checkpoint of 2 GB takes seconds, for which the page must not wait."""
    computed = []

    def compute_digest():
        computed.append(True)
        return "ab" * 32

    lazy = LatentDiffusion(tiny.backend, tiny.config, tiny.params, tiny.tokenizer, compute_digest)
    server = serve({"lazy": lazy, "tiny": tiny})

    def told():
        models = server.client.get("/v1/capabilities").json()["models"]
        return [model["sha256"] for model in models]

    assert told() == [None, tiny.sha256] and not computed
    png = server.client.post("/v1/generate", json={"parameters": CAT}).content
    assert told() == ["ab" * 32, tiny.sha256] and len(computed) == 1
    found = server.client.post("/v1/inspect", content=png).json()
    assert found["model"]["sha256"] == "ab" * 32 and found["models"] == ["lazy"]
    body = {"model": "tiny", "parameters": CAT}
    png = server.client.post("/v1/generate", json=body).content
    assert server.client.post("/v1/inspect", content=png).json()["models"] == []


def test_an_image_of_a1111_is_inspected_with_notes(server):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(
        "parameters",
        "a cat\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 5, "
        "Size: 512x512, Model: v1-5, Version: v1.6.0",
    )
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", pnginfo=info)
    found = server.client.post("/v1/inspect", content=buffer.getvalue()).json()
    assert found["mode"] == "txt2img" and found["parameters"]["seed"] == 5
    assert found["parameters"]["negative_prompt"] == "dog" and found["notes"]
    assert len(found["parameters"]["sigmas"]) == 21 and "steps" not in found["parameters"]
    body = {"mode": found["mode"], "parameters": found["parameters"] | {"width": 16, "height": 16}}
    assert server.client.post("/v1/jobs", json=body).status_code == 202


@pytest.mark.parametrize(
    ("record", "status"),
    [
        ('{"mode": "txt2img", "prompt": "a cat", "cfg_scale": NaN, "eta": -Infinity}', 200),
        ('{"mode": ["txt2img"], "prompt": {}}', 200),
        ('{"mode": "txt2img", "seed": [1, 2]}', 422),
        ('{"mode": "sheet"}', 200),
        ("[" * 500 + "]" * 500, 400),
        ("[" * 100_000, 200),
        ('{"mode": "interpolate", "positions": {"a": "b"}, "seed_b": [[]]}', 200),
        ('{"mode": "invert", "inverted": {"prompt": "a", "iterations": {}}}', 200),
        ('"' + "a" * 500_000 + '"', 200),
    ],
)
def test_hostile_records_are_inspected_or_refused(server, record, status):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("ldmref", record)
    info.add_text("parameters", "<img src=x onerror=alert(1)>\nSteps: x, Seed: 1, Size: 1x1")
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", pnginfo=info)
    answer = server.client.post("/v1/inspect", content=buffer.getvalue())
    assert answer.status_code in (status, 422), answer.text
    assert "NaN" not in answer.text and answer.json()
    assert answer.headers["content-type"] == "application/json"


def test_what_another_program_recorded_is_told(server):
    from PIL.PngImagePlugin import PngInfo

    node = {"class_type": "KSampler", "inputs": {"seed": 8, "steps": 20, "model": ["4", 0]}}
    lines = ["KSampler: seed 8, steps 20", "the graph of ComfyUI is not repeated by ldmref"]
    shown = {json.dumps({"3": node}): lines, "[" * 100_000: []}
    for graph, lines in shown.items():
        info = PngInfo()
        info.add_text("prompt", graph)
        buffer = io.BytesIO()
        picture().save(buffer, "PNG", pnginfo=info)
        found = server.client.post("/v1/inspect", content=buffer.getvalue()).json()
        assert found["mode"] is None and found["models"] == []
        assert found["notes"] == ["also contains 'prompt', written by ComfyUI", *lines]


def test_an_image_without_a_record_has_no_mode(server):
    buffer = io.BytesIO()
    picture((20, 10)).save(buffer, "JPEG")
    found = server.client.post("/v1/inspect", content=buffer.getvalue()).json()
    assert found["mode"] is None and (found["width"], found["height"]) == (20, 10)
    refused = server.client.post("/v1/inspect", content=b"GIF89a" + b"x" * 100)
    assert refused.status_code == 422 and refused.json()["error"]["code"] == "E-IMAGE"


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/jobs/nothing", 404, "E-JOB"),
        ("GET", "/v1/jobs/nothing/events", 404, "E-JOB"),
        ("DELETE", "/v1/jobs/nothing", 404, "E-JOB"),
        ("GET", "/v1/jobs/" + "x" * 5000, 404, "E-JOB"),
        ("GET", "/v1/nothing", 404, "E-PATH"),
        ("PUT", "/v1/jobs", 405, "E-METHOD"),
        ("GET", "/v1/generate", 405, "E-METHOD"),
    ],
)
def test_paths_that_do_not_exist(server, method, path, status, code):
    answer = server.client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error.keys() == {"code", "message", "hint", "parameter"}
    assert "\n" not in error["message"] and len(error["message"]) < 200


def test_images_and_files_that_a_job_does_not_have(server):
    done = server.finish(submit(server)["id"])
    for path in ("images/1.png", "files/record", "files/..%2F..%2Fetc%2Fpasswd"):
        assert server.client.get(f"{done['url']}/{path}").status_code == 404


def test_a_gone_job_is_410(serve, tiny):
    server = serve({"tiny": tiny}, lifetime=0.01)
    job = submit(server)
    server.engine._jobs[job["id"]].wait(SECONDS)
    time.sleep(0.05)
    answer = server.client.get(job["url"])
    assert answer.status_code == 410 and "0.01 s" in answer.json()["error"]["hint"]


def test_a_full_queue_is_429_before_anything_is_read(serve, tiny, gated):
    server = serve({"tiny": tiny}, queue=0)
    task = gated()
    server.engine.submit(task)
    assert task.started.wait(SECONDS)
    answer = server.client.post("/v1/jobs", json={"parameters": {"nonsense": 1}})
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "E-QUEUE"
    assert int(answer.headers["retry-after"]) >= 1


def test_a_failed_job_says_why(server, gated, monkeypatch):
    from ldmref.apps.server.tasks import GenerateTask

    monkeypatch.setattr(GenerateTask, "run", lambda *arguments: 1 / 0)
    answer = server.client.post("/v1/generate", json={"parameters": CAT})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "internal error (ZeroDivisionError)"


def test_an_error_of_the_server_itself_does_not_show_its_text(server, monkeypatch):
    def fail(engine):
        raise RuntimeError("/home/me/secret")

    monkeypatch.setattr("ldmref.apps.server.native.describe_server", fail)
    answer = server.client.get("/v1/capabilities")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert server.client.get("/healthz").status_code == 200


def test_refusals_have_the_form_of_their_interface():
    error = AnyError("not\nso", code="E-X", hint="do this")
    error.parameter = "steps"
    native = error_body("/v1/jobs", 404, error)["error"]
    assert native == {"code": "E-X", "message": "not\\nso", "hint": "do this", "parameter": "steps"}
    theirs = error_body("/v1/images/generations", 422, error)["error"]
    assert theirs["param"] == "steps" and theirs["type"] == "invalid_request_error"
    assert error_body("/sdapi/v1/txt2img", 404, error).keys() == {
        "error",
        "detail",
        "body",
        "errors",
    }
    rpc = error_body("/mcp", 404, error)
    assert rpc["jsonrpc"] == "2.0" and rpc["error"]["data"]["code"] == "E-X"


def test_settings_are_declared_with_a_description():
    from ldmref.declare import Doc
    from ldmref.support.server_settings import ServerSettings

    for field in get_fields(ServerSettings).values():
        assert not field.required and field.get(Doc)


def test_words_of_the_vocabulary_are_completed(server, tiny):
    ask = server.client.get
    expected = complete_word(list_words(tiny.tokenizer), "r")
    assert ask("/v1/words", params={"start": "r"}).json() == {"words": expected, "known": False}
    assert ask("/v1/words", params={"start": expected[0].upper()}).json()["known"]
    assert ask("/v1/words", params={"start": "a"}).json()["known"]
    assert "a" not in ask("/v1/words", params={"start": "a"}).json()["words"]
    assert ask("/v1/words").json() == {"words": [], "known": False}
    assert ask("/v1/words", params={"start": "r", "model": "x"}).status_code == 404
