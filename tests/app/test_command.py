import socket
import sys

import pytest

from san_cliptrase.commands.main import main


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'san_cliptrase[app]'" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--port", "70000"], "--port is a number from 0 to 65535"), (["--max-upload", "0"], "megabytes from 1")],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(["app", *arguments])
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys):
    pytest.importorskip("gradio", reason="needs gradio: pip install 'san_cliptrase[app]'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port)]) == 1
    assert f"--port {port}: Address already in use. Choose another port" in capsys.readouterr().err
