"""tools/install_detectron2.py: one known archive, nothing written elsewhere, an existing detectron2 left alone."""

import hashlib
import importlib.metadata
import importlib.util
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "install_detectron2.py"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("install_detectron2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"pip must not be run: {args}")

    monkeypatch.setattr(subprocess, "run", refuse)


def write_archive(path, names, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(b"x = 1\n")
            tar.addfile(member, io.BytesIO(b"x = 1\n"))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def test_projects_become_subpackages_and_the_rest_is_left_out(tool, tmp_path):
    names = [
        "d/LICENSE",
        "d/setup.py",
        "d/tools/__init__.py",
        "d/detectron2/__init__.py",
        "d/detectron2/model_zoo/configs/Misc/x.py",
        "d/projects/PointRend/point_rend/point_features.py",
        "d/projects/PointRend/train_net.py",
        "d/projects/Panoptic-DeepLab/panoptic_deeplab/config.py",
    ]
    project = tmp_path / "project"
    assert tool.unpack(write_archive(tmp_path / "a.tar.gz", names), project) == 3
    assert sorted(str(p.relative_to(project)) for p in project.rglob("*") if p.is_file()) == [
        "LICENSE",
        "detectron2/__init__.py",
        "detectron2/projects/point_rend/point_features.py",
        "pyproject.toml",
    ]


def test_nothing_is_written_outside_the_project_and_links_are_not_followed(tool, tmp_path):
    names = ["d/detectron2/../../../evil.py", "/detectron2/evil.py", "../detectron2/evil.py", "d/detectron2/good.py"]
    links = [("d/detectron2/linked.py", "/etc/passwd"), ("d/detectron2/folder", str(tmp_path))]
    names.append("d/detectron2/folder/inside.py")
    project = tmp_path / "deep" / "project"
    tool.unpack(write_archive(tmp_path / "a.tar.gz", names, links), project)
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.py")}
    inside = "deep/project/detectron2/"
    assert written <= {inside + "good.py", inside + "evil.py", inside + "folder/inside.py"}
    assert inside + "good.py" in written
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


def test_another_archive_is_refused_with_both_hashes(tool, tmp_path, capsys, monkeypatch, no_pip):
    monkeypatch.setattr(tool, "installed_version", lambda: None)
    archive = write_archive(tmp_path / "other.tar.gz", ["d/detectron2/__init__.py"])
    assert tool.main(["--archive", str(archive)]) == 1
    message = capsys.readouterr().err
    assert "Refusing" in message and tool.SHA256 in message
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in message


def test_an_unreadable_archive_is_named(tool, tmp_path, capsys, monkeypatch, no_pip):
    monkeypatch.setattr(tool, "installed_version", lambda: None)
    assert tool.main(["--archive", str(tmp_path / "absent.tar.gz")]) == 1
    assert "absent.tar.gz" in capsys.readouterr().err


def test_an_index_that_serves_another_archive_is_refused(tool, tmp_path, monkeypatch):
    got = "0123456789abcdef" * 4
    answer = subprocess.CompletedProcess(
        [], 1, "", f"ERROR: DO NOT MATCH\n   Expected sha256 x\n        Got        {got}\n"
    )
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    with pytest.raises(tool.InstallError, match=got):
        tool.download(tmp_path)


def test_pip_is_asked_for_the_known_hash_only(tool, tmp_path, monkeypatch):
    def pip(command, **kwargs):
        requirements = Path(command[command.index("-r") + 1]).read_text()
        assert "--require-hashes" in command and requirements.strip().endswith(tool.SHA256)
        return subprocess.CompletedProcess(command, 1, "", "no such host")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "26.2.1")
    with pytest.raises(tool.InstallError, match=r"no such host[\s\S]*--archive"):
        tool.download(tmp_path)


@pytest.mark.parametrize("version", ["26.3", "26.3.dev0", "27.0b1"])
def test_a_pip_that_declines_the_archive_fetches_an_older_one_first(tool, tmp_path, monkeypatch, version):
    asked = []

    def pip(command, **kwargs):
        asked.append((command[1:-1], Path(command[command.index("-r") + 1]).read_text().strip()))
        name = "pip.whl" if len(asked) == 1 else "archive.tar.gz"
        (tmp_path / name).touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert tool.download(tmp_path) == tmp_path / "archive.tar.gz"
    (first, old_pip), (second, archive) = asked
    assert first[:2] == ["-m", "pip"] and old_pip == f"{tool.PIP} --hash=sha256:{tool.PIP_SHA256}"
    assert second[0] == str(tmp_path / "pip.whl" / "pip") and archive.endswith(tool.SHA256)
    assert "--require-hashes" in first and "--require-hashes" in second


def test_an_existing_detectron2_is_left_as_it_is(tool, capsys, no_pip):
    assert tool.installed_version() is not None
    assert tool.main([]) == 0
    assert "left as it is" in capsys.readouterr().out


def test_files_of_an_interrupted_install_do_not_count(tool, tmp_path, monkeypatch):
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("")
    spec = importlib.util.spec_from_file_location("detectron2", tmp_path / "detectron2" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(tool.importlib.metadata, "version", raise_not_found)
    assert tool.installed_version() == "(a source tree)"
    monkeypatch.setattr(tool.sysconfig, "get_path", lambda name: str(tmp_path))
    assert tool.installed_version() is None


def raise_not_found(name):
    raise importlib.metadata.PackageNotFoundError(name)
