"""`ldmref evaluate`: metrics of a trained model on images."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import click

from ldmref.apps.cli.progress import one_line, print_line, say
from ldmref.apps.cli.train import DATA_HELP, font_option, packages_option, source

option = click.option


@click.command()
@click.argument("model")
@option("--data", default="emoji", metavar="NAME|FOLDER", help=f"{DATA_HELP} Default: emoji.")
@font_option
@packages_option
@option(
    "--images",
    type=click.IntRange(2, 100_000),
    default=64,
    help="Number of images to measure. Default: 64.",
)
@option(
    "--timesteps",
    type=click.IntRange(1, 100_000),
    default=50,
    help="Timesteps per image at which the bound is computed. Default: 50.",
)
@option(
    "--flow-images",
    type=click.IntRange(0, 100_000),
    default=8,
    help="Images for the exact likelihood; 0: none. Default: 8.",
)
@option(
    "--flow-steps",
    type=click.IntRange(1, 10_000),
    default=30,
    help="Integration steps of the exact likelihood. Default: 30.",
)
@option(
    "--samples",
    type=click.IntRange(0, 100_000),
    default=64,
    help="Images to generate; 0: none. Default: 64.",
)
@option("--conditional", is_flag=True, help="Compute the likelihood given the captions.")
@option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=16,
    help="Images computed at once. Default: 16.",
)
@option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Default: 0.")
@option("--backend", metavar="NAME", help="See ldmref backends.")
@option("--device", metavar="NAME", help="cpu, cuda:0, ...")
@option("--dtype", metavar="NAME", help="float32 or float64.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@option("-v", "--verbose", is_flag=True, help="Print tracebacks of errors.")
def evaluate(
    model: str,
    data: str,
    font: str | None,
    packages: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure a model on images: reconstruction, likelihood, samples, retrieval.

    The report has PSNR and SSIM; the KL divergence per latent; two bounds on the likelihood in bits
    per dimension, term by term with 95 % confidence intervals, and the exact likelihood of the
    probability flow; Frechet and kernel distances on features of the classifier in the model's
    folder, if it has one; and how often the image generated for a prompt is nearest to the image
    that the prompt describes.
    """
    from ldmref import load
    from ldmref.apps.cli.settings import naming_settings
    from ldmref.datasets import check_data, load_dataset
    from ldmref.datasets.config import DataConfig
    from ldmref.evaluate import EvaluationSettings, evaluate, to_dict, to_lines
    from ldmref.io.locate import find_model
    from ldmref.support.config import settings as read_settings

    wanted = {field.name: flags[field.name] for field in fields(EvaluationSettings)}
    path = find_model(model)
    config = DataConfig(source(data) or data, font=font or "", packages=packages or "")
    check_data(config)
    computing = {name: flags[name] for name in ("backend", "device", "dtype")}
    with naming_settings(read_settings(), computing):
        loaded = load(model, **computing)
    images = load_dataset(replace(config, size=loaded.config.defaults.width))
    sections = evaluate(
        loaded, images, EvaluationSettings(**wanted), path, lambda s: say(one_line(s))
    )
    for line in [json.dumps(to_dict(sections))] if as_json else to_lines(sections):
        print_line(line)


COMMANDS = (evaluate,)
