import copy
import os
import resource
import signal

import pytest
import torch

from incasem_like.config import ModelConfig
from incasem_like.errors import CheckpointError
from incasem_like.networks import build_network, load_checkpoint, read_checkpoint, save_checkpoint


def trained(description, updates=2):
    network = build_network(description)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=3e-5)
    for _ in range(updates):
        optimizer.zero_grad()
        network(torch.rand(1, 1, 44, 44, 44)).square().mean().backward()
        optimizer.step()
    return network, optimizer


def assert_same_weights(one, other):
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_file_holds_the_two_keys_and_nothing_else(tmp_path, small):
    network, optimizer = trained(small)
    save_checkpoint(tmp_path / "new" / "model_checkpoint_2", network, optimizer)
    content = torch.load(tmp_path / "new" / "model_checkpoint_2", weights_only=True)
    assert list(content) == ["model_state_dict", "optimizer_state_dict"]
    assert_same_weights(content["model_state_dict"], network.state_dict())
    assert list(content["optimizer_state_dict"]["state"]) == list(range(22))


def test_a_file_in_the_original_format_restores_weights_and_adam(tmp_path, small):
    network, optimizer = trained(small)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])  # as torch 1.x kept it
    for key in ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
        state["param_groups"][0].pop(key, None)
    torch.save({"model_state_dict": network.state_dict(), "optimizer_state_dict": state}, tmp_path / "old")
    fresh, adam = trained(small, updates=0)

    load_checkpoint(tmp_path / "old", fresh, adam)

    assert_same_weights(fresh.state_dict(), network.state_dict())
    volume = torch.rand(1, 1, 44, 44, 44)
    for one, its_optimizer in ((network, optimizer), (fresh, adam)):
        its_optimizer.zero_grad()
        one(volume).square().mean().backward()
        its_optimizer.step()
    assert_same_weights(fresh.state_dict(), network.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("bare", [True, False])
def test_bare_and_wrapped_states_load(tmp_path, small, prefix, bare):
    network = build_network(small)
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save(state if bare else {"model_state_dict": state, "optimizer_state_dict": {}}, tmp_path / "file")
    fresh = build_network(small)
    assert load_checkpoint(tmp_path / "file", fresh).optimizer_state is None
    assert_same_weights(fresh.state_dict(), network.state_dict())


def test_compiled_and_wrapped_networks_write_and_take_plain_names(tmp_path, small):
    network = build_network(small)
    save_checkpoint(tmp_path / "file", torch.nn.DataParallel(torch.compile(network)))
    assert_same_weights(read_checkpoint(tmp_path / "file").network_state, network.state_dict())
    fresh = build_network(small)
    load_checkpoint(tmp_path / "file", torch.compile(fresh))
    assert_same_weights(fresh.state_dict(), network.state_dict())


def test_channels_last_weights_are_written_in_the_usual_layout(tmp_path, small):
    network = build_network(small).to(memory_format=torch.channels_last_3d)
    save_checkpoint(tmp_path / "file", network)
    assert all(value.is_contiguous() for value in read_checkpoint(tmp_path / "file").network_state.values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_fmaps": 3}, "unet.l_conv.0.conv_pass.0.weight is 2x1x3x3x3 in the file and 3x1x3x3x3 in the network"),
        ({"num_fmaps_out": 5}, "final_conv_pass.conv_pass.0.weight is 2x2x3x3x3 in the file and 5x2x3x3x3"),
        ({"constant_upsample": False}, "it lacks unet.r_up.0.0.up.weight"),
        ({"downsample_factors": [[2, 2, 2]]}, "unet.r_conv.0.1.conv_pass.0.weight|it has unet.l_conv.2"),
        ({"type": "OneConv3d"}, "it lacks layer.weight"),
    ],
)
def test_weights_of_another_architecture_name_the_first_difference(tmp_path, small, changes, sentence):
    save_checkpoint(tmp_path / "file", build_network(small))
    network = build_network(ModelConfig.model_validate(vars(small) | changes))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"another architecture: ({sentence})"):
        load_checkpoint(tmp_path / "file", network)
    assert_same_weights(network.state_dict(), before)


def test_optimizer_state_that_is_missing_or_does_not_fit_is_refused(tmp_path, small):
    network, optimizer = trained(small, updates=1)
    save_checkpoint(tmp_path / "weights", network)
    with pytest.raises(CheckpointError, match="holds no optimizer state"):
        load_checkpoint(tmp_path / "weights", optimizer=optimizer)
    save_checkpoint(tmp_path / "both", network, optimizer)
    with pytest.raises(CheckpointError, match="does not fit this optimizer"):
        load_checkpoint(tmp_path / "both", optimizer=torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]))


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_a_sentence(tmp_path, small, kept):
    path = tmp_path / "model_checkpoint_7"
    save_checkpoint(path, *trained(small, updates=1))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="model_checkpoint_7"):
        load_checkpoint(path, build_network(small))


@pytest.mark.parametrize("content", [b"not a checkpoint at all", b"\x80\x02}q\x00.", b"PK\x03\x04"])
def test_a_foreign_file_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="file"):
        read_checkpoint(tmp_path / "file")


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    torch.save({"model_state_dict": {"a": Harmful()}, "optimizer_state_dict": {}}, tmp_path / "file")
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors alone"):
        read_checkpoint(tmp_path / "file")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"The checkpoint .*nowhere does not exist"):
        read_checkpoint(tmp_path / "nowhere")


def test_running_out_of_space_keeps_the_former_file_and_leaves_no_litter(tmp_path, small):
    path = tmp_path / "model_checkpoint_1"
    network = build_network(small)
    save_checkpoint(path, network)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(path, network)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
