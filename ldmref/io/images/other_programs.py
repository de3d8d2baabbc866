"""What other programs write into their images, as lines for people.

| program        | PNG                                    | JPEG and WebP                     |
|----------------|----------------------------------------|-----------------------------------|
| ComfyUI        | chunks `prompt` and `workflow`         | EXIF Model `prompt:{...}`, Make   |
| Draw Things    | XMP: `exif:UserComment`, JSON          | the same, or the user comment     |
| Easy Diffusion | a chunk for each setting               | the user comment, JSON            |
| Fooocus        | `parameters`, and `fooocus_scheme`     | the user comment, and Software    |
| InvokeAI       | `invokeai_metadata`, older: two others |                                   |
| mflux          | the user comment, JSON, and XMP        | the same                          |
| NovelAI        | `Comment`, JSON, and `Software`        |                                   |
| SwarmUI        | `parameters`, JSON                     | the user comment, older: Model    |

Names and numbers stay those of the program: its `scale` or `shift` may be another one here.

Sources: Comfy-Org/ComfyUI, comfy_api/latest/_ui.py; lllyasviel/Fooocus, modules/meta_parser.py;
mcmonkeyprojects/SwarmUI, src/Utils/Image.cs and docs/Image Metadata Format.md;
easydiffusion/easydiffusion, ui/easydiffusion/utils/save_utils.py, and easydiffusion/sdkit,
sdkit/utils/file_utils.py; Draw Things' files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from PIL import ExifTags, Image

from ldmref.io.images.comfyui import describe_graph, read_graph
from ldmref.io.images.metadata import NOTE_PREFIX, decode_user_comment, read_exif

CHUNKS = {  # key of a PNG -> the program that writes it
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "Comment": "NovelAI or others",
}
GRAPHS = ("workflow", "invokeai_graph")  # which are named, and no more
NESTED = ("sui_image_params", "image")  # where SwarmUI and InvokeAI keep the settings
OTHER = "another program"
JSON_KEYS = {  # keys that are all in a JSON record -> the program that writes it
    ("sui_image_params",): "SwarmUI",
    ("mflux_version",): "mflux",
    ("full_negative_prompt",): "Fooocus",
    ("adm_guidance",): "Fooocus",
    ("metadata_scheme",): "Fooocus",
    ("use_stable_diffusion_model",): "Easy Diffusion",
    ("Stable Diffusion model",): "Easy Diffusion",
    ("c", "uc"): "Draw Things",
}
EASY_DIFFUSION = (  # its names of settings, each a chunk of a PNG; or the words for them
    "prompt", "negative_prompt", "seed", "use_stable_diffusion_model", "clip_skip",
    "use_controlnet_model", "control_filter_to_apply", "use_vae_model", "sampler_name", "width",
    "height", "num_inference_steps", "guidance_scale", "prompt_strength", "use_lora_model",
    "lora_alpha", "use_hypernetwork_model", "hypernetwork_strength", "use_embeddings_model",
    "tiling", "use_face_correction", "use_upscale", "upscale_amount", "latent_upscaler_steps",
    "Prompt", "Negative Prompt", "Seed", "Stable Diffusion model", "Clip Skip", "ControlNet model",
    "ControlNet Filter", "VAE model", "Sampler", "Width", "Height", "Steps", "Guidance Scale",
    "Prompt Strength", "LoRA model", "LoRA Strength", "Hypernetwork model", "Hypernetwork Strength",
    "Embedding models", "Seamless Tiling", "Use Face Correction", "Use Upscaling", "Upscale By",
    "Latent Upscaler Steps",
)  # fmt: skip
SOFTWARE = 0x0131  # of EXIF
PREFIXED = re.compile(r"\s*(\w{1,40}):\s*(?=\{)")  # ComfyUI's name before its JSON
MOST_VALUES = 50  # of a record, and fields of EXIF
MOST_LETTERS = 200  # of a list or table in a record
XMP = ("xmp", "XML:com.adobe.xmp")  # of Pillow's reader, and as a text chunk
TAGS = r"(?:\s*+<[^<>]{0,400}+>){0,8}+\s*+"  # between an element of XMP and its text
DESCRIPTION = "dc:description"
XMP_VALUE = re.compile(r"<mflux:(\w{1,40})>([^<]{0,1000})</")
XMP_TEXT = re.compile(rf"<(dc:description|exif:UserComment)>{TAGS}([^<]{{1,50000}})")
XMP_TOOL = re.compile(r"<xmp:CreatorTool>\s{0,9}Draw Things")


@dataclass(frozen=True)
class OtherRecord:
    """What a program wrote into one place of an image.

    Attributes:
        key: The place: a chunk of a PNG, a field of EXIF, or `xmp`.
        program: The program that wrote it.
        values: The settings, by the program's own names; {} if they are not read.
        graph: ComfyUI's graph of nodes.
    """

    key: str
    program: str
    values: Mapping[str, Any] = field(default_factory=dict)
    graph: Mapping[str, Any] = field(default_factory=dict)


def find_programs(info: Mapping[Any, Any], text: str = "") -> dict[str, str]:
    """Return {key: program} for what other programs wrote.

    Args:
        info: The image's metadata, as Pillow reads them.
        text: The text where A1111 writes its own (`read_parameters`), which belongs to another
            program if it is JSON.
    """
    return {record.key: record.program for record in read_other_records(info, text)}


def describe_other_programs(info: Mapping[Any, Any], text: str = "") -> list[str]:
    """Return a line for each record of another program, and for what they record."""
    records = read_other_records(info, text)
    lines = [f"also contains {record.key!r}, written by {record.program}" for record in records]
    for record in records:
        if record.values:
            lines.append(_describe_values(record))
        elif nodes := describe_graph(record.graph):
            lines += [*nodes, f"the graph of {record.program} is not repeated by ldmref"]
    return lines


def read_other_records(info: Mapping[Any, Any], text: str = "") -> list[OtherRecord]:
    """Return what other programs wrote, at most one record for each place.

    Args:
        info: The image's metadata, as Pillow reads them.
        text: The text where A1111 writes its own, as for `find_programs`.
    """
    exif = _read_exif(info.get("exif"))
    fooocus = "fooocus_scheme" in info or exif.get("Software", "").startswith("Fooocus")
    records = [*_read_chunks(info)]
    if record := _read_text("parameters", text):
        if fooocus and record.program == OTHER:
            record = OtherRecord(record.key, "Fooocus", record.values)
        records.append(record)
    for name, words in exif.items():
        if words != text and (record := _read_text(name, words)):
            records.append(record)
    records += filter(None, [_read_xmp(info)])
    return [*{record.key: record for record in reversed(records)}.values()][::-1]


def read_json_record(text: str) -> tuple[str, dict[str, Any]] | None:
    """Return (program, values) of a record in JSON; None for any other text.

    The program is "another program" if it is not known.

    >>> read_json_record('{"mflux_version": "0.9", "seed": 3}')
    ('mflux', {'mflux_version': '0.9', 'seed': 3})
    """
    values = _read_object(text)
    if not values:
        return None
    program = next((name for keys, name in JSON_KEYS.items() if {*keys} <= {*values}), OTHER)
    if program == OTHER and str(values.get("version", "")).startswith("Fooocus"):
        program = "Fooocus"
    return program, _unnested(values)


def read_mflux_xmp(info: Mapping[Any, Any]) -> dict[str, str]:
    """Return the values in mflux's XMP, {} if there is none."""
    packet = _find_xmp(info)
    if "<mflux:" not in packet:
        return {}
    texts = dict(XMP_TEXT.findall(packet)[:MOST_VALUES])
    values = {"prompt": texts[DESCRIPTION]} if DESCRIPTION in texts else {}
    values |= dict(XMP_VALUE.findall(packet)[:MOST_VALUES])
    return {name: unescape(value) for name, value in values.items()}


def _read_object(text: str) -> dict[str, Any]:
    """Return the object of a text in JSON, {} for any other text."""
    if not text.lstrip().startswith("{"):
        return {}
    with suppress(ValueError, RecursionError):
        values = json.loads(text)
        return values if isinstance(values, dict) else {}
    return {}


def _unnested(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a record; some programs keep them in an object of it."""
    nested = (values.get(name) for name in NESTED)
    return next((value for value in nested if isinstance(value, dict)), values)


def _read_chunks(info: Mapping[Any, Any]) -> Iterator[OtherRecord]:
    """Yield the records in text chunks of a PNG."""
    texts = {key: value for key, value in info.items() if isinstance(value, str)}
    settings = {key: texts[key] for key in EASY_DIFFUSION if key in texts}
    if {"use_stable_diffusion_model", "Stable Diffusion model"} & {*settings}:
        yield OtherRecord(
            "prompt" if "prompt" in settings else "Prompt", "Easy Diffusion", settings
        )
        texts = {key: value for key, value in texts.items() if key not in settings}
    for key, program in CHUNKS.items():
        if key not in texts:
            continue
        words = texts[key]
        if key == "prompt" and not words.lstrip().startswith(("{", "[")):
            yield OtherRecord(key, OTHER, {key: words})
        elif program == "ComfyUI":
            yield OtherRecord(key, program, graph=read_graph(words) if key == "prompt" else {})
        else:
            named = "NovelAI" if texts.get("Software") == "NovelAI" else "NovelAI or others"
            values = {} if key in GRAPHS else _unnested(_read_object(words))
            values = {key: words} if key == "Dream" else values
            yield OtherRecord(key, named if key == "Comment" else program, values)


def _read_text(key: str, text: str) -> OtherRecord | None:
    """Return the record in a text: JSON, ComfyUI's with its name before it; None without one."""
    prefix = PREFIXED.match(text)
    if prefix and (prefix[1].lower() in ("prompt", "workflow")):
        name = prefix[1].lower()
        graph = read_graph(text[prefix.end() :]) if name == "prompt" else {}
        return OtherRecord(name, "ComfyUI", graph=graph)
    found = read_json_record(text)
    if found is None:
        return None
    program, values = found
    if graph := read_graph(values.get("prompt")):  # nodes of ComfyUI that save other formats
        return OtherRecord(key, "ComfyUI", graph=graph)
    return OtherRecord(key, program, values)


def _read_exif(data: object) -> dict[str, str]:
    """Return the texts of EXIF by the names of their fields; {} if it is damaged."""
    if not isinstance(data, bytes):
        return {}

    def load() -> Image.Exif:
        exif = Image.Exif()
        exif.load(data)
        return exif

    texts = {}
    for tag, value in [*read_exif(load).items()][:MOST_VALUES]:
        if isinstance(value, str | bytes) and value and not _is_ours(value):
            texts[ExifTags.TAGS.get(tag, hex(tag))] = decode_user_comment(value)
    return texts


def _is_ours(value: str | bytes) -> bool:
    return isinstance(value, bytes) and value.startswith(NOTE_PREFIX)


def _find_xmp(info: Mapping[Any, Any]) -> str:
    """Return the packet of XMP, "" without one."""
    packets = (info.get(key) for key in XMP)
    packet = next((packet for packet in packets if isinstance(packet, str | bytes)), "")
    return packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet


def _read_xmp(info: Mapping[Any, Any]) -> OtherRecord | None:
    """Return the record of mflux or Draw Things in XMP."""
    if values := read_mflux_xmp(info):
        return OtherRecord("xmp", "mflux", values)
    packet = _find_xmp(info)
    texts = {name: unescape(text) for name, text in XMP_TEXT.findall(packet)[:MOST_VALUES]}
    found = read_json_record(texts.get("exif:UserComment", ""))
    if found and found[0] == "Draw Things":
        return OtherRecord("xmp", *found)
    if XMP_TOOL.search(packet):
        described = texts.get(DESCRIPTION, "")
        return OtherRecord("xmp", "Draw Things", {"description": described} if described else {})
    return None


def _describe_values(record: OtherRecord) -> str:
    """Return one line with every value of a record; lists and tables are shortened."""
    listed = []
    for name, value in [*record.values.items()][:MOST_VALUES]:
        if isinstance(value, list | dict):
            with suppress(ValueError, RecursionError):
                words = json.dumps(value, ensure_ascii=False)
                listed.append(f"{name} {words[:MOST_LETTERS]}")
        elif isinstance(value, str | int | float) and value != "":
            listed.append(f"{name} {value}")
    return f"recorded by {record.program}, not repeated by ldmref: {', '.join(listed)}"
