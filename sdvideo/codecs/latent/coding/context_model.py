"""The context model "context-1" of the embedded latents: the probability table of each symbol, computed exactly.

Symbols are decoded in passes, coarse to fine. From the symbols of earlier passes and of the previous frame a small
network computes a table index for each symbol and, for the channels of group 0 in key frames, the expected value. Its
inputs are integers up to 127, its weights multiples of 1/64 up to 127/64, its hidden units integers up to 255: every
product and sum is a multiple of 1/64 below 2**18, which float32 holds exactly in any order of summation. So every
machine computes the same indices.

Passes over positions and channels (latents are [h, w, channels], channels by falling variance):
* group 0 (6 channels): seven passes over lattices from coarse to fine, each position between four known neighbours;
* groups 1-5: two passes each, over the squares of a checkerboard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

GROUPS = (6, 18, 40, 64, 96, 160)
CHANNELS = sum(GROUPS)
HIDDEN = 64
FINEST = 0.06  # standard deviation of table 0; each next one's is 2**0.2 times wider
STARTS = [sum(GROUPS[:g]) for g in range(len(GROUPS) + 1)]  # first channel of each group, and the end
# Bands of channels, whose sums of magnitudes are inputs.
_BANDS = (
    [(a, a + 6) for a in range(0, 24, 6)]
    + [(a, a + 10) for a in range(24, 64, 10)]
    + [(a, a + 16) for a in range(64, CHANNELS, 16)]
)
_COARSE_BANDS = 8  # bands of the previous frame that help to predict which blocks have a delta
_MAX_SIZE = 2047
# 8 log2(1 + n), rounded down, in integers: one less than the number of binary digits of (1 + n)**8.
_MAGNITUDE = torch.tensor([((1 + n) ** 8).bit_length() - 1 for n in range(_MAX_SIZE + 1)], dtype=torch.float32)

# The passes over lattices: (period, residues (y, x) of the positions decoded, distance of their four known neighbours,
# directions of these). The first pass has none: its distance is 0.
_CROSS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DIAGONAL = ((-1, -1), (1, 1), (-1, 1), (1, -1))
LATTICES = (
    (8, ((0, 0),), 0, _CROSS),
    (8, ((4, 4),), 4, _DIAGONAL),
    (8, ((0, 4), (4, 0)), 4, _CROSS),
    (4, ((2, 2),), 2, _DIAGONAL),
    (4, ((0, 2), (2, 0)), 2, _CROSS),
    (2, ((1, 1),), 1, _DIAGONAL),
    (2, ((0, 1), (1, 0)), 1, _CROSS),
)


def magnitudes(symbols: torch.Tensor) -> torch.Tensor:
    """Integers -> 8 log2(1 + |n|) rounded down, 0..88, float32 of the same shape."""
    return _MAGNITUDE.to(symbols.device)[symbols.abs().clamp(max=_MAX_SIZE).long()]


def box(values: torch.Tensor) -> torch.Tensor:
    """Sum over each position's eight neighbours, [..., h, w, c]."""
    rows = values.shape[-3]
    padded = F.pad(values, (0, 0, 1, 1, 1, 1))
    wide = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    tall = wide[..., :rows, :, :] + wide[..., 1 : rows + 1, :, :] + wide[..., 2:, :, :]
    return tall - values


def _cross(values: torch.Tensor) -> torch.Tensor:
    """Sum over each position's four nearest neighbours, [..., h, w, c]."""
    padded = F.pad(values, (0, 0, 1, 1, 1, 1))
    return (padded[..., :-2, 1:-1, :] + padded[..., 2:, 1:-1, :]) + (
        padded[..., 1:-1, :-2, :] + padded[..., 1:-1, 2:, :]
    )


def _scaled(values: torch.Tensor, shift: int) -> torch.Tensor:
    """Integers >> shift, at most 127."""
    return (values * 2.0**-shift).floor_().clamp_(max=127)


def _bands(values: torch.Tensor, count: int) -> torch.Tensor:
    """Sums over bands of channels, the first `count` bands."""
    return torch.stack([values[..., a:b].sum(-1) for a, b in _BANDS[:count]], -1)


def _bands_below(group: int) -> int:
    return sum(b <= STARTS[group] for _, b in _BANDS)


def lattice_positions(rows: int, columns: int, stage: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of a lattice pass, int64 [n] (row * columns + column), and their neighbours, int64 [n, 4].

    The order is row by row. A neighbour outside the grid is replaced by its mirror image, or by rows * columns
    (nothing) if that is outside, too.
    """
    period, residues, distance, directions = LATTICES[stage]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    here = torch.zeros(rows, columns, dtype=torch.bool)
    for ry, rx in residues:
        here |= (y % period == ry) & (x % period == rx)
    y, x = y[here], x[here]
    neighbours = []
    for dy, dx in directions:
        ny, nx = y + dy * distance, x + dx * distance
        ny = torch.where((ny < 0) | (ny >= rows), 2 * y - ny, ny)
        nx = torch.where((nx < 0) | (nx >= columns), 2 * x - nx, nx)
        inside = (ny >= 0) & (ny < rows) & (nx >= 0) & (nx < columns) & (distance > 0)
        neighbours.append(torch.where(inside, ny * columns + nx, rows * columns))
    return y * columns + x, torch.stack(neighbours, 1)


def checkerboard(rows: int, columns: int, phase: int) -> torch.Tensor:
    """Bool [h, w]: the squares of this phase."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (y + x) % 2 == phase


class _StraightThroughFloor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def straight_through_floor(x: torch.Tensor) -> torch.Tensor:
    """floor() with a straight-through gradient, to train with the integers that are used for coding."""
    apply: Callable[[torch.Tensor], torch.Tensor] = _StraightThroughFloor.apply  # which PyTorch leaves untyped
    return apply(x)


def quantized(weight: torch.Tensor) -> torch.Tensor:
    """Weights as used for coding: multiples of 1/64 up to 127/64, with straight-through gradients."""
    return straight_through_floor(weight.clamp(-127 / 64, 127 / 64) * 64 + 0.5) * (1 / 64)


class GroupNetwork(nn.Module):
    """Inputs [n, inputs] and `direct` tensors [n, channels] -> table indices [n, channels] before rounding.

    The direct tensors are weighted channel by channel and added to the output of the network.
    """

    def __init__(self, inputs: int, channels: int, direct: int):
        super().__init__()
        self.first = nn.Parameter(torch.randn(HIDDEN, inputs) * 0.08)
        self.first_bias = nn.Parameter(torch.full((HIDDEN,), 8.0))
        self.second = nn.Parameter(torch.randn(channels, HIDDEN) * 0.03)
        self.second_bias = nn.Parameter(torch.full((channels,), 8.0))
        self.direct = nn.Parameter(torch.full((direct, channels), 0.1))
        self.weights: tuple[torch.Tensor, ...] | None = None  # integers(), when training is over

    def integers(self) -> tuple[torch.Tensor, ...]:
        """All weights as used for coding."""
        first, second = quantized(self.first), quantized(self.second)
        return first, quantized_bias(self.first_bias), second, quantized_bias(self.second_bias), quantized(self.direct)

    def forward(self, inputs: torch.Tensor, *direct: torch.Tensor) -> torch.Tensor:
        first, first_bias, second, second_bias, weights = self.weights or self.integers()
        hidden = straight_through_floor(F.linear(inputs, first, first_bias).clamp(0, 255))
        index = F.linear(hidden, second, second_bias)
        for weight, values in zip(weights, direct, strict=True):
            index = index + weight * values
        return index


def quantized_bias(bias: torch.Tensor) -> torch.Tensor:
    """Biases as used for coding: multiples of 1/64 below 1024."""
    return straight_through_floor(bias.clamp(-1023, 1023) * 64 + 0.5) * (1 / 64)


class ContextModel(nn.Module):
    """Table indices for latents of the embedded model. See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        group0 = GROUPS[0]
        # The lattices' expected values: [stage, channel, neighbour * 6 + channel], at first the neighbours' mean.
        expect = torch.zeros(len(LATTICES), group0, 4 * group0)
        for c in range(group0):
            expect[1:, c, c::group0] = 0.25
        self.expect = nn.Parameter(expect)
        networks = [GroupNetwork(4 * group0 + 2 * group0 + 3 * group0 + len(LATTICES) + 2, group0, 1)]
        for g in range(1, len(GROUPS)):
            n, below = GROUPS[g], STARTS[g]
            networks.append(GroupNetwork(below + _bands_below(g) + 2 * n + len(_BANDS) + 3, n, 2))
        self.networks = nn.ModuleList(networks)
        self.motion = GroupNetwork(10 + len(LATTICES) + 1, 2, 0)
        self.coded = GroupNetwork(6 + 2 * _COARSE_BANDS + 4 + len(LATTICES) + 1, 1, 0)

    @torch.no_grad()
    def freeze(self) -> ContextModel:
        """Prepare for coding: compute the integer weights once."""
        for network in [*self.networks, self.coded, self.motion]:
            network.weights = network.integers()
        return self

    @torch.no_grad()
    def start_from(self, deviation: torch.Tensor) -> None:
        """Start training with static tables.

        deviation: [384], of each channel in key frames; in others a quarter of it.
        """
        base = 5 * (deviation / FINEST).log2() - 10
        for network, start, end in zip(self.networks, STARTS, STARTS[1:]):
            assert isinstance(network, GroupNetwork)
            # Hidden unit 0 passes on the step, unit 1 whether this is a key frame.
            network.first[:2] = 0
            network.first_bias[:2] = 0
            network.first[0, -1] = network.first[1, -2] = 1
            network.second[:, 0] = -5 / 8
            network.second[:, 1] = 10 / 64
            network.second_bias[:] = base[start:end]

    def lattice(
        self,
        symbols: torch.Tensor,
        previous: torch.Tensor,
        previous_box: torch.Tensor,
        stage: int,
        positions: torch.Tensor,
        neighbours: torch.Tensor,
        key: bool,
        step: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass of group 0.

        symbols: int64 [h * w, >=6] with the earlier lattices filled in. previous: float32 [h * w, >=6], magnitudes of
        the previous frame (zeros for key frames). previous_box: their sums over neighbours. positions, neighbours: see
        lattice_positions. step: see step_input.
        Returns (index float32 [n, 6], expected float32 [n, 6]) before rounding; the coder rounds both down.
        """
        group0 = GROUPS[0]
        known = F.pad(symbols[:, :group0], (0, 0, 0, 1))[neighbours]
        near = magnitudes(known)
        spread = magnitudes(torch.stack([known[:, 0] - known[:, 1], known[:, 2] - known[:, 3]], 1))
        before = previous[positions, :group0]
        around = previous_box[positions, :group0]
        count = len(positions)
        where = near.new_zeros(count, len(LATTICES) + 2)
        where[:, stage] = 64
        where[:, -2] = 64.0 * key
        where[:, -1] = step
        inputs = torch.cat(
            [near.flatten(1), spread.flatten(1), before, _scaled(around, 3), _scaled(near.sum(1), 2), where],
            1,
        )
        index = self.networks[0](inputs, before)
        known = known.clamp(-_MAX_SIZE, _MAX_SIZE).flatten(1).to(index.dtype)
        expected = F.linear(known, quantized(self.expect[stage])) + 0.5 if key else torch.zeros_like(index)
        return index, expected

    def group(
        self,
        magnitude: torch.Tensor,
        previous: torch.Tensor,
        previous_bands: torch.Tensor,
        group: int,
        phase: int,
        select: torch.Tensor,
        key: bool,
        step: float,
    ) -> torch.Tensor:
        """One pass of groups 1-5.

        magnitude: float32 [..., h, w, 384], magnitudes of the symbols known so far, zeros elsewhere; of this group's
        channels only those of earlier phases. previous, previous_bands: those of the previous frame, see
        previous_features. select: bool [..., h, w], the positions to compute.
        Returns index float32 [n, channels] before rounding.
        """
        start, end = STARTS[group], STARTS[group + 1]
        own = magnitude[..., start:end]
        own_cross = _scaled(_cross(own)[select], 2) if phase else own.new_zeros(int(select.sum()), end - start)
        below = magnitude[..., :start]
        around = _scaled(box(_bands(below, _bands_below(group)))[select], 4)
        before = previous[..., start:end][select]
        where = own.new_zeros(len(before), 3)
        where[:, 0] = 64.0 * phase
        where[:, 1] = 64.0 * key
        where[:, 2] = step
        inputs = torch.cat([below[select], around, own_cross, before, previous_bands[select], where], 1)
        index: torch.Tensor = self.networks[group](inputs, own_cross, before)
        return index

    def motion_tables(self, deviations: torch.Tensor, stage: int, step: float) -> torch.Tensor:
        """Tables of motion vectors, from how their neighbours and their previous vector differ from the expected ones.

        deviations: see expected_motion. Returns index float32 [n, 2] before rounding, for dx and dy.
        """
        where = deviations.new_zeros(len(deviations), len(LATTICES) + 1, dtype=torch.float32)
        where[:, stage] = 64
        where[:, -1] = step
        index: torch.Tensor = self.motion(torch.cat([magnitudes(deviations).flatten(1), where], 1))
        return index

    def surroundings(self, previous: torch.Tensor, previous_bands: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
        """Features for the map of coded blocks, apart from its own neighbours: float32 [h * w, 22].

        previous, previous_bands: of the previous frame, see previous_features. field: int64 [2, h, w], the motion of
        this frame.
        """
        coded = (previous != 0).any(-1, keepdim=True).float()
        bands = _scaled(_bands(previous, _COARSE_BANDS), 1)
        motion = field.permute(1, 2, 0)
        edge = (4 * motion - _cross(motion)).div(4, rounding_mode="floor")
        features = [coded * 32, box(coded) * 8, bands, previous_bands[..., :_COARSE_BANDS]]
        return torch.cat([*features, magnitudes(motion), magnitudes(edge)], -1).flatten(0, 1)

    def coded_blocks(
        self,
        coded: torch.Tensor,
        around: torch.Tensor,
        stage: int,
        positions: torch.Tensor,
        neighbours: torch.Tensor,
        step: float,
    ) -> torch.Tensor:
        """One pass of the map of coded blocks.

        coded: int64 [h * w], earlier lattices filled in. around: see surroundings.
        Returns index float32 [n] before rounding, into the tables of bits.
        """
        known = F.pad(coded, (0, 1))[neighbours].float() * 32
        where = known.new_zeros(len(positions), len(LATTICES) + 1)
        where[:, stage] = 64
        where[:, -1] = step
        index: torch.Tensor = self.coded(torch.cat([known, around[positions], where], 1))[:, 0]
        return index


def expected_motion(
    known: torch.Tensor, last: torch.Tensor, stage: int, positions: torch.Tensor, neighbours: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The expected vectors of a lattice pass, and how far the vectors around them are from those.

    known: int64 [h * w + 1, 2], earlier lattices filled in. last: int64 [h * w, 2], the field of the previous frame.
    Expected, int64 [n, 2]: for each component the mean of the middle two of the four neighbours, rounded down; in the
    first pass the previous vector. Deviations, int64 [n, 5, 2]: of the four neighbours and of the previous vector;
    zeros in the first pass.
    """
    if stage == 0:
        expected = last[positions]
        return expected, expected.new_zeros(len(expected), 5, 2)
    around = known[neighbours]
    middle = around.sort(1).values[:, 1:3]
    expected = middle.sum(1).div(2, rounding_mode="floor")
    return expected, torch.cat([around, last[positions][:, None]], 1) - expected[:, None]


def previous_features(symbols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The features of the previous frame: its magnitudes, and scaled sums of their bands over neighbours.

    symbols: int [..., h, w, 384]. Returns float32 [..., h, w, 384] and [..., h, w, bands].
    """
    magnitude = magnitudes(symbols)
    return magnitude, _scaled(box(_bands(magnitude, len(_BANDS))), 4)


def step_input(index: int) -> float:
    """A quantizer step index 0..255 (see rdoq.step_size) as the networks see it: an integer, 8 to the octave."""
    return float(index >> 2)
