"""The integers of one frame and the order they are coded in: motion, the map of coded blocks, the latent.

The same walk serves both directions: an end (quantise.Chooser or quantise.Taker) is asked for values pass by pass and
either writes them or reads them, and the walk goes on with what it got.

Frame data, as a group stores it (see container.py), is the words of one range-coder run (see entropy.py). No words at
all say "as the frame before": no motion, nothing coded. Otherwise
1. predicted frames: one bit under table 32, is there motion? If so the field in seven lattice passes
   (context.LATTICES): all dx of the pass, then all dy. Expected is the mean of the middle two of the four neighbours,
   rounded down; in the first pass the last frame's vector. The table is MOTION_TABLES[8 log2(1 + largest - smallest
   neighbour), rounded down], in the first pass table 20;
2. predicted frames: one bit under table 32, is any block coded? Then the map, by the model's coder;
3. the latent of the coded blocks (of all in key frames), by the model's coder.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from . import context
from .motion import LIMIT

MOTION_TABLES = np.array([8 if n == 0 else 11 + 5 * n // 8 for n in range(89)], np.uint8)
_FIRST_TABLE = 20
_EVEN = np.array([32], np.uint8)


@dataclass(frozen=True, slots=True)
class FrameSymbols:
    """Everything that is coded of a frame.

    motion: int16 [2, H/16, W/16], quarters of a pixel, zeros in key frames; coded: bool [h, w], the blocks that have a
    delta; latent: int32 [h, w, channels], quantised delta, zeros in blocks not coded.
    """

    motion: np.ndarray
    coded: np.ndarray
    latent: np.ndarray

    @property
    def still(self) -> bool:
        """Is the frame just its prediction, and that the frame before?"""
        return not (self.motion.any() or self.coded.any())


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What the encoder wants coded: motion and coded as in FrameSymbols; units: float32 [h, w, channels], the latent
    delta in steps, from which the integers are chosen on the way."""

    motion: np.ndarray
    coded: np.ndarray
    units: np.ndarray


class LatentCoder(Protocol):
    """How a model's latents are coded: every choice of table made of integers known to both sides."""

    name: str
    channels: int

    def code_map(
        self, end, before: FrameSymbols, motion: np.ndarray, index: int, coded: np.ndarray | None
    ) -> np.ndarray:
        """The map of coded blocks, bool [h, w]."""

    def code_latent(
        self, end, before: FrameSymbols | None, coded: np.ndarray, step: int, units: np.ndarray | None
    ) -> np.ndarray:
        """The latent, int32 [h, w, channels]; before is None in key frames."""


def code_frame(
    end, coder: LatentCoder, before: FrameSymbols, key: bool, step: int, plan: FramePlan | None = None
) -> FrameSymbols:
    """Walk one frame. before: the frame before (its shapes tell the sizes, also for key frames); plan: the encoder's."""
    motion, coded = np.zeros_like(before.motion), np.ones_like(before.coded)
    if not key:
        motion = _code_motion(end, before.motion, None if plan is None else plan.motion)
        some = end.bits(_EVEN, None if plan is None else np.array([plan.coded.any()]))
        coded = np.zeros_like(coded)
        if some[0]:
            coded = coder.code_map(end, before, motion, step, None if plan is None else plan.coded)
    latent = np.zeros_like(before.latent)
    if coded.any():
        latent = coder.code_latent(
            end, None if key else before, coded, step, None if plan is None else plan.units
        )
    return FrameSymbols(motion, coded, latent)


@functools.lru_cache(maxsize=8)
def lattices(rows: int, columns: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The seven lattice passes of a grid that have positions: (stage, positions [n], neighbours [n, 4])."""
    passes = []
    for stage in range(len(context.LATTICES)):
        at, near = context.lattice_positions(rows, columns, stage)
        if len(at):
            passes.append((stage, at.numpy(), near.numpy()))
    return passes


def _code_motion(end, last: np.ndarray, motion: np.ndarray | None) -> np.ndarray:
    moving = end.bits(_EVEN, None if motion is None else np.array([motion.any()]))
    if not moving[0]:
        return np.zeros_like(last)
    rows, columns = last.shape[1:]
    known = np.zeros((2, rows * columns + 1), np.int32)
    for stage, at, near in lattices(rows, columns):
        if stage == 0:
            expected = last.reshape(2, -1)[:, at].astype(np.int32)
            tables = np.full(expected.shape, _FIRST_TABLE, np.uint8)
        else:
            around = np.sort(known[:, near], -1)
            expected = (around[..., 1] + around[..., 2]) >> 1
            apart = torch.from_numpy(around[..., 3] - around[..., 0])
            tables = MOTION_TABLES[context.magnitudes(apart).numpy().astype(np.uint8)]
        wanted = None if motion is None else motion.reshape(2, -1)[:, at].ravel().astype(np.int32)
        values = end.exactly(tables.ravel(), expected.ravel(), wanted)
        known[:, at] = values.reshape(2, -1).clip(-LIMIT, LIMIT)
    return known[:, :-1].reshape(last.shape).astype(np.int16)


class ContextCoder:
    """The coder of the embedded model: tables foreseen by its context network."""

    name = "context-1"
    channels = context.CHANNELS

    def __init__(self, model: context.ContextModel):
        self._model = model.eval()

    @torch.no_grad()
    def code_map(self, end, before, motion, step, coded):
        rows, columns = before.coded.shape
        latent = torch.from_numpy(before.latent)
        _, bands = context.previous_features(latent)
        field = torch.from_numpy(motion.astype(np.int64))
        known = torch.zeros(rows * columns, dtype=torch.int64)
        around = self._model.surroundings(latent, bands, field)
        for stage, at, near in lattices(rows, columns):
            index = self._model.coded_blocks(known, around, stage, at, near, context.step_input(step))
            bits = end.bits(_tables(index), None if coded is None else coded.reshape(-1)[at])
            known[at] = torch.from_numpy(bits.astype(np.int64))
        return known.view(rows, columns).numpy() > 0

    @torch.no_grad()
    def code_latent(self, end, before, coded, step, units):
        model, key, step = self._model, before is None, context.step_input(step)
        rows, columns = coded.shape
        last = np.zeros((rows, columns, self.channels), np.int32) if key else before.latent
        previous, previous_bands = context.previous_features(torch.from_numpy(last))
        symbols = np.zeros((rows, columns, self.channels), np.int32)
        magnitude = torch.zeros(rows, columns, self.channels)
        here = torch.from_numpy(coded)

        group0 = context.GROUPS[0]
        flat = torch.zeros(rows * columns, group0, dtype=torch.int64)
        before_flat = previous[..., :group0].reshape(-1, group0)
        before_box = context.box(previous[..., :group0]).reshape(-1, group0)
        for stage, at, near in lattices(rows, columns):
            chosen = coded.reshape(-1)[at]
            at, near = torch.from_numpy(at[chosen]), torch.from_numpy(near[chosen])
            if not len(at):
                continue
            index, expected = model.lattice(flat, before_flat, before_box, stage, at, near, key, step)
            wanted = None if units is None else units.reshape(-1, self.channels)[at, :group0].ravel()
            expected = expected.floor().numpy().astype(np.int32).ravel()
            values = end.values(_tables(index).ravel(), expected, wanted).reshape(-1, group0)
            flat[at] = torch.from_numpy(values.astype(np.int64))
        symbols[..., :group0] = flat.view(rows, columns, group0).numpy()
        magnitude[..., :group0] = context.magnitudes(flat).view(rows, columns, group0)

        for group in range(1, len(context.GROUPS)):
            start, stop = context.STARTS[group : group + 2]
            for phase in (0, 1):
                select = context.checkerboard(rows, columns, phase) & here
                if not select.any():
                    continue
                index = model.group(magnitude, previous, previous_bands, group, phase, select, key, step)
                tables = _tables(index)
                where = select.numpy()
                wanted = None if units is None else units[where, start:stop].ravel()
                values = end.values(tables.ravel(), np.zeros(tables.size, np.int32), wanted).reshape(
                    tables.shape
                )
                symbols[where, start:stop] = values
                magnitude[select, start:stop] = context.magnitudes(torch.from_numpy(values))
        return symbols


def _tables(index: torch.Tensor) -> np.ndarray:
    return index.floor().clamp(0, context.TABLES - 1).numpy().astype(np.uint8)
