"""Pipelines that are chosen by the model.

Source: diffusers 0.42.1, `pipelines/auto_pipeline.py` and `pipelines/pipeline_utils.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ldmref.compat.diffusers.base import Pipeline
from ldmref.compat.diffusers.components import Weights
from ldmref.compat.diffusers.pipelines import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from ldmref.compat.diffusers.schedulers import read_config

PIPELINES = (
    StableDiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)


class AutoPipeline:
    """Choose the pipeline of a task by the model; see the subclasses."""

    choices: ClassVar[tuple[type[Pipeline], type[Pipeline]]]

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Pipeline:
        """Open a model and return the pipeline that fits it.

        Args:
            folder: As for `StableDiffusionPipeline.from_pretrained`.
            options: As for `StableDiffusionPipeline.from_pretrained`.
        """
        xl = bool(Weights(folder, options.get("variant")).config.unet.addition_embed_type)
        return cls.choices[xl].from_pretrained(folder, **options)

    @classmethod
    def from_pipe(cls, pipeline: Pipeline, **changes: object) -> Pipeline:
        """Return a pipeline of this task with the model and the scheduler of another one.

        Args:
            pipeline: The other pipeline; both share the weights.
            changes: Components that replace those of the other pipeline, such as `scheduler`.
        """
        return cls.choices[pipeline.xl].from_pipe(pipeline, **changes)


class DiffusionPipeline(AutoPipeline):
    """The pipeline that a folder names; text to image for other models.

    It is never constructed: `from_pretrained(folder)` and `from_pipe(pipe)` return a pipeline.

    >>> from ldmref.compat.diffusers import DiffusionPipeline
    >>> type(DiffusionPipeline.from_pretrained("emoji")).__name__
    'StableDiffusionPipeline'
    """

    choices = (StableDiffusionPipeline, StableDiffusionXLPipeline)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Pipeline:
        """Open a model and return the pipeline that it names.

        Args:
            folder: As for `StableDiffusionPipeline.from_pretrained`.
            options: As for `StableDiffusionPipeline.from_pretrained`.
        """
        index = Weights(folder, options.get("variant")).path / "model_index.json"
        name = read_config(index).get("_class_name") if index.is_file() else None
        named = [kind for kind in PIPELINES if kind.__name__ == name]
        if named:
            return named[0].from_pretrained(folder, **options)
        return super().from_pretrained(folder, **options)


class AutoPipelineForText2Image(AutoPipeline):
    """Text to image, for every supported model.

    It is never constructed: `from_pretrained(folder)` and `from_pipe(pipe)` return a pipeline.

    >>> from ldmref.compat.diffusers import AutoPipelineForText2Image
    >>> type(AutoPipelineForText2Image.from_pretrained("emoji")).__name__
    'StableDiffusionPipeline'
    """

    choices = (StableDiffusionPipeline, StableDiffusionXLPipeline)


class AutoPipelineForImage2Image(AutoPipeline):
    """Change an image, for every supported model.

    It is never constructed: `from_pretrained(folder)` and `from_pipe(pipe)` return a pipeline.

    >>> from ldmref.compat.diffusers import AutoPipelineForImage2Image
    >>> type(AutoPipelineForImage2Image.from_pretrained("emoji")).__name__
    'StableDiffusionImg2ImgPipeline'
    """

    choices = (StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline)


class AutoPipelineForInpainting(AutoPipeline):
    """Repaint the white part of a mask, for every supported model.

    It is never constructed: `from_pretrained(folder)` and `from_pipe(pipe)` return a pipeline.

    >>> from ldmref.compat.diffusers import AutoPipelineForInpainting
    >>> type(AutoPipelineForInpainting.from_pretrained("emoji")).__name__
    'StableDiffusionInpaintPipeline'
    """

    choices = (StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline)
