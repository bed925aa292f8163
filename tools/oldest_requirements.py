"""Print the oldest version of every package that setup.py allows, as pip's constraints.

    python tools/oldest_requirements.py > constraints.txt

`make test-oldest` runs the tests on these versions. setup.py is run for it, with a stand-in for setuptools.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from unittest import mock

SETUP = Path(__file__).parents[1] / "setup.py"


def declared(setup_file: Path) -> list[str]:
    """Every requirement that ``setup_file`` declares, those of its extras included, sorted and without repeats."""
    setuptools = mock.Mock()
    with mock.patch.dict(sys.modules, setuptools=setuptools):
        runpy.run_path(str(setup_file))
    arguments = setuptools.setup.call_args.kwargs
    return sorted(set(arguments["install_requires"]).union(*arguments["extras_require"].values()))


def oldest(requirement: str) -> str:
    """``name==version`` of the oldest version that ``requirement`` allows.

    Raises:
        ValueError: it is not of the form ``name>=version``, so it has no lower bound that could be tested.
    """
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
    if found is None:
        raise ValueError(f"{requirement!r} in setup.py is not of the form name>=version")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{oldest(requirement)}\n" for requirement in declared(SETUP))
