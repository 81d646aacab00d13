"""The integers of one frame and the order they are coded in: motion, the map of coded blocks, the latent.

The same walk serves both directions: an end (quantise.Chooser or quantise.Taker) is asked for values pass by pass and
either writes them or reads them, and the walk goes on with what it got.

Frame data, as a group stores it (see container.py), is the words of one range-coder run (see entropy.py). No words at
all say "as the frame before": no motion, nothing coded. Otherwise
1. predicted frames: one bit under table 32, is there motion? If so the field in seven lattice passes
   (context.LATTICES), dx and dy of each block in turn, as differences to what context.expected_motion says, under
   tables by the model's coder; decoded vectors are clipped to +-motion.LIMIT;
2. predicted frames: one bit under table 32, is any block coded? Then the map, by the model's coder;
3. the latent of the coded blocks (of all in key frames), by the model's coder.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from sdvideo.motion.block_matching import LIMIT

from . import context_model as context

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

    def still_after(self) -> FrameSymbols:
        """The frame after this one if it is still."""
        return FrameSymbols(*(np.zeros_like(part) for part in (self.motion, self.coded, self.latent)))


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

    def motion_tables(self, deviations: torch.Tensor, stage: int, index: int) -> np.ndarray:
        """Tables for the motion vectors of a lattice pass, uint8 [n, 2], 1..63; see context.expected_motion."""

    def code_map(
        self, end, before: FrameSymbols, motion: np.ndarray, index: int, coded: np.ndarray | None
    ) -> np.ndarray:
        """The map of coded blocks, bool [h, w]."""

    def code_latent(
        self, end, before: FrameSymbols | None, coded: np.ndarray, index: int, units: np.ndarray | None
    ) -> np.ndarray:
        """The latent, int32 [h, w, channels]; before is None in key frames."""


def code_frame(
    end, coder: LatentCoder, before: FrameSymbols, key: bool, index: int, plan: FramePlan | None = None
) -> FrameSymbols:
    """Walk one frame. before: the frame before, whose shapes tell the sizes even in key frames; plan: the encoder's."""
    motion, coded = np.zeros_like(before.motion), np.ones_like(before.coded)
    if not key:
        motion = _code_motion(end, coder, before.motion, None if plan is None else plan.motion, index)
        some = end.bits(_EVEN, None if plan is None else np.array([plan.coded.any()]))
        coded = np.zeros_like(coded)
        if some[0]:
            coded = coder.code_map(end, before, motion, index, None if plan is None else plan.coded)
    latent = np.zeros_like(before.latent)
    if coded.any():
        latent = coder.code_latent(end, None if key else before, coded, index, None if plan is None else plan.units)
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


def _code_motion(end, coder: LatentCoder, last: np.ndarray, motion: np.ndarray | None, index: int) -> np.ndarray:
    moving = end.bits(_EVEN, None if motion is None else np.array([motion.any()]))
    if not moving[0]:
        return np.zeros_like(last)
    rows, columns = last.shape[1:]
    before = torch.from_numpy(last.reshape(2, -1).T.astype(np.int64))
    wanted = None if motion is None else motion.reshape(2, -1).T.astype(np.int32)
    known = torch.zeros(rows * columns + 1, 2, dtype=torch.int64)
    for stage, at, near in lattices(rows, columns):
        expected, deviations = context.expected_motion(known, before, stage, at, torch.from_numpy(near))
        tables = coder.motion_tables(deviations, stage, index)
        vectors = None if wanted is None else wanted[at].ravel()
        values = end.exactly(tables.ravel(), expected.numpy().astype(np.int32).ravel(), vectors)
        known[at] = torch.from_numpy(values.reshape(-1, 2).clip(-LIMIT, LIMIT).astype(np.int64))
    return known[:-1].T.reshape(last.shape).numpy().astype(np.int16)


def plain_motion_tables(deviations: torch.Tensor, stage: int) -> np.ndarray:
    """Tables of vectors for coders without a network of their own, uint8 [n, 2]: by how far the neighbours differ."""
    if stage == 0:
        return np.full((len(deviations), 2), _FIRST_TABLE, np.uint8)
    apart = deviations[:, :4].amax(1) - deviations[:, :4].amin(1)
    return MOTION_TABLES[context.magnitudes(apart).numpy().astype(np.uint8)]


class ContextCoder:
    """The coder of the embedded model: tables foreseen by its context network."""

    name = "context-1"
    channels = context.CHANNELS

    def __init__(self, model: context.ContextModel):
        self._model = model.freeze()
        self._last: tuple[np.ndarray, torch.Tensor, torch.Tensor] | None = None

    def _features(self, latent: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """context.previous_features of a frame before, which the map and the latent both ask for."""
        last = self._last  # one look: another thread may be coding another frame
        if last is None or last[0] is not latent:
            last = self._last = (latent, *context.previous_features(torch.from_numpy(latent)))
        return last[1:]

    @torch.no_grad()
    def motion_tables(self, deviations, stage, index):
        return _tables(self._model.motion_tables(deviations, stage, context.step_input(index)), least=1)

    @torch.no_grad()
    def code_map(self, end, before, motion, index, coded):
        rows, columns = before.coded.shape
        magnitude, bands = self._features(before.latent)
        field = torch.from_numpy(motion.astype(np.int64))
        known, step = torch.zeros(rows * columns, dtype=torch.int64), context.step_input(index)
        around = self._model.surroundings(magnitude, bands, field)
        for stage, at, near in lattices(rows, columns):
            tables = _tables(self._model.coded_blocks(known, around, stage, at, near, step))
            bits = end.bits(tables, None if coded is None else coded.reshape(-1)[at])
            known[at] = torch.from_numpy(bits.astype(np.int64))
        return known.view(rows, columns).numpy() > 0

    @torch.no_grad()
    def code_latent(self, end, before, coded, index, units):
        model, key, step = self._model, before is None, context.step_input(index)
        rows, columns = coded.shape
        last = np.zeros((rows, columns, self.channels), np.int32) if key else before.latent
        previous, previous_bands = self._features(last)
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
            foreseen, expected = model.lattice(flat, before_flat, before_box, stage, at, near, key, step)
            wanted = None if units is None else units.reshape(-1, self.channels)[at, :group0].ravel()
            expected = expected.floor().numpy().astype(np.int32).ravel()
            values = end.values(_tables(foreseen).ravel(), expected, wanted).reshape(-1, group0)
            flat[at] = torch.from_numpy(values.astype(np.int64))
        symbols[..., :group0] = flat.view(rows, columns, group0).numpy()
        magnitude[..., :group0] = context.magnitudes(flat).view(rows, columns, group0)

        for group in range(1, len(context.GROUPS)):
            start, stop = context.STARTS[group : group + 2]
            for phase in (0, 1):
                select = context.checkerboard(rows, columns, phase) & here
                if not select.any():
                    continue
                foreseen = model.group(magnitude, previous, previous_bands, group, phase, select, key, step)
                tables = _tables(foreseen)
                where = select.numpy()
                wanted = None if units is None else units[where, start:stop].ravel()
                values = end.values(tables.ravel(), np.zeros(tables.size, np.int32), wanted).reshape(tables.shape)
                symbols[where, start:stop] = values
                # The slice first: torch 2.6 takes it to be of the second dimension when a mask of two is before it.
                magnitude[..., start:stop][select] = context.magnitudes(torch.from_numpy(values))
        return symbols


def _tables(index: torch.Tensor, least: int = 0) -> np.ndarray:
    return index.floor().clamp(least, context.TABLES - 1).numpy().astype(np.uint8)
