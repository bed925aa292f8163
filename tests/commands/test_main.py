"""The one command: light until something is done, and what it says to what cannot be done."""

import json
import os
import subprocess
import sys

import pytest

from san_cliptrase.commands.main import CLOSED_PIPE, COMMANDS, Group, main, train_net
from san_cliptrase.engine import launch
from san_cliptrase.errors import DataError
from tests.conftest import ROOT, run_options


def names(group=COMMANDS, before=()):
    """Every command as the words that call it."""
    for name, node in group.commands.items():
        yield (*before, name)
        if isinstance(node, Group):
            yield from names(node, (*before, name))


def start(*arguments, **environment):
    """A process of its own."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


LIGHT = """
import contextlib, io, json, runpy, sys
import san_cliptrase
from san_cliptrase.commands.main import main, train_net

HEAVY = ["torch", "numpy", "detectron2", "PIL", "open_clip", "sklearn", "matplotlib", "scipy", "timm", "yaml"]
said = {}
for words in json.loads(sys.argv[1]):
    run = train_net if words == ["train_net.py"] else main
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run([*([] if run is train_net else words), "--help"])
    said[" ".join(words)] = [out.getvalue(), [name for name in HEAVY if name in sys.modules]]
print(json.dumps(said))
"""


def test_help_imports_nothing_heavy_and_names_every_option():
    asked = [[], *map(list, names()), ["train_net.py"]]
    said = json.loads(start("-c", LIGHT, json.dumps(asked)).stdout)
    assert len(said) == len(asked)
    for words, (text, heavy) in said.items():
        assert heavy == [], words
        assert text.startswith("usage: "), words
    for name, command in COMMANDS.commands.items():
        assert f"{name} " in said[""][0]
        assert command.about in said[""][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "required: COMMAND"),
        ("predikt", "did you mean predict?"),
        ("data lsit", "did you mean list?"),
        ("predict", "required: --output"),
        ("predict a.png --output out", "--vocabulary --vocabulary-file is required"),
        ("predict a.png --output out --vocabulary sky --vocabulary-file words.txt", "not allowed with"),
        ("predict a.png --output out --vocabulary sky --classify votes", "unknown way 'votes'"),
        ("predict a.png --output out --vocabulary sky --san run --cls-layer -3", "--cls-layer does not go with --san"),
        ("predict a.png --output out --vocabulary sky --batch-size 0", "--batch-size counts from 1"),
        ("predict a.png --output out --vocabulary sky --vocab sea", "unrecognized arguments: --vocab"),
        ("train", "required: --config"),
        ("train --config a.yaml --output out SEED 1 OUTPUT_DIR b", "--output and OUTPUT_DIR are the same setting"),
        ("evaluate --config a.yaml --device cpu MODEL.DEVICE cuda", "--device and MODEL.DEVICE are the same"),
        ("evaluate --config a.yaml --num-gpus two", "invalid int value: 'two'"),
        ("data check", "required: NAME"),
        ("export run", "required: --output"),
        ("export run --output a SEED 1", "go with --format san"),
        ("export run --output a --format san MODEL.WEIGHTS b", "give the checkpoint in its place"),
        ("convergence --jobs 2", "--config --compare --csv is required"),
        ("convergence --compare a", "two folders or more"),
        ("convergence --config a.yaml --jobs 0", "count from 1"),
        ("convergence --config a.yaml --levels 0.9", "--levels goes with --compare and --csv"),
        ("convergence --csv a.csv --dataset b", "--labels and --dataset go with --compare"),
        ("convergence --csv a.csv --report-only", "--cost go with --config"),
        ("reproduce tabel3", "there is no 'tabel3'; did you mean table3"),
        ("reproduce figure2 --source timm:test_vit", "figure2 takes no --source"),
        ("reproduce figure1 SEED 1", "figure1 takes no KEY VALUE"),
        ("demo --seed 1", "unrecognized arguments: --seed"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_and_status_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    words = next(
        (words for words in sorted(names(), key=len, reverse=True) if tuple(arguments.split())[: len(words)] == words),
        (),
    )
    assert f"(see {' '.join(['san-cliptrase', *words])} --help)" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("predict absent.png --output out --vocabulary sky", "there is no image absent.png"),
        ("train --config absent.yaml --output out", "absent.yaml"),
        ("evaluate --config absent.yaml --output out", "absent.yaml"),
        ("data check ade510_val", "unknown dataset 'ade510_val'; did you mean ade150_val"),
        ("data register absent", "there is no folder"),
        ("export absent --output out.pth --format san", "there is no configuration"),
        ("convergence --config absent.yaml", "absent.yaml"),
        ("convergence --compare absent1 absent2", "absent1"),
        ("reproduce table3 --config absent.yaml", "absent.yaml"),
    ],
)
def test_bad_input_is_one_line_and_status_1(arguments, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]  # log lines
    assert line.startswith("error: ")
    assert said in line


def ends(monkeypatch, raised):
    def execute(options):
        raise raised

    monkeypatch.setattr(launch, "execute", execute)
    return main(["train", "--config", "a.yaml"])


def test_messages_of_libraries_become_one_line_that_a_terminal_only_shows(monkeypatch, capsys):
    assert ends(monkeypatch, DataError("first\n  second \x1b[31m\u202e third")) == 1
    assert capsys.readouterr().err == "error: first second \\x1b[31m\\u202e third\n"


def test_an_error_of_the_system_about_a_file_is_one_line(monkeypatch, capsys):
    assert ends(monkeypatch, PermissionError(13, "Permission denied", "/a/file")) == 1
    assert capsys.readouterr().err == "error: /a/file: Permission denied\n"


def test_mistakes_in_the_program_are_not_hidden(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        ends(monkeypatch, ZeroDivisionError())


def test_after_ctrl_c_it_says_how_to_go_on(monkeypatch, capsys):
    assert ends(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip() == "stopped; the same command with --resume goes on"


def test_output_and_device_are_names_for_keys(monkeypatch):
    seen = []
    monkeypatch.setattr(launch, "execute", seen.append)
    for name in ("train", "evaluate"):
        assert main([name, "SEED", "1", "--config", "a.yaml", "TEST.X", "-1", "--output", "o", "--device", "cpu"]) == 0
    shared = {"config_file": "a.yaml", "opts": ["SEED", "1", "TEST.X", "-1", "OUTPUT_DIR", "o", "MODEL.DEVICE", "cpu"]}
    assert [vars(options) | shared for options in seen] == [vars(options) for options in seen]
    assert [options.eval_only for options in seen] == [False, True]


def test_train_net_has_all_of_detectron2s_options(monkeypatch):
    """Also what its launch reads from them, such as the port of the processes."""
    from detectron2.engine import default_argument_parser

    theirs = default_argument_parser()
    line = ["--config", "a.yaml", "--eval-only", "--resume", "--num-gpus", "2", "--machine-rank", "1"]
    for arguments in (["--config-file", "a.yaml"], [*line, "--num-machines", "3", "--dist-url", "b", "SEED", "-1"]):
        expected = vars(theirs.parse_args(arguments))
        if "--dist-url" not in arguments:
            expected["dist_url"] = "auto"  # detectron2's port is one for all runs of a user
        assert expected == {key: value for key, value in vars(run_options(arguments)).items() if key in expected}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--eval-only"], "name a configuration"),
        (["--config", "a.yaml", "SEED", "1", "--skip-bad"], "--skip-bad stands behind KEY VALUE"),
    ],
)
def test_train_net_says_what_is_missing_or_lost(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        train_net(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["train_net.py", "--config", "a.yaml"], ["-m", "san_cliptrase", "data", "list"]], ids=lambda a: a[-1]
)
def test_without_detectron2_there_is_one_clear_sentence(arguments):
    run = f"run_path({arguments[0]!r}" if arguments[0] != "-m" else f"run_module({arguments[1]!r}"
    code = f"import runpy, sys; sys.modules['detectron2'] = None; sys.argv[1:] = {arguments[-2:]!r}; "
    result = start("-c", f"{code} runpy.{run}, run_name='__main__')")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: detectron2 is not installed")
    assert "make setup" in line


def test_threads_wait_without_spinning_unless_the_user_wants_otherwise(monkeypatch):
    for given, found in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        seen = []
        monkeypatch.setattr(launch, "execute", lambda options, seen=seen: seen.append(os.environ["OMP_WAIT_POLICY"]))
        assert main(["train", "--config", "a.yaml"]) == 0
        assert train_net(["--config", "a.yaml"]) == 0
        assert seen == [found] * 2


CLOSED = """
import sys
from san_cliptrase.commands import main

main.exit_status = lambda run: print("a line")
sys.exit(main.main(["demo"]))
"""


def test_a_reader_who_has_had_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", CLOSED], cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (CLOSED_PIPE, "")
