"""``san-cliptrase data register`` as tests call it."""

from detectron2.data import DatasetCatalog, MetadataCatalog

from san_cliptrase.commands.main import main
from san_cliptrase.data.own import OWN


def register(folder, *arguments):
    """The exit status."""
    return main(["data", "register", str(folder), "--workers", "1", *arguments])


def error_of(capsys, *arguments):
    """What it writes to stderr, where it ends with status 1."""
    capsys.readouterr()
    assert register(*arguments) == 1
    return capsys.readouterr().err


def forget_registered():
    """Removes all own datasets from this process."""
    for name in [*OWN]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        del OWN[name]
