"""Captioned training images: the embedded model's data set, folders, tar files, and plug-ins.

base.py      what every data set offers (`Dataset`), and what an entry point names (`DatasetSource`)
config.py    the recipe's table `[data]`, and the summary of the images in a checkpoint
registry.py  data sets by name: ldmref's own, and those of other packages
loading.py   the data set that a recipe names: read, checked, summarized
folder.py    a folder of captioned images; listing.py: which of its files are read
shards.py    tar files in webdataset's layout
memory.py    images in memory, from a folder or from tar files
parallel.py  images that several processes make
mixture.py   latents whose distribution is known: three Gaussians in the plane
emoji/       the embedded model's data set: the emoji font, and scenes composed of it

The names imported here are public. Nothing in this package imports PyTorch or the training.
"""

from ldmref.datasets.base import (
    Augmentation,
    Dataset,
    DatasetSource,
    ImageArray,
    StyledImages,
)
from ldmref.datasets.config import DataConfig, DataSummary
from ldmref.datasets.folder import FolderDataset
from ldmref.datasets.loading import check_data, load_dataset, summarize
from ldmref.datasets.registry import dataset_names
from ldmref.datasets.shards import ShardDataset

__all__ = [
    "Augmentation",
    "DataConfig",
    "DataSummary",
    "Dataset",
    "DatasetSource",
    "FolderDataset",
    "ImageArray",
    "ShardDataset",
    "StyledImages",
    "check_data",
    "dataset_names",
    "load_dataset",
    "summarize",
]
