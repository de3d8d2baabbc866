"""Record the requests of the packages webuiapi and openai: `python record.py`.

The packages talk to a server that writes down every request and gives a minimal answer. Their
requests become `webuiapi.json` and `openai.json` in this folder. Open WebUI and SillyTavern are
applications, so `open_webui.json` and `sillytavern.json` are written by hand from their sources,
which these files name.
"""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
RECORDED = []
KEPT = ("accept", "authorization", "content-type", "user-agent")  # headers that servers look at


def make_image():
    """A red square on white, 32 x 32."""
    image = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(image).rectangle((8, 8, 23, 23), fill="red")
    return image


def make_mask():
    """White where the square is: A1111 repaints white."""
    mask = Image.new("L", (32, 32), 0)
    ImageDraw.Draw(mask).rectangle((8, 8, 23, 23), fill=255)
    return mask


def make_png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_alpha_mask():
    """Transparent where the square is: OpenAI edits transparent parts."""
    mask = Image.new("RGBA", (32, 32), "black")
    ImageDraw.Draw(mask).rectangle((8, 8, 23, 23), fill=(0, 0, 0, 0))
    return mask


def make_answer(path, body):
    """The least that each package accepts as an answer."""
    image = base64.b64encode(make_png(make_image())).decode()
    if path == "/sdapi/v1/progress":
        return {"progress": 0.0, "eta_relative": 0.0, "state": {"job_count": 0}}
    if path == "/sdapi/v1/scripts":
        return {"txt2img": [], "img2img": []}
    if path.startswith("/sdapi/v1/") and path.endswith("2img"):
        return {"images": [image], "parameters": {}, "info": "{}"}
    if path == "/sdapi/v1/png-info":
        return {"info": "", "items": {}, "parameters": {}}
    if path == "/v1/models":
        return {"object": "list", "data": []}
    if path.startswith("/v1/models/"):
        return {"id": "emoji", "object": "model", "created": 0, "owned_by": "ldmref"}
    if path.startswith("/v1/images/"):
        return {"created": 0, "data": [{"b64_json": image}]}
    return []


class Recorder(BaseHTTPRequestHandler):
    """Writes down requests in the order of their arrival."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        kind = self.headers.get("Content-Type", "")
        request = {
            "method": self.command,
            "path": self.path,
            "headers": {
                name: value for name, value in sorted(self.headers.items()) if name.lower() in KEPT
            },
        }
        if kind.startswith("application/json"):
            request["json"] = json.loads(body)
        elif body:
            request["base64"] = base64.b64encode(body).decode()
        RECORDED.append(request)
        if b'"stream":true' in body or b'name="stream"\r\n\r\ntrue' in body:
            content, kind = b"data: [DONE]\n\n", "text/event-stream"
        else:
            content, kind = json.dumps(make_answer(self.path, body)).encode(), "application/json"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


def use_webuiapi(port):
    """Yield a name for each call, after the call."""
    import webuiapi

    api = webuiapi.WebUIApi("127.0.0.1", port)
    yield "scripts"
    api.get_options()
    yield "options"
    api.set_options({"sd_model_checkpoint": "emoji"})
    yield "set_options"
    for name in ("samplers", "schedulers", "sd_models", "sd_vae", "upscalers", "loras"):
        getattr(api, f"get_{name}")()
        yield name
    api.get_latent_upscale_modes()
    yield "latent_upscale_modes"
    api.txt2img(prompt="a red heart", seed=1)
    yield "txt2img"
    api.txt2img(
        prompt="a red heart",
        negative_prompt="blue",
        seed=7,
        steps=2,
        cfg_scale=3,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        batch_size=2,
        n_iter=2,
    )
    yield "txt2img_many"
    api.img2img(images=[make_image()], prompt="a red heart", seed=1, steps=4)
    yield "img2img"
    api.img2img(
        images=[make_image()],
        mask_image=make_mask(),
        inpainting_fill=1,
        inpaint_full_res_padding=8,
        prompt="a red heart",
        seed=1,
        steps=4,
    )
    yield "inpaint"
    api.get_progress()
    yield "progress"
    api.interrupt()
    yield "interrupt"
    api.skip()
    yield "skip"
    api.png_info(make_image())
    yield "png_info"
    webuiapi.WebUIApi("127.0.0.1", port, username="ldmref", password="secret-token")
    yield "scripts_with_password"


def use_openai(port):
    """Yield a name for each call, after the call."""
    import openai

    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="secret-token", max_retries=0
    )
    client.models.list()
    yield "models"
    client.models.retrieve("emoji")
    yield "model"
    images = client.images
    images.generate(prompt="a red heart", model="emoji")
    yield "generate"
    images.generate(
        prompt="a red heart",
        model="emoji",
        n=2,
        size="1024x1024",
        quality="high",
        background="opaque",
        output_format="webp",
        output_compression=80,
        moderation="low",
        user="someone",
        extra_body={"seed": 1, "num_inference_steps": 2, "guidance_scale": 3.0},
    )
    yield "generate_everything"
    seed = {"seed": 1}
    list(images.generate(prompt="a red heart", stream=True, partial_images=2, extra_body=seed))
    yield "generate_stream"
    png = ("image.png", make_png(make_image()), "image/png")
    mask = ("mask.png", make_png(make_alpha_mask()), "image/png")
    images.edit(image=png, prompt="a red heart", extra_body=seed)
    yield "edit"
    images.edit(image=[png], mask=mask, prompt="a red heart", size="auto", extra_body=seed)
    yield "edit_with_mask"
    list(images.edit(image=png, mask=mask, prompt="a red heart", stream=True, partial_images=1))
    yield "edit_stream"


def record(package, use):
    """Write the requests of a package as JSON."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    recorded = {}
    for name in use(server.server_port):
        (recorded[name],) = RECORDED
        RECORDED.clear()
    server.shutdown()
    server.server_close()
    content = {
        "client": f"{package} {version(package)}",
        "source": "recorded by record.py, which runs the package",
        "requests": recorded,
    }
    path = HERE / f"{package}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    record("webuiapi", use_webuiapi)
    record("openai", use_openai)
