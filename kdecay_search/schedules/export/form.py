"""The forms that a schedule can be taken away in."""

from enum import StrEnum


class Form(StrEnum):
    """What ``best`` prints."""

    JSON = "json"
    PYTHON = "python"
    CSV = "csv"
    TIMM = "timm"
    PYTORCH = "pytorch"
    HUGGINGFACE = "huggingface"
    LIGHTNING = "lightning"
