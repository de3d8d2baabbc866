"""The options that several commands share."""

from __future__ import annotations

import click

from ldmref.apps.cli.options import PATH, LoraFile, option
from ldmref.apps.cli.output import FORMATS
from ldmref.apps.cli.progress import STYLES

PROMPT = (
    click.argument("words", metavar="[PROMPT]...", nargs=-1),
    option(
        "-p",
        "--prompt",
        metavar="TEXT",
        multiple=True,
        help="What to generate; - reads prompts from standard input, one per line. May be "
        "repeated.",
    ),
    option(
        "--prompts",
        type=PATH,
        metavar="FILE",
        help="File with more prompts, one per line; - is standard input.",
    ),
)
MODEL_NAME = option(
    "-m",
    "--model",
    type=PATH,
    metavar="NAME|FILE|FOLDER",
    help="Model: a name from ldmref models, a folder, a .safetensors or .gguf file, or "
    "OWNER/MODEL from Hugging Face. Default: emoji, which comes with ldmref.",
)
BACKEND = (
    option(
        "--backend",
        metavar="NAME",
        help="Library that computes: numpy, torch, onnx, openvino, cupy or a plug-in; see ldmref "
        "backends. Default: numpy.",
    ),
    option("--device", metavar="NAME", help="Device: cpu, cuda:0, ... Default: the backend's."),
    option(
        "--dtype",
        metavar="NAME",
        help="Number format: float64, float32, float16 or bfloat16. Default: float32.",
    ),
    option(
        "--speed",
        metavar="NAME",
        help="exact, fast or fastest; the faster ones round differently: see "
        "docs/performance.md. Default: by --backend and --dtype.",
    ),
)
LIMITS = (
    option(
        "--max-memory",
        metavar="SIZE",
        help="Memory limit, e.g. 5GB. If needed, one network or block at a time is in memory.",
    ),
    option(
        "--max-seconds",
        type=float,
        metavar="N",
        help="Refuse a request that would take longer than N seconds.",
    ),
)
CONFIG = option(
    "--config", type=PATH, metavar="FILE", help="Configuration file. Default: ./ldmref.toml."
)
FINDING = (  # which file a model is in, and which of its weights are read
    option(
        "--fetch", is_flag=True, help="Download OWNER/MODEL from Hugging Face if it is not cached."
    ),
    option(
        "--variant",
        metavar="NAME",
        help="Which weights to read from a folder with several, e.g. fp16.",
    ),
    option(
        "--ema/--no-ema",
        default=None,
        help="Read the averaged or the last weights of a training checkpoint. Default: the "
        "model family's published choice.",
    ),
    option(
        "--model-config",
        type=PATH,
        metavar="NAME|FOLDER",
        help="Configuration for a single file that does not determine its own.",
    ),
)
TOKENIZER = option(
    "--tokenizer",
    type=PATH,
    metavar="FILE|FOLDER",
    help="Vocabulary of CLIP, if the model does not include it, or a folder with one for each "
    "text encoder (tokenizer, tokenizer_2, ...).",
)
ALLOW_NONFINITE = option(
    "--allow-nonfinite", is_flag=True, help="Accept weights that are NaN or infinite."
)
LORA = option(
    "--lora",
    "loras",
    type=LoraFile(),
    multiple=True,
    help="LoRA file to apply; the default WEIGHT is 1. May be repeated.",
)
CHANGING = (  # what completes or changes a model
    option(
        "--vae", type=PATH, metavar="FILE|FOLDER", help="Use another autoencoder, such as TAESD."
    ),
    option(
        "--text-encoder",
        "text_encoders",
        type=PATH,
        multiple=True,
        metavar="FILE",
        help="Text encoder in a file of its own, such as clip_l or t5xxl. May be repeated.",
    ),
    LORA,
)
EMBEDDING = option(
    "--embedding",
    "embeddings",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="Textual inversion file, which adds a word to use in prompts. May be repeated.",
)
LOADING = (*FINDING, TOKENIZER, ALLOW_NONFINITE, *CHANGING, EMBEDDING)
MODEL = (MODEL_NAME, *LOADING, *BACKEND, *LIMITS, CONFIG)
OUTPUT = option(
    "-o",
    "--output",
    type=PATH,
    metavar="FILE|FOLDER|-",
    help="Where to write; - is standard output. FOLDER/ is created if needed; a file name may "
    "contain {prompt}, {seed} and {index}. Default: ./PROMPT-SEED.png.",
)
SAVING = (
    OUTPUT,
    option("--overwrite", is_flag=True, help="Replace existing files."),
    option(
        "--format",
        "kind",
        type=click.Choice(list(FORMATS)),
        help="Image format. Default: given by the file name, otherwise png.",
    ),
    option("--no-metadata", is_flag=True, help="Do not record in the image how it was made."),
    option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object per image on standard output.",
    ),
)
PREVIEW = (
    option(
        "--preview",
        is_flag=True,
        help="Show the image while it is generated: in the terminal if it can show images, "
        "otherwise in a temporary file.",
    ),
    option(
        "--preview-file",
        type=PATH,
        metavar="FILE",
        help="Show the image while it is generated in this file, which is updated.",
    ),
)
VERBOSITY = (
    option("-q", "--quiet", is_flag=True, help="Print only errors."),
    option(
        "-v",
        "--verbose",
        is_flag=True,
        help="Also print settings and memory use, and tracebacks of errors.",
    ),
    option(
        "--progress",
        type=click.Choice(STYLES),
        default="auto",
        help="How to show progress. Default: a bar if standard error is a terminal.",
    ),
)
FILES = (*SAVING, *PREVIEW, *VERBOSITY)
SHEET = (
    option(
        "--sheet", is_flag=True, help="Write all images into one file, a labelled contact sheet."
    ),
)
INVERTING = (
    option(
        "--edit",
        "edits",
        multiple=True,
        metavar="TEXT",
        help="Prompt to generate from the noise of the image. May be repeated. Default: the "
        "prompt, which gives the image back.",
    ),
    option(
        "--batch",
        "batch_size",
        type=int,
        metavar="N",
        help="Number of images generated together. Default: 1.",
    ),
    option(
        "--tile", type=int, metavar="N", help="Decode in tiles of N x N px, which saves memory."
    ),
    option(
        "--noise",
        type=PATH,
        metavar="FILE",
        help="Also save the noise, as a .npy file for --latents.",
    ),
)
INTERPOLATING = (
    option("--to", "--prompt-b", "to", metavar="TEXT", help="Last prompt. Default: the first one."),
    option(
        "-c",
        "--count",
        "--frames",
        "frames",
        type=int,
        default=8,
        show_default=True,
        metavar="N",
        help="Number of images, evenly spaced.",
    ),
    option(
        "--animate",
        is_flag=True,
        default=False,
        help="Write one animated WebP, or a GIF with -o NAME.gif.",
    ),
    option(
        "--duration",
        type=click.IntRange(10, 60_000),
        default=100,
        show_default=True,
        metavar="MS",
        help="Time in milliseconds for which an animation shows each image.",
    ),
)
