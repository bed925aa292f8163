"""Write down every package of this Python's environment with its exact version and the SHA-256 of its file.

    .venv/bin/python tools/lock.py requirements.lock

The hashes are those of the files that the configured index serves for this Python and machine, so that
`pip install --require-hashes` accepts no others. detectron2 is not listed, since tools/install_detectron2.py fixes it,
nor is this project, which is a commit of its repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PIP = [sys.executable, "-m", "pip"]


def lock(report: dict) -> list[str]:
    """Lines of a requirements file from pip's installation report.

    Raises:
        ValueError: the index gave no SHA-256 for a package.
    """
    lines = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if sha256 is None:
            raise ValueError(f"no SHA-256 for {name} {version}: it does not come from a package index")
        lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    return sorted(lines, key=str.lower)


def main(output: Path) -> None:
    """Ask pip what is installed, then which file each package would be installed from. Nothing is installed."""
    freeze = [*PIP, "freeze", "--exclude-editable", "--exclude", "detectron2"]
    installed = subprocess.run(freeze, check=True, stdout=subprocess.PIPE).stdout
    with tempfile.TemporaryDirectory() as name:
        requirements, report = Path(name, "requirements.txt"), Path(name, "report.json")
        requirements.write_bytes(installed)
        options = ["--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
        subprocess.run([*PIP, "install", *options, "--report", str(report), "-r", str(requirements)], check=True)
        lines = lock(json.loads(report.read_bytes()))
    output.write_text("".join(f"{line}\n" for line in lines))
    print(f"{output}: {len(lines)} packages")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
