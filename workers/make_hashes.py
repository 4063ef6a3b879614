"""Write workers/hashes.txt: each package of the image with the SHA-256 of its file.

Run it from the repository's root with the Python of the image, since the files depend on it:

    docker run --rm --volume "$PWD:/src" --workdir /src python:3.12.13-slim-bookworm \
        python3 workers/make_hashes.py

workers/Dockerfile uses the file if it is there, and then installs nothing that differs from it.
Without arguments it is for EXTRAS=worker, and otherwise for the extras given: "" for none.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

TARGET = Path("workers/hashes.txt")


def main(extras: list[str]) -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = ["setuptools", *project["dependencies"]]
    for extra in filter(None, extras):
        wanted += project["optional-dependencies"][extra]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--only-binary", ":all:", "--constraint", "constraints.txt", "--report", "-"]
    done = subprocess.run([*command, *wanted], check=True, stdout=subprocess.PIPE)
    lines = sorted(line_of(package) for package in json.loads(done.stdout)["install"])
    TARGET.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(f"{TARGET}: {len(lines)} packages")


def line_of(package: dict) -> str:
    """Return the requirement for one package of pip's report, with its hash."""
    name, version = package["metadata"]["name"], package["metadata"]["version"]
    digest = package["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={version} --hash=sha256:{digest}"


if __name__ == "__main__":
    main(sys.argv[1:] or ["worker"])
