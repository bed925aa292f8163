"""Install the Python part of detectron2 0.6 from the package index, as a distribution named detectron2.

detectron2 is not on the package index under its own name. The source archive of ``pb1-detectron2`` 0.6 is: its Python
files are byte-identical to the official v0.6 tag, its C++ sources are missing. Semantic segmentation needs none of
the compiled operators, so this script fetches that one archive (known by its SHA-256, never another), takes the Python
files of ``detectron2`` and of its projects ``point_rend`` and ``deeplab``, and has pip install them. An existing
detectron2, of any version, is left as it is.

    python tools/install_detectron2.py [--archive pb1-detectron2-0.6.tar.gz]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

REQUIREMENT = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

# pip 26.3 and newer decline a distribution of the public index whose metadata names a dependency by URL. This archive
# names one in an extra that is not installed. The last pip without that rule then fetches it, run from its own wheel.
DECLINES = (26, 3)
PIP = "pip==26.2"
PIP_SHA256 = "931c303696af6fa3417112103b1cad26890e5a07eccb5b99783700e33f2b8aad"

# Folder of the archive -> package it is installed as (the mapping of detectron2's own setup.py).
PACKAGES = {
    "detectron2": "detectron2",
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
}
# Model zoo configurations: 200 files for models with compiled operators.
EXCLUDED = PurePosixPath("detectron2/model_zoo/configs")
LICENSE = PurePosixPath("LICENSE")

# What the installed files import, with OpenCV where it is missing. detectron2's own list also pins old versions of
# black and iopath, and names what only its exporters and its Python-file configurations (LazyConfig) use.
PYPROJECT = """\
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "0.6"
description = "Python part of detectron2 0.6, without compiled operators (installed by san_cliptrase)"
requires-python = ">=3.10"
dependencies = [
    "cloudpickle", "fvcore>=0.1.5,<0.1.6", "iopath>=0.1.7", "matplotlib", "omegaconf>=2.1", "Pillow>=7.1",
    "pycocotools>=2.0.2", "tabulate", "tensorboard", "termcolor>=1.1", "torch", "torchvision", "tqdm>4.29.0",
    "yacs>=0.1.8", %s
]

[tool.setuptools.packages.find]
include = ["detectron2*"]
"""


# point_rend imports OpenCV for a colour augmentation. Distributions under four names bring the same module, and two of
# them in one environment overwrite each other: asked for only where there is none.
OPENCV = '"opencv-python-headless"'


class InstallError(Exception):
    """What went wrong and what to do, in words for the screen."""


def installed_version() -> str | None:
    """Version of the detectron2 that this Python imports; None if there is none, or only a half-finished install."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        # pip writes the metadata last: files in site-packages without it are an interrupted install.
        in_site_packages = Path(sysconfig.get_path("purelib")) in Path(spec.origin).parents
        return None if in_site_packages else "(a source tree)"


def fetch(folder: Path, requirement: str, sha256: str, options: list[str], pip: list[str]) -> Path:
    """Have pip fetch one file from the user's index. pip checks the hash before it runs anything in the file.

    Args:
        folder: where the file is saved.
        requirement: distribution and exact version.
        sha256: the only hash accepted.
        options: further options of ``pip download``.
        pip: command line that starts pip.

    Returns:
        Path of the file.

    Raises:
        InstallError: pip failed; its own words are passed on.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    options = ["--no-deps", "--require-hashes", *options]
    before = set(folder.iterdir())
    result = subprocess.run(
        [*pip, "download", *options, "--dest", str(folder), "-r", str(requirements)], capture_output=True, text=True
    )
    if result.returncode == 0:
        return (set(folder.iterdir()) - before).pop()
    got = re.search(r"\bGot\s+([0-9a-f]{64})", result.stderr)
    if got:
        raise InstallError(wrong_hash(f"the index's {requirement}", got[1], sha256))
    reason = "\n".join((result.stdout + result.stderr).strip().splitlines()[-12:])
    raise InstallError(
        f"pip could not fetch {requirement} from the configured package index. It said:\n\n{reason}\n\n"
        "Two ways on: pass the archive with --archive, or install detectron2 yourself. docs/install.md describes both."
    )


def pip_that_accepts(folder: Path) -> list[str]:
    """Command line of a pip that accepts the archive: the installed one, or an older one's wheel in ``folder``.

    Raises:
        InstallError: this Python has no pip, or the older pip could not be fetched.
    """
    pip = [sys.executable, "-m", "pip"]
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError as error:
        raise InstallError(f"{sys.executable} has no pip: install it with {sys.executable} -m ensurepip") from error
    if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < DECLINES:
        return pip
    return [sys.executable, str(fetch(folder, PIP, PIP_SHA256, ["--only-binary", ":all:"], pip) / "pip")]


def download(folder: Path) -> Path:
    """Have pip fetch the archive.

    Raises:
        InstallError: pip failed, or the index serves another archive.
    """
    # Metadata comes from the archive's setup.py, which imports torch: hence no build isolation.
    options = ["--no-binary", ":all:", "--no-build-isolation"]
    return fetch(folder, REQUIREMENT, SHA256, options, pip_that_accepts(folder))


def wrong_hash(what: str, got: str, expected: str) -> str:
    """The sentence that refuses ``what``."""
    return (
        f"Refusing {what}: its SHA-256 is not the known one, so it is not the file that was checked.\n"
        f"  expected {expected}\n  got      {got}\nNothing was installed."
    )


def check_hash(archive: Path) -> None:
    """Refuse an archive other than the known one.

    Raises:
        InstallError: the file cannot be read, or its SHA-256 differs.
    """
    try:
        got = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"Cannot read the archive {archive}: {error.strerror}.") from error
    if got != SHA256:
        raise InstallError(wrong_hash(str(archive), got, SHA256))


def destination(name: str) -> PurePosixPath | None:
    """Where the archive's file ``name`` belongs in the project, or None if it is not wanted.

    Only names below the known folders are answered, and never one that could leave them.
    """
    parts = PurePosixPath(name).parts[1:]
    inside = PurePosixPath(*parts)
    if inside == LICENSE:
        return inside
    if ".." in parts or name.startswith("/") or inside.suffix != ".py" or EXCLUDED in inside.parents:
        return None
    for source, package in PACKAGES.items():
        if PurePosixPath(source) in inside.parents:
            return package / inside.relative_to(source)
    return None


def unpack(archive: Path, project: Path) -> int:
    """Write the wanted files and a pyproject.toml to ``project``; returns the number of wanted files.

    Contents are copied file by file to names of our own making: links and special files of an archive are not followed.
    """
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            target = destination(member.name)
            content = tar.extractfile(member) if target is not None and member.isfile() else None
            if target is None or content is None:
                continue
            path = project / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
            count += 1
    (project / "pyproject.toml").write_text(PYPROJECT % ("" if importlib.util.find_spec("cv2") else OPENCV))
    return count


def install(project: Path) -> None:
    """Have pip install the prepared project into this Python, whose numpy stays: the newest OpenCV would replace it.

    Raises:
        InstallError: pip failed.
    """
    constraints = project / "constraints.txt"
    constraints.write_text(f"numpy=={importlib.metadata.version('numpy')}\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), str(project)]
    if subprocess.run(command).returncode:
        raise InstallError("pip could not install the prepared detectron2; its message is above.")


def main(argv: list[str] | None = None) -> int:
    """Command line: 0 when detectron2 is there afterwards, 1 with a reason on standard error otherwise."""
    parser = argparse.ArgumentParser(description="Install the Python part of detectron2 0.6, unless it is there.")
    parser.add_argument("--archive", type=Path, help=f"a source archive of {REQUIREMENT}, instead of the index's")
    args = parser.parse_args(argv)
    present = installed_version()
    if present is not None:
        print(f"detectron2 {present} is installed already and is left as it is.")
        return 0
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            archive = args.archive or download(folder)
            check_hash(archive)
            count = unpack(archive, folder / "project")
            print(f"Installing detectron2 0.6 ({count} files, no compiled operators).", flush=True)
            install(folder / "project")
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
