"""Exports of a schedule: Python source, a scheduler of a training library, a table of values."""

from kdecay_search.schedules.export.arrays import keras_source, optax_source
from kdecay_search.schedules.export.loops import (
    nanogpt_source,
    torchtitan_source,
    ultralytics_source,
)
from kdecay_search.schedules.export.python import kdecay_python_source
from kdecay_search.schedules.export.schedulers import (
    huggingface_source,
    lightning_source,
    pytorch_source,
)
from kdecay_search.schedules.export.table import schedule_csv
from kdecay_search.schedules.export.timm import timm_source
from kdecay_search.schedules.forms import Form

__all__ = [
    "Form",
    "huggingface_source",
    "kdecay_python_source",
    "keras_source",
    "lightning_source",
    "nanogpt_source",
    "optax_source",
    "pytorch_source",
    "schedule_csv",
    "timm_source",
    "torchtitan_source",
    "ultralytics_source",
]
