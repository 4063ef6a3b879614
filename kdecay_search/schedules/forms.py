"""The forms in which a schedule can be exported."""

from enum import StrEnum


class Form(StrEnum):
    """What ``kdecay best --as`` prints."""

    JSON = "json"
    PYTHON = "python"
    CSV = "csv"
    TIMM = "timm"
    PYTORCH = "pytorch"
    HUGGINGFACE = "huggingface"
    LIGHTNING = "lightning"
    KERAS = "keras"
    OPTAX = "optax"
    NANOGPT = "nanogpt"
    TORCHTITAN = "torchtitan"
    ULTRALYTICS = "ultralytics"
