"""The needs of the pages, and those of their commands and blocks that do not simply run.

A page that is not in `PAGES` needs nothing. Each command of a shell block, and each other block,
runs as it is written, unless a row of `EXCEPTIONS` whose text it contains says otherwise. Outputs
(```text) follow the Python block that prints them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from blocks import ROOT, SHELL, Block, blocks, pages


class Page(NamedTuple):
    """The files in the folder of a page's readers (see `materials.py`), and how the page runs."""

    has: tuple[str, ...] = ()
    settings: str = ""  # how its TOML blocks are read: "settings" or "recipe"
    torch_is_slow: bool = False  # it runs with torch in `make slow` only
    is_slow: bool = False  # it runs in `make slow` only


class Reason(NamedTuple):
    """The reason why something does not simply run."""

    kind: str  # "torch", "gpu", "slow", "begins", "exits", "elsewhere" or "not run"
    detail: str = ""
    code: int = 0


TORCH = Reason("torch")  # left out without torch
PLOT = Reason("torch")  # or without matplotlib
ONNX = Reason("torch")  # or without onnx, onnxruntime and openvino
GPU = Reason("gpu")
SLOW = Reason("slow")
BEGINS = Reason("begins")  # a long training, slow too: stopped when its first step is saved
NETWORK = Reason("not run", "needs the network")
HOURS = Reason("not run", "takes hours")
MLX_EXAMPLES = Reason("not run", "needs mlx-examples, which benchmarks/ports/run.py clones")
DIFFSYNTH = Reason("not run", "needs DiffSynth-Studio, which benchmarks/ports/run.py installs")
FRAGMENT = Reason("elsewhere", "tests/docs/test_contributing.py")
OUTPUT = Reason("elsewhere", "tests/docs/test_shown_outputs.py")


def elsewhere(test: str) -> Reason:
    return Reason("elsewhere", test)


PLUGIN = {"": elsewhere("tests/plugins/test_example_plugins.py")}
FURTHER = {"": elsewhere("tests/course/test_further_pages.py")}
COURSE = {
    "--against answers.py": elsewhere("tests/course/test_solutions.py"),
    "": elsewhere("tests/course/test_chapters.py"),
}


FAMILY = {
    "ldmref passport": elsewhere("tests/passport/test_passport_command.py"),
    "PROMPT": elsewhere("tests/docs/test_family_pages.py"),
}


PAGES = {
    "README.md": Page(("examples",), torch_is_slow=True),
    "docs/backends.md": Page(settings="settings", torch_is_slow=True),
    "docs/cases.md": Page(torch_is_slow=True),
    "docs/checking.md": Page(("examples", "module as my_package"), is_slow=True),
    "docs/checkpoints.md": Page(
        (
            "single_file as v1-5.safetensors",
            "single_file as small.safetensors",
            "diffusers as path/to/diffusers-folder",
            "folder as path/to/folder",
            "vocabulary as path/to/tokenizer",
            "hub_cache as home/.cache/huggingface/hub",
            "vocabulary as home/.cache/huggingface/hub/models--openai--clip-vit-large-patch14/"
            "snapshots/0",
            "lora as style.safetensors",
            "lora as detail.safetensors",
            "taesd",
            "pickle as model.ckpt",
            "diffusers as diffusers-folder",
        )
    ),
    "docs/batch.md": Page(is_slow=True),
    "docs/explorer.md": Page(is_slow=True),
    "docs/command-line.md": Page(settings="settings", is_slow=True),
    "docs/compat.md": Page(("diffusers as path/to/folder",)),
    "docs/evaluate.md": Page(("emoji_folder as runs/mine/model", "images as my-images")),
    "docs/fine-tuning.md": Page(
        (
            "single_file as sd15.safetensors",
            "vocabulary as home/.cache/huggingface/hub/models--openai--clip-vit-large-patch14/"
            "snapshots/0",
            "images as my-images",
        ),
        settings="recipe",
        is_slow=True,
    ),
    "docs/evidence.md": Page(torch_is_slow=True),
    "docs/passport.md": Page(is_slow=True),
    "docs/port-a-layer.md": Page(("examples",), torch_is_slow=True),
    "docs/quantization.md": Page(is_slow=True),
    "docs/start.md": Page(torch_is_slow=True),
    "docs/prompts.md": Page(
        (
            "single_file as sd15.safetensors",
            "vocabulary as home/.cache/huggingface/hub/models--openai--clip-vit-large-patch14/"
            "snapshots/0",
            "word as learned_embeds.safetensors",
        )
    ),
    "docs/training.md": Page(
        (
            "emoji_folder as runs/mine/model",
            "images as my-images",
            "recipe as my-recipe.toml",
        ),
        settings="recipe",
        torch_is_slow=True,
    ),
    "docs/find-where-my-port-differs.md": Page(("images as my-images",)),
    "docs/traces.md": Page(("images as my-images",), torch_is_slow=True),
}
EXCEPTIONS: dict[str, dict[str, Reason]] = {
    "CONTRIBUTING.md": {
        "-m venv .venv-test": elsewhere(".ci/run"),
        "def my_method": FRAGMENT,
        '"my_method": Sampler(': FRAGMENT,
        "my_method = ": FRAGMENT,
        "sharpness: Annotated": FRAGMENT,
        "class MyBackend": FRAGMENT,
        "mine = ": FRAGMENT,
        "assert_conforms(MyBackend())": FRAGMENT,
    },
    "docs/find-where-my-port-differs.md": {
        "ldmref diff port.safetensors --model emoji": Reason("exits", "", 4),
        "ldmref finetune full": TORCH,
        "ldmref diff step": TORCH,
        "import torch": TORCH,
        "--against my_model:make": elsewhere("tests/locate/test_diff_modules.py"),
        "the run       tokens": Reason("not run", "a drawing"),
    },
    "README.md": {
        "python -m venv": elsewhere(".ci/run"),
        "pip install": NETWORK,
        "ldmref serve": elsewhere("tests/server/test_server_page.py"),
        "ldmref grid": SLOW,
        "ldmref cases make": ONNX,
        "ldmref export onnx": ONNX,
        "make demo": elsewhere(".ci/run"),
        "make test": elsewhere(".ci/run"),
        'backend="torch"': TORCH,
    },
    "benchmarks/README.md": {
        "pip install": NETWORK,
        "python -m benchmarks.alone": elsewhere("tests/bench/test_alone.py"),
        "python -m benchmarks --list": elsewhere("tests/bench/test_benchmarks_command.py"),
        "python -m benchmarks.": elsewhere("tests/bench/test_scripts.py"),
        "python -m benchmarks": HOURS,
    },
    "SECURITY.md": {
        "ldmref serve": elsewhere("tests/server/test_guard_checks.py"),
        "server {": Reason("not run", "the settings of nginx"),
    },
    "docs/performance.md": {"python -m benchmarks": elsewhere("tests/bench/test_against.py")},
    "docs/command-line.md": {"--frames 24": SLOW, "-c 9 --sheet": SLOW},
    "docs/compat.md": {
        "-from diffusers import": Reason("not run", "a change of a file"),
        "torch.Generator": TORCH,
        "torch_dtype": TORCH,
    },
    "docs/ports.md": {
        "python benchmarks/ports/run.py": NETWORK,
    },
    "benchmarks/ports/flux3-mlx/README.md": {
        "import mlx": Reason("not run", "needs flux3_mlx, which benchmarks/ports/run.py installs"),
    },
    "benchmarks/ports/keras-hub/README.md": {
        "import os": Reason("not run", "needs keras-hub, which benchmarks/ports/run.py installs"),
    },
    "benchmarks/ports/comfyui/README.md": {
        "import comfy": Reason("not run", "needs ComfyUI, which benchmarks/ports/run.py clones"),
    },
    "benchmarks/ports/diffusionkit/README.md": {
        "import mlx": Reason("not run", "needs the port, which benchmarks/ports/run.py clones"),
    },
    "benchmarks/ports/mlx-examples/README.md": {
        "import mlx": MLX_EXAMPLES,
        "from stable_diffusion": MLX_EXAMPLES,
        "from flux.layers": MLX_EXAMPLES,
    },
    "benchmarks/ports/mflux/README.md": {
        "import mlx": Reason("not run", "needs mflux, which benchmarks/ports/run.py installs"),
    },
    "benchmarks/ports/diffsynth/README.md": {
        "from diffsynth": DIFFSYNTH,
        "print(torch.arange(mask.shape[1]))": TORCH,
    },
    "benchmarks/ports/musubi-tuner/README.md": {
        "import torch": Reason("not run", "needs the port, which benchmarks/ports/run.py clones"),
    },
    "benchmarks/ports/vllm-omni/README.md": {
        "import torch": Reason("not run", "needs the port, which benchmarks/ports/run.py installs"),
    },
    "docs/traces.md": {
        "cc -O2": elsewhere("tests/trace/test_trace_from_c.py"),
        "ldmref train --data": TORCH,
        "ldmref trace show step": TORCH,
        "import mlx": elsewhere("tests/trace/test_recording_mlx.py"),
        "import keras": elsewhere("tests/trace/test_recording_keras.py"),
        "from flax": elsewhere("tests/trace/test_recording_flax.py"),
    },
    "docs/notebooks.md": {
        "plot_schedule, plot_trajectory\n": PLOT,
        "plot_trajectory(": PLOT,
        "measure_trajectory": PLOT,
    },
    "docs/add-a-formula.md": {"": elsewhere("tests/docs/test_add_a_formula.py")},
    "docs/start.md": {
        "-m venv .venv": elsewhere(".ci/run"),
        ". .venv/bin/activate": elsewhere(".ci/run"),
        "pip install": NETWORK,
        "--against answer.py": Reason("exits", "", 4),
        "--backend torch": TORCH,
        "heart-torch.png": TORCH,
        "<Result of txt2img": OUTPUT,
    },
    "docs/backends.md": {
        'device="cuda:0"': GPU,
        "--backend torch": TORCH,
        "LDMREF_BACKEND=torch": TORCH,
        "--backend openvino": ONNX,
        "--backend onnx": ONNX,
        'in ("numpy", "torch")': TORCH,
    },
    "docs/batch.md": {
        "--executor ray": elsewhere("tests/batch/test_batch_ray.py"),
        "srun": elsewhere("tests/batch/test_batch_run.py"),
    },
    "docs/cases.md": {
        "[![ldmref-cases": Reason("not run", "a line for another README"),
        "./my_runner": elsewhere("tests/cases/test_cases_run.py"),
        "cc -O2": elsewhere("tests/cases/test_cases_run.py"),
        "./run_case": elsewhere("tests/cases/test_cases_run.py"),
        "ldmref cases make -o cases": TORCH,
        "sd15-cases": TORCH,
        "ldmref cases run cases": TORCH,
        "sd15.txt2img.ddim my-trace": elsewhere("tests/cases/test_trace_cases.py"),
        "load_model_tests": TORCH,
        "read_suite": TORCH,
    },
    "docs/checking.md": {
        "--dtype float64   # some do not": Reason("exits", "torch", 4),
        "--backend torch": TORCH,
        "pip install": NETWORK,
        "pytest --ldmref-against": TORCH,
        "from hypothesis": TORCH,
        "--against posterior.py": elsewhere("tests/cli/test_check_failures.py"),
        'np.load("case.npz")': elsewhere("tests/check/test_checking_page.py"),
        "$ ldmref check": elsewhere("tests/check/test_checking_page.py"),
    },
    "docs/checkpoints.md": {
        "--fetch": NETWORK,
        'device="cuda"': GPU,
        "-m sd3_medium": elsewhere("tests/families/test_combined_files.py"),
        "--text-encoder clip_l": elsewhere("tests/families/test_text_encoder_files.py"),
        "model.ckpt": TORCH,
        "ldmref convert model.safetensors": TORCH,
        ".gguf": elsewhere("tests/families/test_quantized_models.py"),
        "sdxl-unet-fp8": elsewhere("tests/families/test_quantized_models.py"),
        "flux1-canny-dev-lora": elsewhere("tests/families/test_control_lora.py"),
        "{'mode'": OUTPUT,
        " properties\n": OUTPUT,
    },
    "docs/flow-schedules.md": {
        "ldmref schedule": elsewhere("tests/atlas/test_page.py"),
        "constant shift 3": OUTPUT,
    },
    "docs/evidence.md": {
        "--backend torch": TORCH,
        "--backend numpy,torch": TORCH,
        "# everything that runs here": elsewhere("tests/cli/test_check_backends.py"),
    },
    "docs/course/00-before-you-start.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/01-why-distributions.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/02-compressing-images.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/03-the-vae.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/04-first-stages.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/design.md": {"ldmref/\n": Reason("not run", "a listing of folders")},
    "docs/evaluate.md": {
        "ldmref evaluate emoji": HOURS,
        "decoder, E[": Reason("not run", "the output of a command that needs the font"),
    },
    "docs/export.md": {
        "pip install": NETWORK,
        "ldmref export onnx -o": ONNX,
        "heart-model/ldmref.json   ": Reason("not run", "a listing of files"),
        "import onnxruntime": ONNX,
        "tokenizer =": ONNX,
        "for i, t in enumerate": ONNX,
        "latents = x /": ONNX,
        "difference = np.abs": ONNX,
        "polygraphy run": elsewhere("tests/export/test_runtime_dumps.py"),
        "marked = onnx.load": ONNX,
        "ldmref diff dump.npz": ONNX,
        "export_onnx(": ONNX,
    },
    "docs/explorer.md": {
        "ldmref serve": elsewhere("tests/server/test_server_page.py"),
        "--truth": SLOW,
        "explore.converged_image(": SLOW,
        "make_browser_model.py": elsewhere("tests/page/test_static_model.py"),
        "http.server": elsewhere("tests/page/test_static_model.py"),
    },
    "docs/fine-tuning.md": {
        "ldmref finetune": BEGINS,
        "ldmref txt2img": SLOW,  # what the trainings above have saved when they are stopped
        "ldmref convert runs/full": SLOW,
        'read_recipe("lora"': HOURS,
    },
    "docs/math/samplers.md": {
        "step(denoise": Reason("not run", "a signature"),
        "-m sd3_medium": elsewhere("tests/modes/test_rectified_request.py"),
    },
    "docs/modes.md": {"": elsewhere("tests/cli/test_modes_page.py")},
    "docs/passport.md": {
        "import ZImagePipeline": TORCH,
        "run_pipeline(pipe, kit)": TORCH,
        "import PixArtTransformer2DModel": TORCH,
        "from my_model import": elsewhere("tests/passport/test_module_batches.py"),
        "my_model:make": elsewhere("tests/passport/test_module_kits.py"),
        "port_in_c": elsewhere("tests/passport/test_port_in_c.py"),
        "wrong/attention.other_scale": Reason("exits", "", 4),
    },
    "docs/port-a-layer.md": {
        "6 layers and computations": elsewhere("tests/trace/test_port_a_layer.py"),
        "golden wrong -m": Reason("exits", "", 4),
        "largest difference of": elsewhere("tests/trace/test_port_transformer.py"),
        "sd3-golden sd3-port -m": Reason("exits", "", 10),
        "sd3-wrong -m": Reason("exits", "", 4),
        "transformer.000": elsewhere("tests/trace/test_port_joint_block.py"),
        "layer or computation ": elsewhere("tests/trace/test_port_a_layer.py"),
        "from diffusers": TORCH,
        "port-of-diffusers": TORCH,
        "torch.nn.Sequential": TORCH,
    },
    "docs/quantization.md": {"--type all": HOURS},
    "docs/targets.md": {"compare_targets.py": elsewhere("tests/bench/test_compare_targets.py")},
    "docs/random.md": {
        "pipe(prompt": elsewhere("tests/parity/test_random_order.py"),
        "221184 of": elsewhere("tests/samplers/test_rng_cuda.py"),
    },
    "docs/server-clients.md": {"": elsewhere("tests/server/test_openai_page.py")},
    "docs/server.md": {"": elsewhere("tests/server/test_server_page.py")},
    "docs/course/09-samplers.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/10-the-score.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/11-editing.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/12-how-good-is-it.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/13-flow-matching.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/14-transformers-for-images.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/course/15-few-steps.md": {"": elsewhere("tests/course/test_chapters.py")},
    "docs/training.md": {
        "small_emoji(": elsewhere("tests/training/test_chapter.py"),
        "COLOURS = (": elsewhere("tests/training/test_chapter.py"),
        "noise.png": elsewhere("tests/training/test_chapter.py"),
        "t      v      x0     eps": elsewhere("tests/training/test_chapter.py"),
        "expected.png": elsewhere("tests/training/test_chapter.py"),
        "scale  PSNR": elsewhere("tests/training/test_chapter.py"),
        "pixels against latents": elsewhere("tests/training/test_chapter.py"),
        "weight  PSNR   KL": elsewhere("tests/training/test_chapter.py"),
        "rate    batch   loss": elsewhere("tests/training/test_chapter.py"),
        "s     loss    floor": elsewhere("tests/training/test_chapter.py"),
        "rate falls in the last": elsewhere("tests/training/test_chapter.py"),
        "pip install": NETWORK,
        "npm pack": NETWORK,
        "ldmref train styles-autoencoder": HOURS,
        "ldmref train tiny": SLOW,
        "ldmref train mmdit": SLOW,
        "ldmref train my-recipe.toml": TORCH,
        "ldmref train emoji-128": HOURS,
        "ldmref finetune emoji-128": HOURS,
        "ldmref train images": BEGINS,
        "ldmref train vq-vae": BEGINS,
        "-m MODEL": Reason("not run", "names that stand for others"),
        "evaluate_compositions.py": HOURS,
        "import pandas": Reason("not run", "pandas is not a requirement of the tests"),
        '"face smiling"': elsewhere("tests/training/test_training.py"),
        "LatentClassifier": elsewhere("tests/modes/test_classifier.py"),
        "torchrun --nproc-per-node 2": TORCH,
        "torchrun --nnodes": Reason("not run", "needs several machines"),
        'read_recipe("tiny", {"seed": 1})': SLOW,
        '"ldmref.datasets"': elsewhere("tests/datasets/test_dataset_plugins.py"),
    },
    "docs/course/05-destroying-data.md": COURSE,
    "docs/course/capstone.md": {"": elsewhere("tests/course/test_capstone.py")},
    "docs/course/controlnet.md": FURTHER,
    "docs/course/low-rank.md": FURTHER,
    "docs/course/memorised-images.md": FURTHER,
    "docs/course/number-formats.md": FURTHER,
    "docs/course/06-undoing-it.md": COURSE,
    "docs/course/07-the-network.md": COURSE,
    "docs/course/08-guidance.md": COURSE,
    "docs/grids.md": {"ldmref grid": SLOW, "make_grid": SLOW},
    "docs/mcp.md": {'"mcpServers"': elsewhere("tests/mcp/test_mcp_client.py")},
    "docs/add-a-family.md": {"": elsewhere("tests/plugins/test_example_plugins.py")},
    "docs/write-a-backend.md": {"": elsewhere("tests/docs/test_own_parts_pages.py")},
    "docs/write-a-sampler.md": {"": elsewhere("tests/docs/test_own_parts_pages.py")},
    "examples/plugins/ldmref-dit/README.md": PLUGIN,
    "examples/plugins/ldmref-jax/README.md": PLUGIN,
    "examples/plugins/ldmref-pixart/README.md": PLUGIN,
    "examples/plugins/ldmref-sa-sampler/README.md": PLUGIN,
    "examples/plugins/ldmref-tangential/README.md": PLUGIN,
    "ldmref/assets/styles-autoencoder/README.md": {"ldmref train styles-autoencoder": HOURS},
    "ldmref/assets/emoji/README.md": {
        "ldmref train emoji-128": HOURS,
        "ldmref finetune emoji-128": HOURS,
    },
    "tests/fuzz/README.md": {"python -m tests.fuzz": elsewhere("tests/fuzz/test_corpus.py")},
}


EXCEPTIONS |= {
    page: {part: FAMILY[part] for part in FAMILY if part in (ROOT / page).read_text("utf-8")}
    for page in pages()
    if re.fullmatch(r"docs/families/[a-z0-9.-]+\.md", page)
}


def rows_of(page: str, text: str) -> list[str]:
    """Return the rows of the table about a command or block; the first one counts."""
    return [fragment for fragment in EXCEPTIONS.get(page, {}) if fragment in text]


def reason_of(page: str, text: str) -> Reason | None:
    rows = rows_of(page, text)
    return EXCEPTIONS[page][rows[0]] if rows else None


def units(page: str) -> list[tuple[Block, str]]:
    """Return (block, command) for shell blocks and (block, text) for others."""
    found = []
    for block in blocks(page):
        parts = block.commands if block.language in SHELL else [block.text]
        found += [(block, part) for part in parts]
    return found


ALL = [page for page in pages() if units(page)]
