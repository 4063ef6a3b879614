"""Folders: the user's own, the checkpoints', and a study's data."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kdecay_search.doctor.check import Check, bad, ok, warning
from kdecay_search.doctor.machine import GIB, gib
from kdecay_search.paths import home
from kdecay_search.study.builtin_tasks import DataSpec
from kdecay_search.study.spec import StudySpec

LITTLE_SPACE = GIB
PROBE_BYTES = 1 << 16
SHARED = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p",
    "afs", "panfs", "wekafs", "virtiofs", "orangefs", "pvfs2", "ocfs2", "gfs2", "fuse.ceph",
    "fuse.ceph-fuse", "fuse.glusterfs", "fuse.sshfs", "fuse.juicefs", "fuse.moosefs", "fuse.beegfs",
})  # fmt: skip
OBJECT_STORES = frozenset({
    "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.rclone", "fuse.mount-s3",
})  # fmt: skip
"""Shared too, but without atomic renames."""
PASSING = {
    "tmpfs": "is lost when the machine restarts",
    "ramfs": "is lost when the machine restarts",
    "overlay": "is lost with the container",
}


def home_checks(embeds: bool) -> Iterator[Check]:
    """KDECAY_HOME or its default; ``embeds``: whether the database lives in it."""
    mend = "give KDECAY_HOME a folder that this user may write to"
    try:
        folder = home()
    except OSError as error:
        yield bad("home", f"{error.filename}: {error.strerror}", mend)
        return
    found = _tried("home", folder, mend)
    if embeds and found.mend is None and file_system(folder) in SHARED | OBJECT_STORES:
        mend = "keep the embedded database on a local disk (KDECAY_HOME), or use --storage"
        found = warning("home", found.value, mend)
    yield found


def checkpoint_checks(chosen: Path | None) -> Iterator[Check]:
    """``chosen``: by option or environment; None is the default, below home."""
    folder = chosen or home() / "checkpoints"
    if chosen is not None and not chosen.exists():
        mend = f"is the shared disk mounted? If it is: mkdir -p {chosen}"
        yield warning("checkpoints", f"{chosen} does not exist yet", mend)
        return
    mend = "give --checkpoints (or KDECAY_CHECKPOINTS) a folder that this user may write to"
    found = _tried("checkpoints", folder, mend)
    kind = file_system(folder)
    if found.mend is not None:
        yield found
    elif kind in OBJECT_STORES:
        mend = "use a file system with atomic renames, such as NFS"
        yield warning("checkpoints", f"{found.value}, an object store", mend)
    elif kind in PASSING:
        mend = "give --checkpoints a folder on a disk"
        yield warning("checkpoints", f"{found.value}, which {PASSING[kind]}", mend)
    elif kind in SHARED:
        yield ok("checkpoints", f"{found.value}, shared")
    else:
        yield ok("checkpoints", f"{found.value}, local: other machines cannot see it")


def data_checks(spec: StudySpec) -> Iterator[Check]:
    """The data of the study, as far as it can be looked at without torch or a download."""
    if spec.task.kind in ("python", "command"):
        yield ok("data", f"{spec.name}: is up to your own code")
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
    mend = "bring the data set to this machine, or mount it there"
    if not root.is_dir():
        return bad("data", f"task.data.root = {root}: no such folder", mend)
    if data.name == "imagenet" and not (root / "train").is_dir():
        layout = "it must hold one folder of images per class under train/"
        return bad("data", f"task.data.root = {root}: has no folder train", layout)
    folder = root / "train" if (root / "train").is_dir() else root
    try:
        classes = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
        if not classes:
            layout = "it must hold one folder of images per class, at its top or under train/"
            return bad("data", f"{folder}: holds no folders", layout)
        for path in classes:
            first = _first_file(path)
            if first is None:
                return bad("data", f"{path}: holds no file", "add its images or remove it")
            with first.open("rb") as file:
                file.read(1)
    except OSError as error:
        return bad("data", f"{error.filename}: {error.strerror}", "let this user read it")
    return ok("data", f"{folder}: {len(classes)} classes")


def _first_file(folder: str) -> Path | None:
    for parent, folders, names in os.walk(folder, onerror=_fail, followlinks=True):
        folders.sort()
        if names:
            return Path(parent, min(names))
    return None


def _fail(error: OSError) -> None:
    raise error


def _cifar(data: DataSpec) -> Check:
    root = Path(data.root or "")
    base = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[data.name]
    if (root / base).is_dir():
        return ok("data", f"{root / base}")
    mend = f"put {base} there if this machine cannot download it"
    found = _tried("data", root, f"let this user write there, or {mend}")
    if found.mend is not None:
        return found
    return warning("data", f"{root}: no {base} yet; the first worker downloads it", mend)


def _tried(subject: str, folder: Path, mend: str) -> Check:
    """Write, fsync, rename, read back and remove a file in ``folder``, which is made for it."""
    made = _missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _try_a_file(folder)
        free = shutil.disk_usage(folder).free
        kind = file_system(folder)
    except OSError as error:
        where = error.filename or folder
        return bad(subject, f"{where}: {error.strerror or error}", mend)
    finally:
        for path in made:
            _remove(path)
    value = f"{folder}: {gib(free)} free on {kind}"
    if free < LITTLE_SPACE:
        return warning(subject, value, "make room")
    return ok(subject, value)


def _missing(folder: Path) -> list[Path]:
    """Those of ``folder`` and its parents that do not exist, innermost first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def _remove(folder: Path) -> None:
    """Unless somebody else put something there in the meantime."""
    try:
        folder.rmdir()
    except OSError:
        return


def _try_a_file(folder: Path) -> None:
    content = os.urandom(PROBE_BYTES)
    handle, name = tempfile.mkstemp(prefix=".kdecay-doctor-", dir=folder)
    last = Path(f"{name}-renamed")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(last)
        if last.read_bytes() != content:
            raise OSError(f"{folder}: what was written is not what is read")
    finally:
        Path(name).unlink(missing_ok=True)
        last.unlink(missing_ok=True)


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The type of the file system that holds ``path`` (or would), such as ``ext4`` or ``nfs4``."""
    there = str(path.resolve())
    best, kind = -1, "an unknown file system"
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return kind
    for line in lines:
        _, point, type_, *_ = line.split(" ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point)
        inside = point in ("/", there) or there.startswith(f"{point}/")
        if inside and len(point) >= best:  # of two mounts at one point the later counts
            best, kind = len(point), type_
    return kind
