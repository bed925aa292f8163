"""What a file is that was given as weights: told before it is loaded, and without running what is in it."""

from __future__ import annotations

import codecs
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from san_cliptrase.errors import WeightsError
from san_cliptrase.texts import one_line

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = {"d": "a folder", "p": "a named pipe", "c": "a device", "b": "a device", "s": "a socket"}
_FORMATS = {
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file, as TensorFlow writes",
    b"\x93NUMPY": "a NumPy array",
}
_ZIP, _PICKLE = b"PK", b"\x80"  # what torch.save writes, now and before version 1.6


def describe_wrong_file(path: Path) -> str | None:
    """What is wrong with a file of weights as a file, as the end of a sentence that begins with its name.

    Only regular files are opened. What is in them is not looked at: whose weights they are is the caller's question.

    Args:
        path: The file.

    Returns:
        For example "is empty"; None for a whole file of ``torch.save`` with nothing but tensors and plain values, of
        safetensors, or of TorchScript (see ``is_torchscript``).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"is {_KINDS.get(stat.filemode(status.st_mode)[0], 'something else')}, not a weights file"
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not start:
        return "is empty: download or copy it again"
    if (text := _as_text(start)) is not None:
        return _describe_text(text)
    # Eight bytes that say how long the header is, then JSON.
    named, safetensors = path.suffix == ".safetensors", start[4:9] == b"\0\0\0\0{"
    if safetensors and named:
        return _describe_safetensors(path)
    if safetensors:
        return "is in the safetensors format: give it a name that ends in .safetensors"
    if not start.startswith((_ZIP, _PICKLE)):
        kind = next((kind for magic, kind in _FORMATS.items() if start.startswith(magic)), None)
        return f"is {kind}, not a weights file" if kind else "is not a weights file of PyTorch or safetensors"
    if named:
        return "is not in the safetensors format, but a file of torch.save: give it a name that ends in .pt"
    return _describe_torch(path, zipped=start.startswith(_ZIP))


def refuse_not_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that give no numbers: everything that is computed from them would be one class.

    Raises:
        WeightsError: One is NaN or infinite.
    """
    import torch  # see below

    for name, value in tensors.items():
        # The extremes are NaN if any number is, and take no memory.
        if value.is_floating_point() and value.numel() and not torch.stack(torch.aminmax(value)).isfinite().all():
            wrong = f"{int((~value.isfinite()).sum())} of the {value.numel()} numbers in {one_line(name)}"
            raise WeightsError(
                f"the weights {source!r} cannot be used: {wrong} are NaN or infinite, as after training that diverged "
                "or an overflow of half precision"
            )


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip archive with TorchScript code; torch.save's archives have none."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def is_packed(path: Path) -> bool:
    """Whether a zip archive holds more than its size, as one that fills the memory does; torch.save never packs.

    Raises:
        zipfile.BadZipFile, OSError: It cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    return packed or sum(member.file_size for member in members) > path.stat().st_size


def refuse_whole_numbers(real: Mapping[str, bool], own: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are no real numbers where a model has real ones: torch would cut off what does not fit.

    Args:
        real: Name in the model -> whether the file has real numbers there.
        own: The model's weights.
        source: What has them, for the message.

    Raises:
        WeightsError: One is of whole numbers, truth values or complex numbers.
    """
    for name, is_real in real.items():
        if not is_real and name in own and own[name].is_floating_point():
            raise WeightsError(
                f"the weights {source!r} cannot be used: {one_line(name)} does not hold real numbers, as after a "
                "quantisation: take the weights that they were made from"
            )


def names_with_kinds(path: Path) -> dict[str, bool]:
    """Name -> whether it holds real numbers, of a file in which :func:`describe_wrong_file` finds nothing wrong."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            names = list(file.keys())
            return {name: file.get_slice(name).get_dtype().startswith(("F", "BF")) for name in names}
    import torch  # see below

    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
    return {
        str(name).removeprefix("module."): value.is_floating_point()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _as_text(start: bytes) -> str | None:
    """The first bytes of a file as text; None if they are none."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    return text if all(c.isprintable() or c.isspace() for c in text) else None


def _describe_text(text: str) -> str:
    if text.startswith("version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run git lfs pull in its repository, or download the file"
    if text.lstrip().lower().startswith(("<!doctype html", "<html")):
        return "is a web page, not a weights file: download the file itself, not the page that shows it"
    return f"is a text, not a weights file; it begins {one_line(text, 60)!r}"


def _describe_safetensors(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return None if file.keys() else "holds no weights: there are no tensors in it"
    except SafetensorError as error:
        return f"is not a whole safetensors file ({one_line(error, 100)}): download or copy it again"


def _describe_torch(path: Path, zipped: bool) -> str | None:
    import torch  # this module is also for those who want no torch

    if zipped and not zipfile.is_zipfile(path):
        return "is not whole, its end is missing: download or copy it again"
    try:
        if is_torchscript(path):
            return None
        if zipped and is_packed(path):
            return "is a compressed archive, which torch.save never writes: unpack it, if it holds a weights file"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:  # its message advises to load the file with weights_only=False
        name = re.search(r"GLOBAL (\S+)", str(error))
        found = f" ({one_line(name[1], 80)})" if name else ""
        return (
            f"holds Python objects{found}, not weights alone, and is not loaded because that could run code: where it "
            "was made, save the weights alone with torch.save(model.state_dict(), FILE)"
        )
    except Exception:  # torch's reader meets damage with errors of any type
        return "is not a whole weights file of PyTorch: download or copy it again"
    return None
