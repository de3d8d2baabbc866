"""Image files as other programs write them, built byte by byte.

As the programs' own libraries do (PIL, piexif, ImageSharp, Apple's ImageIO): a TIFF folder for
EXIF, chunks of PNG and of RIFF, and segments of JPEG.
"""

from __future__ import annotations

import io
import json
import struct
import zlib

from PIL import Image

FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)",
    "base_model": "juggernautXL_v8",
    "full_negative_prompt": ["blurry"],
    "full_prompt": ["a cat: 1, b: 2, Steps: 3, Seed: 4, x: 5"],
    "guidance_scale": 4.0,
    "prompt": "a cat: 1, b: 2, Steps: 3, Seed: 4, x: 5",
    "seed": "1234567",
    "steps": 30,
    "version": "Fooocus v2.5.0",
}
SWARM = {"sui_image_params": {"prompt": "a cat", "seed": 7, "steps": 20, "cfgscale": 7.0}}
MFLUX = {"mflux_version": "0.9.0", "seed": 3, "steps": 4, "guidance": None, "prompt": "a cat"}

MODEL, MAKE, SOFTWARE, COMMENT, NOTE, FOLDER = 0x0110, 0x010F, 0x0131, 0x9286, 0x927C, 0x8769
ASCII, UNDEFINED, LONG = 2, 7, 4  # types of TIFF
EASY = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "seed": 3,
    "use_stable_diffusion_model": "sd-v1-5",
    "sampler_name": "euler_a",
    "num_inference_steps": 25,
    "guidance_scale": 7.5,
}
EASY_WORDS = {"Prompt": "a cat", "Seed": 3, "Stable Diffusion model": "sd-v1-5", "Steps": 25}
DRAW_THINGS = {
    "c": "a cat & <dog>",
    "uc": "blurry",
    "model": "flux_1_schnell_q5p.ckpt",
    "sampler": "Euler A Trailing",
    "scale": 1,
    "seed": 1172910896,
    "steps": 4,
    "v2": {"shift": 3.1, "loras": []},
}
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 8, "model": ["4", 0]}}}
NODE = "KSampler: seed 8"
NOVEL_AI = {"prompt": "a cat", "steps": 28, "scale": 5.0, "uc": "blurry", "seed": 9}
INVOKE_AI = {"positive_prompt": "a cat", "seed": 5, "steps": 30, "model": {"name": "sdxl"}}


def tiff(entries, order="<", base=0):
    """Return a TIFF with a folder of (tag, type, bytes), all longer than four bytes."""
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return start + folder(entries, order, 8)


def folder(entries, order, offset):
    after = offset + 2 + 12 * len(entries) + 4
    table, data = struct.pack(order + "H", len(entries)), b""
    for tag, kind, value in sorted(entries):
        if kind == LONG:  # another folder, which begins here
            table += struct.pack(order + "HHII", tag, kind, 1, after + len(data))
            data += folder(value, order, after + len(data))
        else:
            table += struct.pack(order + "HHII", tag, kind, len(value), after + len(data))
            data += value + b"\0" * (len(value) % 2)
    return table + bytes(4) + data


def png(*chunks):
    """Return a PNG of one pixel with chunks (kind, bytes) before its pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(b"\0\1\2\3")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def words(name, text):
    return b"tEXt", name.encode() + b"\0" + str(text).encode("latin-1")


def itxt(name, text):
    return b"iTXt", name.encode() + b"\0\0\0\0\0" + text.encode()


def jpeg(*segments):
    """Return a JPEG with segments APP1 behind its beginning."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    plain = buffer.getvalue()
    added = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)
    return plain[:2] + added + plain[2:]


def webp(exif):
    """Return a WebP of the extended format with a chunk of EXIF."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", lossless=True)
    picture = buffer.getvalue()[12:]
    head = struct.pack("<I", 8) + (7).to_bytes(3, "little") + (7).to_bytes(3, "little")
    body = b"VP8X" + struct.pack("<I", 10) + head[:4] + head[4:] + picture
    body += b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def xmp(record):
    """Return XMP as Draw Things writes it."""
    text = json.dumps(record).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 6.0.0">
   <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
      <rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/">
         <dc:description><rdf:Alt>
            <rdf:li xml:lang="x-default">a cat&#xA;-blurry&#xA;Steps: 4</rdf:li>
         </rdf:Alt></dc:description>
         <xmp:CreatorTool>Draw Things</xmp:CreatorTool>
         <exif:UserComment>
            <rdf:Alt>
               <rdf:li xml:lang="x-default">{text}</rdf:li>
            </rdf:Alt>
         </exif:UserComment>
      </rdf:Description>
   </rdf:RDF>
</x:xmpmeta>"""


def comment(record, name=b"UNICODE\0", encoding="utf-16-le"):
    return COMMENT, UNDEFINED, name + json.dumps(record).encode(encoding)


def exif_of_comfyui():
    prompt = b"prompt:" + json.dumps(GRAPH).encode() + b"\0"
    return [(MODEL, ASCII, prompt), (MAKE, ASCII, b'workflow:{"nodes": []}\0')]


def exif_of_fooocus(text):
    """All three in the first folder, as Pillow writes what is assigned to `Image.Exif`."""
    return [
        (COMMENT, ASCII, json.dumps(text).encode() + b"\0"),
        (SOFTWARE, ASCII, b"Fooocus v2.5.5\0"),
        (NOTE, ASCII, b"fooocus\0"),
    ]


PLAIN = {"prompt": "a cat", "seed": "12", "steps": 30}  # without a key of Fooocus
XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
EXIF_SEGMENT = b"Exif\0\0"
FILES = {  # name -> (bytes, {place: program}, what a description says)
    "comfyui png": (png(words("prompt", json.dumps(GRAPH))), {"prompt": "ComfyUI"}, NODE),
    "comfyui webp": (
        webp(tiff(exif_of_comfyui())),
        {"prompt": "ComfyUI", "workflow": "ComfyUI"},
        NODE,
    ),
    "comfyui jpeg": (
        jpeg(EXIF_SEGMENT + tiff(exif_of_comfyui(), ">")),
        {"prompt": "ComfyUI", "workflow": "ComfyUI"},
        NODE,
    ),
    "comfyui's nodes for other formats": (
        webp(tiff([(FOLDER, LONG, [comment({"prompt": GRAPH, "workflow": {}})])])),
        {"parameters": "ComfyUI"},
        NODE,
    ),
    "draw things png": (
        png(itxt("XML:com.adobe.xmp", xmp(DRAW_THINGS))),
        {"xmp": "Draw Things"},
        "c a cat & <dog>, uc blurry, model flux_1_schnell_q5p.ckpt",
    ),
    "draw things jpeg": (
        jpeg(XMP_SEGMENT + xmp(DRAW_THINGS).encode()),
        {"xmp": "Draw Things"},
        'scale 1, seed 1172910896, steps 4, v2 {"shift": 3.1',
    ),
    "draw things jpeg, user comment": (
        jpeg(
            EXIF_SEGMENT + tiff([(FOLDER, LONG, [comment(DRAW_THINGS, b"ASCII\0\0\0", "ascii")])])
        ),
        {"parameters": "Draw Things"},
        "c a cat & <dog>, uc blurry",
    ),
    "easy diffusion png": (
        png(*(words(key, value) for key, value in EASY.items())),
        {"prompt": "Easy Diffusion"},
        "prompt a cat, negative_prompt blurry, seed 3, use_stable_diffusion_model sd-v1-5",
    ),
    "easy diffusion png, words": (
        png(*(words(key, value) for key, value in EASY_WORDS.items())),
        {"Prompt": "Easy Diffusion"},
        "Prompt a cat, Seed 3, Stable Diffusion model sd-v1-5, Steps 25",
    ),
    "easy diffusion jpeg": (
        jpeg(EXIF_SEGMENT + tiff([(FOLDER, LONG, [comment(EASY, encoding="utf-16-be")])], ">")),
        {"parameters": "Easy Diffusion"},
        "num_inference_steps 25, guidance_scale 7.5",
    ),
    "fooocus png": (
        png(words("parameters", json.dumps(PLAIN)), words("fooocus_scheme", "fooocus")),
        {"parameters": "Fooocus"},
        "prompt a cat, seed 12, steps 30",
    ),
    "fooocus jpeg": (
        jpeg(EXIF_SEGMENT + tiff(exif_of_fooocus(PLAIN))),
        {"parameters": "Fooocus"},
        "prompt a cat, seed 12, steps 30",
    ),
    "fooocus webp": (
        webp(tiff(exif_of_fooocus(FOOOCUS))),
        {"parameters": "Fooocus"},
        'full_negative_prompt ["blurry"]',
    ),
    "swarmui png": (
        png(itxt("parameters", json.dumps(SWARM, indent=2))),
        {"parameters": "SwarmUI"},
        "prompt a cat, seed 7, steps 20, cfgscale 7.0",
    ),
    "swarmui jpeg": (
        jpeg(EXIF_SEGMENT + tiff([(FOLDER, LONG, [comment(SWARM)])])),
        {"parameters": "SwarmUI"},
        "prompt a cat, seed 7, steps 20, cfgscale 7.0",
    ),
    "swarmui jpeg, older": (
        jpeg(EXIF_SEGMENT + tiff([(MODEL, ASCII, json.dumps(SWARM).encode() + b"\0")])),
        {"Model": "SwarmUI"},
        "prompt a cat, seed 7, steps 20, cfgscale 7.0",
    ),
    "novelai": (
        png(words("Software", "NovelAI"), words("Comment", json.dumps(NOVEL_AI))),
        {"Comment": "NovelAI"},
        "prompt a cat, steps 28, scale 5.0, uc blurry, seed 9",
    ),
    "invokeai": (
        png(itxt("invokeai_metadata", json.dumps(INVOKE_AI)), itxt("invokeai_graph", "{}")),
        {"invokeai_metadata": "InvokeAI", "invokeai_graph": "InvokeAI"},
        'positive_prompt a cat, seed 5, steps 30, model {"name": "sdxl"}',
    ),
    "a prompt of nobody": (png(words("prompt", "a cat")), {"prompt": "another program"}, "a cat"),
}
