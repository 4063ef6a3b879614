"""Checks of folders: the user's own, the one for checkpoints, and the data of a study."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdecay_search.doctor.check import Check, Severity, error, ok, warning
from kdecay_search.doctor.machine import GIB, gib
from kdecay_search.errors import HomeError, KDecayError
from kdecay_search.paths import OBJECT_STORES, SHARED, home, mount_of, temporary_folder
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.study.spec import StudySpec
from kdecay_search.tasks.checkpoint import CheckpointFolder
from kdecay_search.tasks.private_folder import is_own, others_may_write, owner_text

LITTLE_SPACE = GIB
"""Less free space, in bytes, is a warning."""
PROBE_BYTES = 1 << 16
"""The size of the file that is written to try a folder."""
TEMPORARY = {
    "tmpfs": "is lost when the machine restarts",
    "ramfs": "is lost when the machine restarts",
    "overlay": "is lost with the container",
}
"""Types of file systems that do not last, and when they end."""


def home_checks(is_embedded: bool) -> Iterator[Check]:
    """Check KDECAY_HOME or its default.

    Args:
        is_embedded: Whether the database is the embedded one, which is kept there.
    """
    fix = "set KDECAY_HOME to a folder that this user can write to"
    try:
        folder = home()
    except HomeError as raised:
        cause, _, fix = str(raised).rpartition("; ")
        yield error("home", cause, fix)
        return
    found = _tried("home", folder, fix)
    is_remote = file_system(folder) in SHARED | OBJECT_STORES
    if is_embedded and is_remote and found.severity == Severity.OK:
        fix = "keep the embedded database on a local disk (KDECAY_HOME), or use --storage"
        found = warning("home", found.value, fix)
    yield found


def temporary_checks() -> Iterator[Check]:
    """Check the folder for temporary files, which training needs."""
    try:
        folder = temporary_folder()
    except KDecayError as raised:
        cause, _, fix = str(raised).rpartition("; ")
        yield error("temporary", cause, fix)
    else:
        yield _tried("temporary", folder, "set TMPDIR to a folder that this user can write to")


def checkpoint_checks(
    chosen: Path | None, spec: StudySpec | None = None, launch: str | None = None
) -> Iterator[Check]:
    """Check the folder for checkpoints.

    Args:
        chosen: The folder given by option or environment. None stands for the default, a folder
            in KDECAY_HOME.
        spec: A study whose own folders in it are looked at as well; None if there is none.
        launch: The id of that study's launch; None if the study is not launched.
    """
    folder = chosen or home() / "checkpoints"
    if chosen is not None and not chosen.exists():
        fix = f"is the shared disk mounted? If it is: mkdir -p {chosen}"
        yield warning("checkpoints", f"{chosen} does not exist yet", fix)
        return
    fix = "set --checkpoints (or KDECAY_CHECKPOINTS) to a folder that this user can write to"
    found = _tried("checkpoints", folder, fix)
    kind = file_system(folder)
    open_to_others = _open_to_others(folder, spec, launch)
    if found.severity != Severity.OK:
        yield found
    elif open_to_others is not None:
        yield open_to_others
    elif kind in OBJECT_STORES:
        fix = "use a file system with atomic renames, such as NFS"
        yield warning("checkpoints", f"{found.value}, an object store", fix)
    elif kind in TEMPORARY:
        fix = "set --checkpoints to a folder on a disk"
        yield warning("checkpoints", f"{found.value}, which {TEMPORARY[kind]}", fix)
    elif kind in SHARED:
        yield ok("checkpoints", f"{found.value}, shared")
    else:
        yield ok("checkpoints", f"{found.value}, local: other machines cannot see it")


def _open_to_others(folder: Path, spec: StudySpec | None, launch: str | None) -> Check | None:
    """Say what other users can do to checkpoints in ``folder``; None if they can do nothing."""
    fix = "set --checkpoints to a folder of your own: mkdir -m 700 DIR"
    folders = CheckpointFolder(folder)
    used = None if spec is None else folders.of_study(spec, launch)
    for own in [] if spec is None else folders.of_name(spec.name):
        with contextlib.suppress(FileNotFoundError):
            status = own.lstat()
            if not is_own(status):
                if own != used:
                    continue  # that user has a study of the same name
                return error("checkpoints", f"{own}: {owner_text(status)}, and is refused", fix)
            if stat.S_ISLNK(status.st_mode):
                return error("checkpoints", f"{own}: is a symbolic link, and is refused", fix)
            if others_may_write(status):
                value = f"{own}: others can write to it, so its runs will start over"
                return warning("checkpoints", value, fix)
    with contextlib.suppress(FileNotFoundError):
        status = folder.stat()
        if others_may_write(status):
            value = f"{folder}: others can write to it, and can keep studies from using it"
            return warning("checkpoints", value, fix)
        if not is_own(status) and status.st_uid != 0:
            value = f"{folder}: {owner_text(status)}, who can remove all checkpoints"
            return warning("checkpoints", value, fix)
    return None


def data_checks(spec: StudySpec) -> Iterator[Check]:
    """Check the data of a study, as far as that takes neither torch nor a download."""
    if spec.task.kind in ("python", "command"):
        yield ok("data", f"{spec.name}: left to your own training code")
    elif spec.task.kind != "images":
        yield ok("data", f"{spec.name}: a simulated task needs none")
    elif spec.task.data.name == "digits":
        yield ok("data", f"{spec.name}: digits come with scikit-learn")
    elif spec.task.data.name in ("image-folder", "imagenet"):
        yield _image_folder(spec.task.data)
    else:
        yield _cifar(spec.task.data)


def _image_folder(data: DataSpec) -> Check:
    root = Path(data.root or "")
    if not root.is_dir():
        fix = "copy the data set to this machine, or mount it there"
        return error("data", f"task.data.root = {root}: no such folder", fix)
    if data.name == "imagenet" and not (root / "train").is_dir():
        fix = "it must hold one folder of images per class under train/"
        return error("data", f"task.data.root = {root}: has no folder train", fix)
    folder = root / "train" if (root / "train").is_dir() else root
    try:
        classes = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
        if not classes:
            fix = "it must hold one folder of images per class, at its top or under train/"
            return error("data", f"{folder}: has no folders", fix)
        for path in classes:
            first = _first_file(path)
            if first is None:
                return error("data", f"{path}: has no file", "add its images, or remove the folder")
            with first.open("rb") as file:
                file.read(1)
    except OSError as raised:
        fix = "give this user permission to read it"
        return error("data", f"{raised.filename}: {raised.strerror}", fix)
    return ok("data", f"{folder}: {len(classes)} classes")


def _first_file(folder: str) -> Path | None:
    def fail(raised: OSError) -> None:
        raise raised

    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders.sort()
        if names:
            return Path(parent, min(names))
    return None


def _cifar(data: DataSpec) -> Check:
    root = Path(data.root or "")
    base = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[data.name]
    if (root / base).is_dir():
        return ok("data", f"{root / base}")
    fix = f"put {base} there if this machine cannot download it"
    found = _tried("data", root, f"let this user write there, or {fix}")
    if found.severity != Severity.OK:
        return found
    return warning("data", f"{root}: no {base} yet; the first worker downloads it", fix)


def _tried(subject: str, folder: Path, fix: str) -> Check:
    """Write, sync, rename, read and remove a file in ``folder``, which is created if needed."""
    created = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try_a_file(folder)
        free = shutil.disk_usage(folder).free
        kind = file_system(folder)
    except OSError as raised:
        where, what = raised.filename or folder, raised.strerror or raised
        return error(subject, f"{where}: {what}", fix)
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # another process may have put something there
                path.rmdir()
    value = f"{folder}: {gib(free)} free on {kind}"
    if free < LITTLE_SPACE:
        return warning(subject, value, "free some space")
    return ok(subject, value)


def _try_a_file(folder: Path) -> None:
    content = os.urandom(PROBE_BYTES)
    handle, name = tempfile.mkstemp(prefix=".kdecay-doctor-", dir=folder)
    renamed = Path(f"{name}-renamed")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(renamed)
        if renamed.read_bytes() != content:
            raise OSError(f"{folder}: a file that was written does not read back the same")
    finally:
        Path(name).unlink(missing_ok=True)
        renamed.unlink(missing_ok=True)


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the file system of ``path``, such as ``ext4`` or ``nfs4``.

    The path need not exist.
    """
    kind, _ = mount_of(path, mounts)
    return kind
