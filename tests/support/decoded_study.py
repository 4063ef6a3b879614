"""A study of one short run whose images are decoded by processes of their own."""

from __future__ import annotations

from pathlib import Path

ONE_RUN = """
[search]
k_max = 1.0
k_cap = 1.0
k_step = 1.0
seeds = 1
max_terms = 1

[pruning]
enabled = false
"""
"""Tables of a study file that ask for a single run."""
STUDY = """
name = "decoded"

[task]
kind = "images"
epochs = 1
batch_size = 4
model = {{ name = "wide-resnet", depth = 10, widen = 1 }}
data = {{ name = "imagenet", root = {root!r}, image_size = 16, validation = 0.25 }}

[workers]
decoders = 2
"""


def decoded_study(folder: Path) -> str:
    """Write the images and the study file; return its path."""
    import numpy as np
    from PIL import Image

    random = np.random.RandomState(0)
    for name in ("cat", "dog"):
        place = folder / "images" / "train" / name
        place.mkdir(parents=True)
        for number in range(8):
            pixels = random.randint(256, size=(20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    file = folder / "decoded.toml"
    file.write_text(STUDY.format(root=str(folder / "images")) + ONE_RUN)
    return str(file)
