"""Folders of class folders: which folders are classes, and which files are their images.

The order of the images is that of torchvision's ``ImageFolder``, on which splits depend. This
module imports no torch, so that ``kdecay check`` can look at a data set on any machine.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdecay_search.errors import DataError
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.training.data.dataset import Labels

LAYOUT = {
    "image-folder": "it must hold one folder of images per class, at its top or under train/",
    "imagenet": "it must hold one folder of images per class under train/",
}
"""For each ``task.data.name`` that is a folder, what it must hold."""
TEST_FOLDER = {"image-folder": "test", "imagenet": "val"}
"""For each ``task.data.name`` that is a folder, the name of the test set's folder in it."""
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Suffixes of image files, those of torchvision's ``ImageFolder``; the case does not matter."""
JUNK_FOLDERS = frozenset(
    ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders that operating systems and programs create and that hold no classes."""
SPLIT_NAMES = frozenset(
    ("train", "training", "test", "testing", "val", "valid", "validation", "eval", "dev")
)
"""Usual names of the parts of a split; the case does not matter."""
FEWEST_CLASSES = 2
"""Smallest number of classes that can be told apart."""
SHOWN = 10
"""Largest number of names that a message shows."""


@dataclass(frozen=True)
class Layout:
    """Where an image folder has its training set and its test set."""

    training: Path
    """The folder that holds the class folders of the training set."""
    excluded: frozenset[str]
    """Names of folders in ``training`` that are no classes, but another part of a split."""
    beside: tuple[str, ...]
    """Names of folders beside the training set that are not used."""


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder of class folders."""

    folder: Path
    """The folder that holds the class folders."""
    class_names: tuple[str, ...]
    """Names of the class folders, sorted: the class numbers' names."""
    paths: list[str]
    """All image files, by class, then by path."""
    labels: Labels
    """Class number (N,) of each image file."""
    not_used: tuple[str, ...]
    """Folders and files that were found and are not used, in words."""


def list_training_set(data: DataSpec) -> ClassFolders:
    """List the classes and images of a data set that is a folder.

    Args:
        data: ``[task.data]`` of a study, with the name ``image-folder`` or ``imagenet``.

    Raises:
        DataError: The folder does not have the right layout, or cannot be read.
    """
    root, layout = Path(data.root or ""), LAYOUT[data.name]
    if not root.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: there is no such folder; {layout}")
    if data.name == "imagenet":
        if not (root / "train").is_dir():
            raise DataError(f"task.data.root = {str(root)!r}: has no folder train; {layout}")
        return list_class_folders(root / "train", layout)
    place = find_layout(root)
    found = list_class_folders(place.training, layout, place.excluded)
    if not place.beside:
        return found
    beside = f"folders beside train/: {shortened([f'{name}/' for name in place.beside])}"
    return replace(found, not_used=(*found.not_used, beside))


def list_test_set(data: DataSpec, training: ClassFolders) -> ClassFolders:
    """List the classes and images of the test set of a data set that is a folder.

    Args:
        data: ``[task.data]`` of a study, with the name ``image-folder`` or ``imagenet``.
        training: The training set, whose classes the test set must have.

    Raises:
        DataError: There is no test set, it has other classes, or it cannot be read.
    """
    name = TEST_FOLDER[data.name]
    root = Path(data.root or "")
    layout = f"a confirmation needs a test set: the same class folders under {name}/"
    if training.folder == root and name in training.class_names:
        raise DataError(f"task.data.root = {str(root)!r}: {name}/ is one of its classes; {layout}")
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"task.data.root = {str(root)!r}: has no {name}/; {layout}")
    if odd := sorted(set(_folders(folder)) ^ set(training.class_names)):
        raise DataError(
            f"image folder {str(folder)!r}: differs from the training set in the classes "
            f"{shortened(odd)}; {layout}"
        )
    return list_class_folders(folder, layout)


def find_layout(root: Path) -> Layout:
    """Find the training set of an image folder.

    It is ``root/train`` if that holds class folders, else ``root`` itself. A folder of images named
    ``train`` or ``test`` beside other classes is a class. In ``root`` itself, folders such as
    ``test`` or ``val`` whose subfolders are named as the classes are no classes.

    Raises:
        DataError: The folder holds parts of a split only, and none of them is ``train`` with class
            folders.
    """
    folders = _folders(root)
    parts = {name for name in folders if name.casefold() in SPLIT_NAMES}
    classes = set(folders) - parts
    train = root / "train"
    # With images of its own, and beside other folders, train/ is a class that has subfolders.
    if "train" in parts and _folders(train) and not (classes and _has_images(train)):
        beside = tuple(name for name in folders if name not in ("train", "test"))
        return Layout(train, frozenset(), beside)
    if parts and not classes:
        raise DataError(
            f"image folder {str(root)!r}: its folders are named as parts of a split "
            f"({', '.join(sorted(parts))}), and there is no train/ with class folders; "
            + LAYOUT["image-folder"]
        )
    excluded = frozenset(
        name for name in parts if (inside := set(_folders(root / name))) and inside <= classes
    )
    return Layout(root, excluded, ())


def list_class_folders(
    folder: Path, layout: str, excluded: frozenset[str] = frozenset()
) -> ClassFolders:
    """List the classes and images of a folder.

    Every visible folder in it is a class, and every visible image file at any depth in a class
    folder is an image of that class. What is hidden (its name starts with a dot) is not used.

    Args:
        folder: Holds one folder of images per class.
        layout: What would be right, for error messages.
        excluded: Names of folders that are no classes.

    Raises:
        DataError: There are no or too few classes, a class has no image, or a folder cannot be
            read.
    """
    class_names = tuple(name for name in _folders(folder) if name not in excluded)
    where = f"image folder {str(folder)!r}"
    if not class_names:
        raise DataError(f"{where}: has no class folder; {layout}")
    paths: list[str] = []
    counts: list[int] = []
    others: Counter[str] = Counter()
    for name in class_names:
        images, rest = _files(folder / name)
        paths += images
        counts.append(len(images))
        others.update(os.path.splitext(path)[1].lower() or "without suffix" for path in rest)
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"{where}: no image in the class folders {shortened(empty)} "
            f"(image files end in {', '.join(IMAGE_SUFFIXES)}); {layout}"
        )
    if len(class_names) < FEWEST_CLASSES:
        raise DataError(
            f"{where}: has one class only ({class_names[0]!r}), and there is nothing to tell it "
            f"from; {layout}"
        )
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    return ClassFolders(folder, class_names, paths, labels, _not_used(folder, excluded, others))


def shortened(names: Sequence[str]) -> str:
    """The first names, with commas between them."""
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*map(printable, names[:SHOWN]), *more])


def printable(name: str) -> str:
    """A name as it is if it can be printed in one line, else with escapes."""
    return name if name.isprintable() else repr(name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in JUNK_FOLDERS


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(error) from None


def _folders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted."""
    entries = _entries(folder)
    return [entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name)]


def _has_images(folder: Path) -> bool:
    return any(_is_image(entry.name) for entry in _entries(folder) if entry.is_file())


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def _files(folder: Path) -> tuple[list[str], list[str]]:
    """Visible files at any depth in a folder: images and others, each sorted by folder and name.

    Links to folders are followed, each folder once.
    """
    images: list[str] = []
    others: list[str] = []
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise _unreadable(error)

    found = []
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found.append((place, names))
    for place, names in sorted(found):
        for name in sorted(names):
            path = os.path.join(place, name)
            if _is_image(name):
                images.append(path)
            elif not name.startswith("."):
                others.append(path)
    return images, others


def _not_used(folder: Path, excluded: frozenset[str], others: Counter[str]) -> tuple[str, ...]:
    entries = _entries(folder)
    hidden = [f"{entry.name}/" for entry in entries if entry.is_dir() and _is_hidden(entry.name)]
    loose = [entry.name for entry in entries if entry.is_file() and _is_image(entry.name)]
    notes = []
    if hidden:
        notes.append(f"hidden folders {shortened(hidden)}")
    if excluded:
        notes.append(
            f"{', '.join(f'{name}/' for name in sorted(excluded))}, another part of a split"
        )
    if loose:
        notes.append(f"images beside the class folders: {shortened(loose)}")
    if others:
        kinds = [f"{kind} {count}" for kind, count in others.most_common()]
        notes.append(f"files that are no images: {shortened(kinds)}")
    return tuple(notes)


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename!r}: cannot be read: {error.strerror}; let this user read it")
