"""OpenAI's interface over HTTP: recorded requests, and the package openai itself."""

import asyncio
import base64
import io
import json
import socket
from urllib.parse import unquote

import numpy as np
import openai
import pytest
from openai.types import (
    ImageEditCompletedEvent,
    ImageEditPartialImageEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
    ImagesResponse,
    Model,
)
from PIL import Image
from replaying import encode, from_base64, load_recorded, model_of_one_size, recorded, replay
from waiting import wait_until

from ldmref import modes
from ldmref.io.images.metadata import read_parameters

REPLAYED = [
    (client, name)
    for client in ("openai", "open_webui")
    for name, request in load_recorded(client).items()
    if request["path"].startswith("/v1/")
]
SEEDED = {"seed": 1, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def server(serve_once, tiny):
    return serve_once({"tiny": tiny})


@pytest.fixture(scope="module")
def of_one_size(serve_once):
    return serve_once({"emoji": model_of_one_size()})


@pytest.fixture(scope="module")
def client(server):
    return connect(server)


def connect(server, key="none", kind=openai.OpenAI):
    return kind(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60.0)


def validated(cls, value):
    """Validate all fields of an answer by the type of the package, which does not do so itself."""
    return cls.model_validate(value.to_dict(), strict=True)


def png_file(image, name="image.png"):
    return (name, encode(image), "image/png")


def hole_mask(size=(16, 16), hole=(4, 4, 12, 12)):
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), hole)
    return mask


# -- recorded requests ----------------------------------------------------------------------------


@pytest.mark.parametrize(("client_name", "name"), REPLAYED)
def test_recorded_requests_are_answered(client_name, name, of_one_size):
    request = recorded(client_name, name)
    answer = replay(of_one_size, request)
    assert answer.status_code == 200, answer.text
    if "stream" in name:
        (*_, last) = read_events(answer.text)
        assert last["type"].endswith(".completed") and from_base64(last["b64_json"])
    elif request["path"].startswith("/v1/images"):
        content = ImagesResponse.model_validate(answer.json(), strict=True)
        assert content.size == ("32x32" if "mask" in name else "16x16")
        images = [from_base64(image.b64_json) for image in content.data]
        assert all(f"{image.width}x{image.height}" == content.size for image in images)
    else:
        assert answer.json()["object"] in ("list", "model")


def read_events(text):
    """Return the events of a stream, each named by its type."""
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


# -- images ---------------------------------------------------------------------------------------


def test_an_image_of_1024_shows_the_object_at_the_model_size(serve, emoji):
    client = connect(serve({"emoji": emoji}))
    answer = client.images.with_raw_response.generate(
        prompt="a red heart", size="1024x1024", extra_body={"seed": 1, "num_inference_steps": 6}
    )
    content = validated(ImagesResponse, answer.parse())
    own = modes.txt2img(emoji, "a red heart", seed=1, steps=6)
    data = base64.b64decode(content.data[0].b64_json)
    assert np.array_equal(Image.open(io.BytesIO(data)), own[0])
    assert content.size == "128x128"
    assert "128x128 instead of 1024x1024" in unquote(answer.headers["ldmref-warning"])
    recorded = read_parameters(io.BytesIO(data))["ldmref"]
    assert (recorded["seed"], recorded["prompt"], recorded["steps"]) == (1, "a red heart", 6)


def test_generate(client, tiny):
    content = validated(
        ImagesResponse,
        client.images.generate(
            prompt="a cat", n=2, size="24x16", quality="high", extra_body=SEEDED
        ),
    )
    own = modes.txt2img(tiny, "a cat", seed=1, steps=2, count=2, width=24, height=16)
    images = [from_base64(image.b64_json) for image in content.data]
    assert all(np.array_equal(a, b) for a, b in zip(images, own, strict=True))
    assert (content.size, content.quality, content.background) == ("24x16", "high", "opaque")
    usage = content.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens == 2 * 12 * 8  # latent cells of two images
    assert usage.input_tokens == usage.input_tokens_details.text_tokens > 0


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(client, kind):
    extra = {} if kind == "png" else {"output_compression": 40}
    content = client.images.generate(prompt="a cat", output_format=kind, extra_body=SEEDED, **extra)
    data = base64.b64decode(content.data[0].b64_json)
    assert Image.open(io.BytesIO(data)).format == kind.upper() == content.output_format.upper()
    assert read_parameters(io.BytesIO(data))["ldmref"]["seed"] == 1


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_compression_makes_smaller_files(serve, emoji, kind):
    client = connect(serve({"emoji": emoji}))
    sizes = []
    for compression in (95, 5):
        content = client.images.generate(
            prompt="a cat",
            output_format=kind,
            output_compression=compression,
            extra_body={"seed": 1, "steps": 1},
        )
        sizes.append(len(content.data[0].b64_json))
    assert sizes[1] < 0.7 * sizes[0]


def test_addresses_instead_of_base64(client, server):
    content = client.images.generate(prompt="a cat", response_format="url", extra_body=SEEDED)
    (image,) = content.data
    assert image.b64_json is None and image.url.startswith(server.url)
    fetched = server.client.get(image.url)
    assert fetched.status_code == 200 and fetched.headers["content-type"] == "image/png"
    (same,) = client.images.generate(prompt="a cat", extra_body=SEEDED).data
    assert base64.b64decode(same.b64_json) == fetched.content


def test_seeds_are_told(client):
    answer = client.images.with_raw_response.generate(prompt="a cat", n=2, extra_body={"steps": 1})
    seeds = [int(seed) for seed in answer.headers["ldmref-seed"].split(",")]
    again = client.images.generate(prompt="a cat", extra_body={"steps": 1, "seed": seeds[1]})
    assert answer.parse().data[1].b64_json[:200] == again.data[0].b64_json[:200]
    assert np.array_equal(
        from_base64(answer.parse().data[1].b64_json), from_base64(again.data[0].b64_json)
    )


# -- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
def test_stream_of_partial_images(client, tiny, partial_images):
    extra = {"seed": 1, "num_inference_steps": 8}
    events = list(
        client.images.generate(
            prompt="a cat",
            size="24x16",
            stream=True,
            partial_images=partial_images,
            quality="low",
            extra_body=extra,
        )
    )
    (*partial, completed) = events
    validated(ImageGenCompletedEvent, completed)
    for event in partial:
        validated(ImageGenPartialImageEvent, event)
    assert [event.partial_image_index for event in partial] == list(range(partial_images))
    shown = []
    chosen = [round(8 * (i + 1) / (partial_images + 1)) for i in range(partial_images)]
    own = modes.txt2img(
        tiny,
        "a cat",
        seed=1,
        steps=8,
        width=24,
        height=16,
        callback=lambda p: shown.extend(p.preview() if p.step + 1 in chosen else []),
    )
    for event, image in zip(partial, shown, strict=True):
        assert np.array_equal(from_base64(event.b64_json), image)
    assert np.array_equal(from_base64(completed.b64_json), own[0])
    assert {(event.size, event.quality, event.output_format) for event in events} == {
        ("24x16", "low", "png")
    }
    assert completed.usage.total_tokens == completed.usage.input_tokens + 12 * 8


def test_stream_of_several_images(client):
    extra = {"seed": 1, "num_inference_steps": 4}
    events = list(
        client.images.generate(
            prompt="a cat",
            n=2,
            stream=True,
            partial_images=1,
            output_format="jpeg",
            extra_body=extra,
        )
    )
    assert [event.type.partition(".")[2] for event in events] == [
        "partial_image",
        "completed",
    ] * 2
    assert {from_base64(event.b64_json).format for event in events} == {"JPEG"}


def test_asynchronous_client(server):
    async def use():
        async with connect(server, kind=openai.AsyncOpenAI) as client:
            content = await client.images.generate(prompt="a cat", extra_body=SEEDED)
            stream = await client.images.generate(
                prompt="a cat", stream=True, partial_images=1, extra_body=SEEDED
            )
            events = [event async for event in stream]
            many = await asyncio.gather(
                *(
                    client.images.generate(prompt="a cat", extra_body=SEEDED | {"seed": seed})
                    for seed in range(5)
                )
            )
            return content, events, many

    content, events, many = asyncio.run(use())
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert events[1].b64_json == content.data[0].b64_json == many[1].data[0].b64_json
    assert len({answer.data[0].b64_json for answer in many}) == 5


def test_an_error_within_a_stream_is_raised(serve, tiny, monkeypatch):
    from ldmref.apps.server.openai.tasks import StreamedTask
    from ldmref.errors import NumericError

    def fail(self, model, report, cancel):
        raise NumericError("step 3 gave NaN", code="E-NAN")

    monkeypatch.setattr(StreamedTask, "run", fail)
    client = connect(serve({"tiny": tiny}))
    with pytest.raises(openai.APIError, match="step 3 gave NaN") as raised:
        list(client.images.generate(prompt="a cat", stream=True))
    assert raised.value.code == "E-NAN"


def test_a_client_that_leaves_a_stream_frees_its_place(server, client):
    before = len(server.engine.jobs())
    stream = client.images.generate(
        prompt="a cat", stream=True, partial_images=3, n=10, extra_body={"steps": 300}
    )
    next(iter(stream))
    assert len(server.engine.jobs()) == before + 1
    job = server.engine.jobs()[0]
    assert not job.has_ended
    stream.close()
    wait_until(lambda: job.has_ended)
    assert job.state == "cancelled"


def test_a_client_that_leaves_without_a_stream_frees_its_place(server):
    before = len(server.engine.jobs())
    content = json.dumps({"prompt": "a cat", "n": 10, "steps": 999}).encode()
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(head.encode() + content)
        wait_until(lambda: len(server.engine.jobs()) > before)
        job = server.engine.jobs()[0]
        wait_until(lambda: job.state == "running")
    wait_until(lambda: job.has_ended)
    assert job.state == "cancelled"


# -- edits ----------------------------------------------------------------------------------------


def test_edit_without_mask(client, tiny):
    image = Image.new("RGB", (24, 16), "teal")
    content = validated(
        ImagesResponse,
        client.images.edit(
            image=png_file(image), prompt="a cat", n=2, extra_body=SEEDED | {"strength": 0.6}
        ),
    )
    own = modes.img2img(tiny, "a cat", image, seed=1, steps=2, count=2, strength=0.6)
    images = [from_base64(image.b64_json) for image in content.data]
    assert all(np.array_equal(a, b) for a, b in zip(images, own, strict=True))
    assert content.usage.input_tokens_details.image_tokens == 12 * 8


@pytest.mark.parametrize("as_list", [False, True])
def test_edit_with_mask_changes_the_transparent_part_only(client, as_list):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    file = png_file(image)
    content = client.images.edit(
        image=[file] if as_list else file,
        mask=png_file(hole_mask()),
        prompt="a cat",
        extra_body=SEEDED,
    )
    differs = (np.asarray(from_base64(content.data[0].b64_json)) != np.asarray(image)).any(axis=2)
    hole = np.asarray(hole_mask())[..., 3] == 0
    assert not differs[~hole].any() and differs[hole].mean() > 0.9


def test_stream_of_an_edit(client):
    image = Image.new("RGB", (16, 16), "teal")
    (*partial, completed) = client.images.edit(
        image=png_file(image),
        mask=png_file(hole_mask()),
        prompt="a cat",
        stream=True,
        partial_images=2,
        extra_body={"seed": 1, "num_inference_steps": 6},
    )
    assert [event.partial_image_index for event in partial] == [0, 1]
    for event in partial:
        validated(ImageEditPartialImageEvent, event)
        shown = from_base64(event.b64_json)
        assert shown.getpixel((0, 0)) == image.getpixel((0, 0))  # a partial image is complete
    validated(ImageEditCompletedEvent, completed)


# -- models and refusals --------------------------------------------------------------------------


def test_models(client):
    (model,) = client.models.list().data
    assert validated(Model, model).id == "tiny"
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("models/other")
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("arguments", "error", "param", "code"),
    [
        ({"model": "tinny"}, openai.NotFoundError, "model", "model_not_found"),
        ({"size": "1x"}, openai.BadRequestError, "size", "invalid_value"),
        ({"n": 11}, openai.BadRequestError, "n", "invalid_value"),
        ({"background": "transparent"}, openai.BadRequestError, "background", "invalid_value"),
        ({"extra_body": {"num_inference_steps": 0}}, openai.BadRequestError, "num_inference_steps",
         "E-STEPS"),
        ({"extra_body": {"steps": "many"}}, openai.BadRequestError, "steps", "E-STEPS"),
        ({"extra_body": {"guidance_scale": 1e9}}, openai.BadRequestError, "guidance_scale",
         "E-CFG-SCALE"),
        ({"extra_body": {"stpes": 2}}, openai.BadRequestError, "stpes", "unknown_parameter"),
        ({"extra_body": {"width": "wide"}}, openai.BadRequestError, "width", "E-WIDTH"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(client, arguments, error, param, code):
    with pytest.raises(error) as refused:
        client.images.generate(prompt="a cat", **arguments)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"


def test_wrong_edits_are_refused(client, server):
    image = Image.new("RGB", (16, 16), "teal")
    cases = [
        ({"image": [png_file(image), png_file(image)]}, "image[]"),
        ({"image": ("a.txt", b"not an image", "image/png")}, "image"),
        ({"image": png_file(image), "mask": png_file(Image.new("L", (16, 16)))}, "mask"),
        ({"image": png_file(image), "mask": ("a.png", png_file(image)[1][:60])}, "mask"),
        ({"image": png_file(image), "extra_body": {"strength": 2}}, "strength"),
    ]
    for arguments, param in cases:
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.edit(prompt="a cat", **arguments)
        assert refused.value.param == param
    for body in ({"prompt": "a cat", "image": "/etc/passwd"}, {"prompt": "a cat"}):
        answer = server.client.post("/v1/images/edits", data=body, files={"other": b"x"})
        assert answer.status_code == 400
        answer = server.client.post("/v1/images/edits", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E-FORM")


def test_a_full_queue_is_told_as_a_rate_limit(serve, tiny):
    server = serve({"tiny": tiny}, queue=0)
    client = connect(server)
    stream = client.images.generate(
        prompt="a cat", stream=True, partial_images=3, extra_body={"steps": 999}
    )
    with pytest.raises(openai.RateLimitError) as refused:
        client.images.generate(prompt="a cat")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    stream.close()


# -- tokens and hosts -----------------------------------------------------------------------------


def test_the_token_is_a_key_or_a_password(serve):
    server = serve({"emoji": model_of_one_size()}, token="secret-token")
    assert connect(server, "secret-token").models.list().data
    with pytest.raises(openai.AuthenticationError):
        connect(server, "another-token").models.list()
    server.client.headers.pop("authorization")
    for client, name, status in [
        ("openai", "generate", 200),
        ("open_webui", "openai_generate", 200),
        ("open_webui", "verify", 401),
        ("open_webui", "verify_with_password", 200),
        ("sillytavern", "ping", 200),
        ("sillytavern", "ping_without_auth", 401),
        ("webuiapi", "scripts", 401),
        ("webuiapi", "scripts_with_password", 200),
    ]:
        answer = replay(server, recorded(client, name))
        assert answer.status_code == status, (client, name)
        if status == 401:
            shape = {"error", "detail", "body", "errors"}
            assert {*answer.json()} == shape


def test_a_container_reaches_the_server_by_another_name(serve):
    models = {"emoji": model_of_one_size()}
    request = recorded("open_webui", "verify")
    for server, status in (
        (serve(models), 403),
        (serve(models, allow_host=("host.docker.internal",)), 200),
    ):
        answer = server.client.get(request["path"], headers=request["headers"])
        assert answer.status_code == status
