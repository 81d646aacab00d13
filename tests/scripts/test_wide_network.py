"""The wider network begins as the shipped one, whatever the size of the picture."""

import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from sdvideo.restoration.network import RestorationNetwork
from sdvideo.weights import RESTORATION

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "training" / "wide_restoration"))
from wide_network import WideRestorationNetwork, widened


@pytest.fixture
def shipped() -> RestorationNetwork:
    network = RestorationNetwork()
    network.load_state_dict({k: v.float() for k, v in safetensors.torch.load_file(RESTORATION).items()})
    return network


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (16, 23), (9, 11), (1, 1)])
@torch.inference_mode()
def test_begins_as_the_shipped_network(shipped: RestorationNetwork, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    seen, setting = torch.randn(2, 52, *size) * 30, torch.randn(2, 2)
    assert torch.equal(widened(RESTORATION)(seen, setting), shipped(seen, setting))


@pytest.mark.parametrize("size", [(16, 16), (9, 12), (9, 11)])
@torch.inference_mode()
def test_branch_is_squares_as_channels(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    branch = WideRestorationNetwork().branch
    torch.nn.init.normal_(branch.leave.weight)
    x = torch.randn(1, 64, *size)
    padded = F.pad(x, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    plain = F.pixel_shuffle(branch.leave(branch.blocks(branch.enter(F.pixel_unshuffle(padded, 2)))), 2)
    assert torch.allclose(branch(x), plain[:, :, : size[0], : size[1]], atol=1e-4, rtol=1e-4)


def test_cost() -> None:
    assert 11_000 < WideRestorationNetwork().macs() <= 12_000
