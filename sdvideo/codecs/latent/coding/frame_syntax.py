"""The syntax of a frame: which integers are coded, in which order: motion, the map of coded blocks, the latent.

The same walk serves both directions: it asks a symbol stream (rdoq.SymbolEncoder or rdoq.SymbolDecoder) for values pass
by pass. The encoder chooses and writes them, the decoder reads them, and the walk goes on with them.

Frame data, as a group stores it (see container/group.py), is the words of one range-coder run (see range_coder.py). No
words at all mean "as the previous frame": no motion, nothing coded. Otherwise
1. predicted frames: one bit under table 32, whether there is motion. If so the field in seven lattice passes
   (context_model.LATTICES), dx and dy of each block in turn, as differences to context_model.expected_motion, under
   tables chosen by the model's coder; decoded vectors are clipped to +-block_matching.LIMIT;
2. predicted frames: one bit under table 32, whether any block is coded. If so the map, by the model's coder;
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
    delta; latent: int32 [h, w, channels], quantized delta, zeros in blocks not coded.
    """

    motion: np.ndarray
    coded: np.ndarray
    latent: np.ndarray

    @property
    def still(self) -> bool:
        """Whether the frame equals the previous one: no motion, nothing coded."""
        return not (self.motion.any() or self.coded.any())

    def still_after(self) -> FrameSymbols:
        """The symbols of a frame that equals this one."""
        return FrameSymbols(*(np.zeros_like(part) for part in (self.motion, self.coded, self.latent)))


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What the encoder wants to code. motion, coded: as in FrameSymbols. units: float32 [h, w, channels], the latent
    delta in quantizer steps, from which the integers are chosen during coding."""

    motion: np.ndarray
    coded: np.ndarray
    units: np.ndarray


class LatentCoder(Protocol):
    """Chooses the probability tables for a model's latents, from integers that both sides know. name: its format id."""

    name: str
    channels: int

    def motion_tables(self, deviations: torch.Tensor, stage: int, index: int) -> np.ndarray:
        """Tables for the motion vectors of a lattice pass, uint8 [n, 2], 1..63; see context_model.expected_motion."""

    def code_map(
        self, stream, before: FrameSymbols, motion: np.ndarray, index: int, coded: np.ndarray | None
    ) -> np.ndarray:
        """The map of coded blocks, bool [h, w]."""

    def code_latent(
        self, stream, before: FrameSymbols | None, coded: np.ndarray, index: int, units: np.ndarray | None
    ) -> np.ndarray:
        """The latent, int32 [h, w, channels]. before: the previous frame, None in key frames."""


def code_frame(
    stream, coder: LatentCoder, before: FrameSymbols, key: bool, index: int, plan: FramePlan | None = None
) -> FrameSymbols:
    """Code one frame. before: the previous frame; its shapes give the sizes in key frames, too. plan: the encoder's."""
    motion, coded = np.zeros_like(before.motion), np.ones_like(before.coded)
    if not key:
        motion = _code_motion(stream, coder, before.motion, None if plan is None else plan.motion, index)
        some = stream.bits(_EVEN, None if plan is None else np.array([plan.coded.any()]))
        coded = np.zeros_like(coded)
        if some[0]:
            coded = coder.code_map(stream, before, motion, index, None if plan is None else plan.coded)
    latent = np.zeros_like(before.latent)
    if coded.any():
        latent = coder.code_latent(stream, None if key else before, coded, index, None if plan is None else plan.units)
    return FrameSymbols(motion, coded, latent)


@functools.lru_cache(maxsize=8)
def lattices(rows: int, columns: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Those of the seven lattice passes of a grid that have positions: (stage, positions [n], neighbours [n, 4])."""
    passes = []
    for stage in range(len(context.LATTICES)):
        at, near = context.lattice_positions(rows, columns, stage)
        if len(at):
            passes.append((stage, at.numpy(), near.numpy()))
    return passes


def _code_motion(stream, coder: LatentCoder, last: np.ndarray, motion: np.ndarray | None, index: int) -> np.ndarray:
    moving = stream.bits(_EVEN, None if motion is None else np.array([motion.any()]))
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
        values = stream.exactly(tables.ravel(), expected.numpy().astype(np.int32).ravel(), vectors)
        known[at] = torch.from_numpy(values.reshape(-1, 2).clip(-LIMIT, LIMIT).astype(np.int64))
    return known[:-1].T.reshape(last.shape).numpy().astype(np.int16)


def adaptive_motion_tables(deviations: torch.Tensor, stage: int) -> np.ndarray:
    """Tables of motion vectors without a network, uint8 [n, 2]: from how far the neighbours differ."""
    if stage == 0:
        return np.full((len(deviations), 2), _FIRST_TABLE, np.uint8)
    apart = deviations[:, :4].amax(1) - deviations[:, :4].amin(1)
    return MOTION_TABLES[context.magnitudes(apart).numpy().astype(np.uint8)]


class ContextCoder:
    """The coder of the embedded model: its context model predicts the tables."""

    name = "context-1"
    channels = context.CHANNELS

    def __init__(self, model: context.ContextModel):
        self._model = model.freeze()
        self._last: tuple[np.ndarray, torch.Tensor, torch.Tensor] | None = None

    def _features(self, latent: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """previous_features of the previous frame, which the map and the latent both need."""
        last = self._last  # read once: another thread may be coding another frame
        if last is None or last[0] is not latent:
            last = self._last = (latent, *context.previous_features(torch.from_numpy(latent)))
        return last[1:]

    @torch.no_grad()
    def motion_tables(self, deviations, stage, index):
        return _tables(self._model.motion_tables(deviations, stage, context.step_input(index)), least=1)

    @torch.no_grad()
    def code_map(self, stream, before, motion, index, coded):
        rows, columns = before.coded.shape
        magnitude, bands = self._features(before.latent)
        field = torch.from_numpy(motion.astype(np.int64))
        known, step = torch.zeros(rows * columns, dtype=torch.int64), context.step_input(index)
        around = self._model.surroundings(magnitude, bands, field)
        for stage, at, near in lattices(rows, columns):
            tables = _tables(self._model.coded_blocks(known, around, stage, at, near, step))
            bits = stream.bits(tables, None if coded is None else coded.reshape(-1)[at])
            known[at] = torch.from_numpy(bits.astype(np.int64))
        return known.view(rows, columns).numpy() > 0

    @torch.no_grad()
    def code_latent(self, stream, before, coded, index, units):
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
            predicted, expected = model.lattice(flat, before_flat, before_box, stage, at, near, key, step)
            wanted = None if units is None else units.reshape(-1, self.channels)[at, :group0].ravel()
            expected = expected.floor().numpy().astype(np.int32).ravel()
            values = stream.values(_tables(predicted).ravel(), expected, wanted).reshape(-1, group0)
            flat[at] = torch.from_numpy(values.astype(np.int64))
        symbols[..., :group0] = flat.view(rows, columns, group0).numpy()
        magnitude[..., :group0] = context.magnitudes(flat).view(rows, columns, group0)

        for group in range(1, len(context.GROUPS)):
            start, stop = context.STARTS[group : group + 2]
            for phase in (0, 1):
                select = context.checkerboard(rows, columns, phase) & here
                if not select.any():
                    continue
                predicted = model.group(magnitude, previous, previous_bands, group, phase, select, key, step)
                tables = _tables(predicted)
                where = select.numpy()
                wanted = None if units is None else units[where, start:stop].ravel()
                values = stream.values(tables.ravel(), np.zeros(tables.size, np.int32), wanted).reshape(tables.shape)
                symbols[where, start:stop] = values
                # The slice first: behind a two-dimensional mask torch 2.6 applies it to the second dimension.
                magnitude[..., start:stop][select] = context.magnitudes(torch.from_numpy(values))
        return symbols


def _tables(index: torch.Tensor, least: int = 0) -> np.ndarray:
    return index.floor().clamp(least, context.TABLES - 1).numpy().astype(np.uint8)
