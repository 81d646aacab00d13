"""The restoration network with a wider view: a branch at an eighth of the resolution beside the trunk.

    [B, 64, H/4, W/4] -> blocks 0..2 -> + branch -> blocks 3..5

    branch: 2x2 squares as channels (64 -> 256) -> narrow 1x1 (128) -> 4 residual blocks of 128 channels
            -> widen 1x1 (256), zero at first -> channels as 2x2 squares

A block of the trunk looks 4 samples further, one of the branch 8, so the network sees 56 samples to each side instead
of 24. The branch adds 5,200 multiplications per full-size luma pixel to the 6,760 of the trunk. Since its last layer
begins at zero, the network begins as the one whose weights the trunk has.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from sdvideo.restoration.network import BLOCKS, ResidualBlock, RestorationNetwork

BRANCH_AFTER = 3  # blocks of the trunk
BRANCH_BLOCKS, _BRANCH_CHANNELS, _TRUNK_CHANNELS = 4, 128, 64


class WideBranch(nn.Module):
    """What is added to the trunk, at half of its resolution. Odd sides are continued by their last row or column."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(4 * _TRUNK_CHANNELS, _BRANCH_CHANNELS, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(_BRANCH_CHANNELS) for _ in range(BRANCH_BLOCKS)))
        self.leave = nn.Conv2d(_BRANCH_CHANNELS, 4 * _TRUNK_CHANNELS, 1)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            for block in self.blocks:
                block.look.weight[:, :, 1, 1] += 1
                nn.init.kaiming_normal_(block.widen.weight, nonlinearity="relu")
                block.narrow.weight *= 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        # The same as unshuffling the squares into channels and a 1x1 convolution, without the copy.
        weight = self.enter.weight.view(_BRANCH_CHANNELS, _TRUNK_CHANNELS, 2, 2)
        seen = self.blocks(F.conv2d(x, weight, self.enter.bias, stride=2))
        return F.pixel_shuffle(self.leave(seen), 2)[:, :, :height, :width]


class WideRestorationNetwork(RestorationNetwork):
    """(seen, conditioning) -> output - upscaled, as RestorationNetwork."""

    def __init__(self):
        super().__init__()
        self.branch = WideBranch()
        self.blocks = _BranchedBlocks(self.blocks, self.branch)

    def macs(self) -> float:
        """Multiply-accumulate operations per full-size pixel."""
        branch = sum(conv.weight.numel() for conv in self.branch.modules() if isinstance(conv, nn.Conv2d))
        everything = sum(conv.weight.numel() for conv in self.modules() if isinstance(conv, nn.Conv2d))
        return (everything - branch) / 16 + branch / 64


class _BranchedBlocks(nn.Sequential):
    """The blocks of the trunk with the branch among them; keys of the weights stay blocks.0 .. blocks.5."""

    def __init__(self, blocks: nn.Sequential, branch: WideBranch):
        super().__init__(*blocks)
        self._branch = [branch]  # in a list, so that it is not a child of this module as well

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number, block in enumerate(self):
            if number == BRANCH_AFTER:
                x = x + self._branch[0](x)
            x = block(x)
        return x


assert BRANCH_AFTER < BLOCKS


def widened(path: Path) -> WideRestorationNetwork:
    """A network from a weight file of either shape. Of the shipped shape, it gives the same pictures at first."""
    network = WideRestorationNetwork()
    weights = {name: value.float() for name, value in safetensors.torch.load_file(path).items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or any(not name.startswith("branch.") for name in missing):
        raise ValueError(f"{path} has no weights of a restoration network")
    return network
