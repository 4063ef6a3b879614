"""JSON objects in files, and the exit codes of commands that record them."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdecay_search.errors import DataError, KDecayError, MissingPackage


def read_object(
    path: str | Path, missing: str | None = None, wrong: str = "must hold a JSON object"
) -> dict[str, Any]:
    """A JSON object from a file, compressed if its name ends in ``.gz`` or ``.xz``.

    Args:
        path: The file.
        missing: What an error says of a file that is not there; by default what the system says.
        wrong: What an error says of a file that holds something else.

    Raises:
        DataError: There is none; the message is one line.
    """
    try:
        values = json.loads(_content(Path(path)))
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be decompressed: {error}") from None
    except OSError as error:
        if missing is not None and isinstance(error, FileNotFoundError):
            raise DataError(f"{path}: {missing}") from None
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: {wrong}")
    return values


def _content(path: Path) -> str:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes()).decode()
    return path.read_text(encoding="utf-8")


def replace_object(path: Path, values: Mapping[str, Any]) -> None:
    """Replace a file as a whole by a JSON object, so that it is never half written."""
    whole = path.with_name(path.name + ".part")
    whole.write_text(json.dumps(values), encoding="utf-8")
    os.replace(whole, path)


def exit_code(command: str, record: Callable[[], object]) -> int:
    """Record something; return the command's exit code: 0, 2 for an error, 130 for Ctrl-C."""
    try:
        record()
    except OSError as error:
        print(f"{command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ImportError as error:
        missing = MissingPackage(f"{error.name} is not installed; pip install '.[worker]'")
        print(f"{command}: {missing}", file=sys.stderr)
        return 2
    except KDecayError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
