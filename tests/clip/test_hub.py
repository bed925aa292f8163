import socket
import threading

import huggingface_hub
import pytest
from huggingface_hub import constants

from san_cliptrase.clip import hub
from san_cliptrase.clip.hub import why_unreachable, without_retries


@pytest.fixture
def server():
    """A server that takes connections and never answers."""
    with socket.create_server(("localhost", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_hub_that_is_silent_is_waited_for_a_bounded_time(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", f"http://localhost:{server}")
    monkeypatch.setattr(hub, "ANSWERS_WITHIN", 0.2)
    assert why_unreachable().startswith("localhost cannot be reached (")


def test_a_name_server_that_is_silent_is_waited_for_a_bounded_time(monkeypatch):
    answered = threading.Event()

    class Stuck:
        def head(self, *args, **kwargs):
            answered.wait()  # whatever time limit was asked for

    monkeypatch.setattr(hub, "get_session", Stuck)
    monkeypatch.setattr(hub, "ANSWERS_WITHIN", 0.2)
    assert why_unreachable().endswith("cannot be reached (no answer within 0.2 s)")
    answered.set()


def test_what_is_in_the_cache_is_found_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:9")  # nothing listens there
    snapshot = tmp_path / "models--someone--clip" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--someone--clip" / "refs").mkdir()
    (tmp_path / "models--someone--clip" / "refs" / "main").write_text(snapshot.name)
    with without_retries() as trouble:
        found = huggingface_hub.hf_hub_download("someone/clip", "config.json", cache_dir=tmp_path)
        with pytest.raises(OSError):
            huggingface_hub.hf_hub_download("someone/clip", "weights.bin", cache_dir=tmp_path)
    assert found == str(snapshot / "config.json")
    assert "localhost cannot be reached" in trouble
    assert not constants.HF_HUB_OFFLINE


def test_an_offline_mode_that_was_asked_for_is_named_and_kept(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with without_retries() as trouble:
        assert "HF_HUB_OFFLINE is set" in trouble
    assert constants.HF_HUB_OFFLINE
