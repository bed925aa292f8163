import os
import pickle

import pytest
import torch

from san_cliptrase.checkpoints import checkpointer
from san_cliptrase.checkpoints.checkpointer import SafeCheckpointer
from san_cliptrase.checkpoints.files import names_in
from san_cliptrase.checkpoints.official_keys import POS_EMBED
from san_cliptrase.errors import CheckpointError, DivergedError, OutputError
from tests.checkpoints.official_keys import official_state


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))


@pytest.fixture
def saver(model, tmp_path):
    return SafeCheckpointer(model, str(tmp_path))


def copy_of(state):
    return {key: value.clone() for key, value in state.items()}


def test_weights_come_back(model, saver, tmp_path):
    expected = copy_of(model.state_dict())
    saver.save("one", iteration=7)
    torch.nn.init.zeros_(model[0].weight)
    rest = saver.resume_or_load("", resume=True)
    assert rest["iteration"] == 7
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "one.pth"]


def test_a_bare_state_is_taken_too(model, saver, tmp_path):
    state = {key: value + 1 for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "bare.pth")
    saver.load(str(tmp_path / "bare.pth"))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def half_way(data, file, *_, **__):
    file.write(b"half")
    raise OSError("disk full")


def test_a_save_that_fails_leaves_the_last_checkpoint_whole(model, saver, tmp_path, monkeypatch):
    saver.save("last")
    before = (tmp_path / "last.pth").read_bytes()
    monkeypatch.setattr(checkpointer.torch, "save", half_way)
    for name in ("last", "next"):
        with pytest.raises(OutputError, match=f"{name}.pth: disk full"):
            saver.save(name)
    assert (tmp_path / "last.pth").read_bytes() == before
    assert not (tmp_path / "next.pth").exists()
    assert saver.get_checkpoint_file() == str(tmp_path / "last.pth")
    monkeypatch.undo()
    saver.resume_or_load("", resume=True)


def test_a_missing_checkpoint_is_named(saver):
    with pytest.raises(CheckpointError, match="no checkpoint /nowhere/x.pth"):
        saver.load("/nowhere/x.pth")


@pytest.mark.parametrize("keep", [0, 10, 600])
def test_a_truncated_checkpoint_is_named(saver, tmp_path, keep):
    saver.save("cut")
    path = tmp_path / "cut.pth"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*cut\.pth"):
        saver.load(str(path))


class Evil:
    def __init__(self, made):
        self.made = str(made)

    def __reduce__(self):
        import os

        return os.mkdir, (self.made,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(model, saver, tmp_path, writer):
    made, path = tmp_path / "made", tmp_path / "evil.pth"
    data = {"model": model.state_dict(), "extra": Evil(made)}
    if writer == "torch":
        torch.save(data, path)
    else:
        path.write_bytes(pickle.dumps(data, protocol=2))
    with pytest.raises(CheckpointError, match=r"evil\.pth") as caught:
        saver.load(str(path))
    assert not made.exists()
    assert "weights_only" not in str(caught.value)  # torch advises to load such files in a way that runs them


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_pipes_and_devices_are_refused_and_not_waited_for(saver, tmp_path, make):
    make(tmp_path / "model_0000001.pth")
    assert names_in(tmp_path / "model_0000001.pth") == frozenset()
    with pytest.raises(ValueError, match="it is not a regular file but a pipe"):
        saver.load(str(tmp_path / "model_0000001.pth"))
    saver.tag_last_checkpoint("model_0000001.pth")
    with pytest.raises(ValueError, match="it is not a regular file but a pipe"):
        saver.resume_or_load("", resume=True)


def test_another_models_checkpoint_says_what_does_not_fit(model, saver, tmp_path):
    state = copy_of(model.state_dict())
    del state["1.bias"]
    state["head.weight"] = torch.zeros(2)
    state["0.weight"] = torch.zeros(5, 3)
    torch.save({"model": state}, tmp_path / "other.pth")
    before = copy_of(model.state_dict())
    with pytest.raises(CheckpointError, match="of another model") as caught:
        saver.load(str(tmp_path / "other.pth"))
    message = str(caught.value)
    assert "1 missing (1.bias)" in message
    assert "1 unknown (head.weight)" in message
    assert "0.weight (5, 3) instead of (4, 3)" in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_is_no_dictionary_is_refused(saver, tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match=r"tensor\.pth holds a Tensor"):
        saver.load(str(tmp_path / "tensor.pth"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_weights_that_are_not_finite_are_refused_by_name(model, saver, tmp_path, value):
    state = copy_of(model.state_dict())
    state["1.bias"][2] = value
    torch.save({"model": state}, tmp_path / "bad.pth")
    before = copy_of(model.state_dict())
    with pytest.raises(CheckpointError, match=r"bad\.pth: the checkpoint holds NaN or infinity in 1\.bias\."):
        saver.load(str(tmp_path / "bad.pth"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_weights_that_are_no_real_numbers_are_not_rounded(model, saver, tmp_path, kind):
    state = {**model.state_dict(), "0.weight": model.state_dict()["0.weight"].to(kind)}
    torch.save({"model": state}, tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"whole\.pth: the checkpoint holds no real numbers in 0\.weight"):
        saver.load(str(tmp_path / "whole.pth"))


def test_lists_that_hold_the_same_list_again_and_again_are_not_walked_through(model, saver, tmp_path):
    unfolded = []
    for _ in range(40):
        unfolded = [unfolded, unfolded]
    torch.save({"model": model.state_dict(), "trainer": {"optimizer": unfolded}}, tmp_path / "model_0000001.pth")
    with pytest.raises(CheckpointError, match=r"model_0000001\.pth holds more than 1048576 values"):
        saver.load(str(tmp_path / "model_0000001.pth"))


def test_half_precision_that_overflowed_is_refused(model, saver, tmp_path):
    state = {key: (1e6 * value).half() for key, value in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 0\.weight"):
        saver.load(str(tmp_path / "half.pth"))


def test_a_resumed_run_passes_over_a_checkpoint_that_is_not_finite(model, saver, tmp_path, caplog):
    saver.save("model_0000001", iteration=1)
    saver.save("model_0000003", iteration=3)
    state = torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    state["model"]["0.weight"][:] = float("nan")
    torch.save(state, tmp_path / "model_0000003.pth")
    assert saver.resume_or_load("", resume=True)["iteration"] == 1
    assert saver.resumed_from == tmp_path / "model_0000001.pth"
    assert "0.weight" in caplog.text


@pytest.mark.parametrize("where", ["weight", "moment"])
def test_what_is_not_finite_is_not_saved(model, tmp_path, where):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saver = SafeCheckpointer(model, str(tmp_path), optimizer=optimizer)
    saver.save("good")
    if where == "weight":
        model[0].weight.data[0, 0] = float("nan")
    else:
        optimizer.state[model[0].weight]["exp_avg"][0, 0] = float("inf")
    with pytest.raises(DivergedError, match="model has diverged: NaN or infinity in "):
        saver.save("bad")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.pth", "last_checkpoint"]
    assert (tmp_path / "last_checkpoint").read_text() == "good.pth"


def test_the_activation_of_a_checkpoints_clip_is_compared(world, tmp_path):
    model = world.model()
    SafeCheckpointer(model, str(tmp_path)).save("one")
    state = torch.load(tmp_path / "one.pth", weights_only=True)
    state["quick_gelu"] = not state["quick_gelu"]
    torch.save(state, tmp_path / "one.pth")
    with pytest.raises(CheckpointError, match=r"one\.pth: the checkpoint's CLIP has (Quick)?GELU"):
        SafeCheckpointer(model).load(str(tmp_path / "one.pth"))


@pytest.mark.parametrize("address", ["https://example.invalid/x.pth", "s3://a/b.pth"])
def test_addresses_are_not_fetched(saver, address):
    with pytest.raises(CheckpointError, match="is an address: download the file first"):
        saver.load(address)


DEPTH, FIRST = 6, 4  # the tiny model's CLIP, and the first of its blocks that recognises


def release_of(model, path, **changes):
    """Saves the weights of a model of ours, changed by 0.5, as the official SAN would; returns them by our names."""
    ours = {k: v + 0.5 for k, v in model.state_dict().items() if not k.startswith("network.query_init.")}
    state = official_state(ours, DEPTH, FIRST) | {"criterion.empty_weight": torch.ones(3), **changes}
    torch.save({"model": state, "iteration": 59999}, path)
    return ours


@pytest.mark.parametrize("name", ["off", "tokens_prior"])
def test_a_release_of_the_official_san_loads(world, tmp_path, name):
    model = world.model(
        model__san__recognition_layer=FIRST - DEPTH,
        model__san__query_init__name=name,
        model__san__query_init__zero_init=True,
    )
    before = copy_of(model.state_dict())
    ours = release_of(model, tmp_path / "san.pth")
    SafeCheckpointer(model).load(str(tmp_path / "san.pth"))
    for key, value in model.state_dict().items():
        # The official SAN has no query initialisation: it stays as it was built.
        assert torch.equal(value, ours.get(key, before[key])), key
    assert POS_EMBED in ours


def test_a_release_needs_a_model_that_begins_as_plain_san(world, tmp_path):
    model = world.model(model__san__query_init__name="prior", model__san__recognition_layer=FIRST - DEPTH)
    release_of(model, tmp_path / "san.pth")
    with pytest.raises(CheckpointError, match=r"san\.pth.*MODEL\.SAN\.QUERY_INIT\.ZERO_INIT True"):
        SafeCheckpointer(model).load(str(tmp_path / "san.pth"))


def test_a_damaged_release_is_refused_by_name(world, tmp_path):
    torch.save({"model": {"side_adapter_network.surprise": torch.zeros(1)}}, tmp_path / "san.pth")
    with pytest.raises(CheckpointError, match=r"san\.pth.*side_adapter_network\.surprise"):
        SafeCheckpointer(world.model()).load(str(tmp_path / "san.pth"))


def test_a_release_of_san_is_no_checkpoint_of_cliptrase(world, tmp_path):
    torch.save({"model": {"side_adapter_network.query_embed": torch.zeros(1)}}, tmp_path / "san.pth")
    with pytest.raises(CheckpointError, match="of another model"):
        SafeCheckpointer(world.model("cliptrase")).load(str(tmp_path / "san.pth"))
