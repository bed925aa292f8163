"""A root of datasets, and the command that fills it."""

import pytest

from san_cliptrase.commands.main import main


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The root of the datasets."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def prepare(root):
    """Function of the arguments of ``prepare``; the exit status."""
    return lambda *arguments: main(["data", "prepare", *arguments, "--workers", "1"])
