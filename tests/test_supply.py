"""What an installation is made of: the wheel's data files, the oldest versions that are tested, the lock file."""

import importlib.util
import runpy
from fnmatch import fnmatch
from unittest import mock

import pytest

from tests.conftest import ROOT


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_data_file_of_the_package_goes_into_the_wheel():
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    arguments = setup.call_args.kwargs
    data = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "san_cliptrase").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, patterns in arguments["package_data"].items()
        for pattern in patterns
        if package in arguments["packages"]
    ]
    assert data and {name for name in data if not any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_every_requirement_has_an_oldest_version():
    oldest_requirements = tool("oldest_requirements")
    declared = oldest_requirements.declared(ROOT / "setup.py")
    pins = [oldest_requirements.oldest(requirement) for requirement in declared]
    names = [pin.split("==")[0] for pin in pins]
    assert {"torch", "transformers", "pytest"} <= set(names) and len(names) == len(set(names))


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch>=2,<3", "torch==2.4"])
def test_a_requirement_without_a_lower_bound_alone_is_named(requirement):
    with pytest.raises(ValueError, match=requirement):
        tool("oldest_requirements").oldest(requirement)


def test_a_lock_has_a_version_and_a_hash_for_each_package_and_no_address():
    def item(name, hashes):
        url = f"https://index.example/{name}-1.0.tar.gz"
        return {
            "metadata": {"name": name, "version": "1.0"},
            "download_info": {"url": url, "archive_info": {"hashes": hashes}},
        }

    report = {"install": [item("PyYAML", {"sha256": "ab"}), item("numpy", {"sha256": "cd"})]}
    assert tool("lock").lock(report) == ["numpy==1.0 --hash=sha256:cd", "PyYAML==1.0 --hash=sha256:ab"]
    with pytest.raises(ValueError, match=r"odd 1\.0"):
        tool("lock").lock({"install": [item("odd", {})]})
