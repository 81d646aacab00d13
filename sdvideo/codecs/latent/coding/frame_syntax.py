"""The syntax of a frame: which integers are coded, in which order: motion, the map of coded blocks, the latent.

One function serves both directions: it asks a symbol stream (rdoq.SymbolEncoder or rdoq.SymbolDecoder) for integers,
pass by pass. The encoder chooses and writes them, the decoder reads them, and the function continues with them.

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
from .range_coder import TABLES
from .rdoq import SymbolStream

_EVEN = np.array([32], np.uint8)  # the table of the bits of whole frames


@dataclass(frozen=True, slots=True)
class FrameSymbols:
    """Everything that is coded of a frame.

    motion: int16 [2, H/16, W/16], quarters of a pixel, zeros in key frames. coded: bool [h, w], the blocks that have a
    delta. latent: int32 [h, w, channels], quantized delta, zeros in blocks not coded.
    """

    motion: np.ndarray
    coded: np.ndarray
    latent: np.ndarray

    @property
    def still(self) -> bool:
        """Whether the frame equals the previous one: no motion, nothing coded."""
        return not (self.motion.any() or self.coded.any())

    def still_after(self) -> FrameSymbols:
        """The symbols of a frame that follows this one and equals it."""
        return FrameSymbols(*(np.zeros_like(part) for part in (self.motion, self.coded, self.latent)))


@dataclass(frozen=True, slots=True)
class FramePlan:
    """What the encoder wants to code.

    motion, coded: as in FrameSymbols. units: float32 [h, w, channels], the latent delta in quantizer steps, from which
    the integers are chosen during coding.
    """

    motion: np.ndarray
    coded: np.ndarray
    units: np.ndarray


class LatentCoder(Protocol):
    """Chooses the probability tables for a model's latents, from integers that both sides know.

    name: its format id. channels: of the latents. In all methods index is the step index of the frame, and the last
    argument of code_map and code_latent is what the encoder wants to code, None in a decoder.
    """

    name: str
    channels: int

    def motion_tables(self, deviations: torch.Tensor, stage: int, index: int) -> np.ndarray:
        """Tables for the motion vectors of a lattice pass, uint8 [n, 2], 1..63; see context_model.expected_motion."""

    def code_map(
        self, stream: SymbolStream, previous: FrameSymbols, motion: np.ndarray, index: int, coded: np.ndarray | None
    ) -> np.ndarray:
        """The map of coded blocks, bool [h, w]. motion: of this frame, as in FrameSymbols."""

    def code_latent(
        self,
        stream: SymbolStream,
        previous: FrameSymbols | None,
        coded: np.ndarray,
        index: int,
        units: np.ndarray | None,
    ) -> np.ndarray:
        """The latent, int32 [h, w, channels].

        previous: None in key frames. coded: the map of this frame, bool [h, w]. units: see FramePlan.
        """


def code_frame(
    stream: SymbolStream,
    coder: LatentCoder,
    previous: FrameSymbols,
    key: bool,
    index: int,
    plan: FramePlan | None = None,
) -> FrameSymbols:
    """Code one frame.

    previous: the symbols of the previous frame; in key frames only their shapes count. index: the step index. plan: the
    encoder's; a decoder has none.
    """
    motion, coded = np.zeros_like(previous.motion), np.ones_like(previous.coded)
    if not key:
        motion = _code_motion(stream, coder, previous.motion, None if plan is None else plan.motion, index)
        some = stream.bits(_EVEN, None if plan is None else np.array([plan.coded.any()]))
        coded = np.zeros_like(coded)
        if some[0]:
            coded = coder.code_map(stream, previous, motion, index, None if plan is None else plan.coded)
    latent = np.zeros_like(previous.latent)
    if coded.any():
        units = None if plan is None else plan.units
        latent = coder.code_latent(stream, None if key else previous, coded, index, units)
    return FrameSymbols(motion, coded, latent)


@functools.lru_cache(maxsize=8)
def lattices(rows: int, columns: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Those of the seven lattice passes of a grid that have positions: (stage, positions [n], neighbours [n, 4]).

    See context_model.lattice_positions.
    """
    passes = []
    for stage in range(len(context.LATTICES)):
        positions, neighbours = context.lattice_positions(rows, columns, stage)
        if len(positions):
            passes.append((stage, positions.numpy(), neighbours.numpy()))
    return passes


def _code_motion(
    stream: SymbolStream, coder: LatentCoder, previous: np.ndarray, motion: np.ndarray | None, index: int
) -> np.ndarray:
    """The motion field, int16 [2, H/16, W/16]. previous: that of the previous frame. motion: what to encode."""
    moving = stream.bits(_EVEN, None if motion is None else np.array([motion.any()]))
    if not moving[0]:
        return np.zeros_like(previous)
    rows, columns = previous.shape[1:]
    last = torch.from_numpy(previous.reshape(2, -1).T.astype(np.int64))
    wanted = None if motion is None else motion.reshape(2, -1).T.astype(np.int32)
    known = torch.zeros(rows * columns + 1, 2, dtype=torch.int64)
    for stage, positions, neighbours in lattices(rows, columns):
        at = torch.from_numpy(positions)
        expected, deviations = context.expected_motion(known, last, stage, at, torch.from_numpy(neighbours))
        tables = coder.motion_tables(deviations, stage, index)
        vectors = None if wanted is None else wanted[positions].ravel()
        values = stream.exactly(tables.ravel(), expected.numpy().astype(np.int32).ravel(), vectors)
        known[at] = torch.from_numpy(values.reshape(-1, 2).clip(-LIMIT, LIMIT).astype(np.int64))
    return known[:-1].T.reshape(previous.shape).numpy().astype(np.int16)


class ContextCoder:
    """The LatentCoder "context-1" of the embedded model: its context model predicts the tables.

    The map: its lattice passes, see ContextModel.coded_blocks. The latent: first the lattice passes of group 0 over the
    coded positions, then for each other group its two passes over the coded positions of a checkerboard's squares. Of a
    pass all positions are coded in one call, row by row, at each position the channels of the group.
    """

    name = "context-1"
    channels = context.CHANNELS

    def __init__(self, model: context.ContextModel):
        self._model = model.freeze()
        self._cached: tuple[np.ndarray, tuple[torch.Tensor, torch.Tensor]] | None = None

    def _features(self, latent: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """previous_features of the previous frame, which the map and the latent both need."""
        cached = self._cached  # read once: another thread may be coding another frame
        if cached is None or cached[0] is not latent:
            cached = self._cached = latent, context.previous_features(torch.from_numpy(latent))
        return cached[1]

    @torch.no_grad()
    def motion_tables(self, deviations: torch.Tensor, stage: int, index: int) -> np.ndarray:
        return _tables(self._model.motion_tables(deviations, stage, context.step_input(index)), least=1)

    @torch.no_grad()
    def code_map(
        self, stream: SymbolStream, previous: FrameSymbols, motion: np.ndarray, index: int, coded: np.ndarray | None
    ) -> np.ndarray:
        rows, columns = previous.coded.shape
        magnitude, bands = self._features(previous.latent)
        field = torch.from_numpy(motion.astype(np.int64))
        known, step = torch.zeros(rows * columns, dtype=torch.int64), context.step_input(index)
        around = self._model.surroundings(magnitude, bands, field)
        for stage, positions, neighbours in lattices(rows, columns):
            at, near = torch.from_numpy(positions), torch.from_numpy(neighbours)
            tables = _tables(self._model.coded_blocks(known, around, stage, at, near, step))
            bits = stream.bits(tables, None if coded is None else coded.reshape(-1)[positions])
            known[at] = torch.from_numpy(bits.astype(np.int64))
        found: np.ndarray = known.view(rows, columns).numpy() > 0
        return found

    @torch.no_grad()
    def code_latent(
        self,
        stream: SymbolStream,
        previous: FrameSymbols | None,
        coded: np.ndarray,
        index: int,
        units: np.ndarray | None,
    ) -> np.ndarray:
        model, key, step = self._model, previous is None, context.step_input(index)
        rows, columns = coded.shape
        last = np.zeros((rows, columns, self.channels), np.int32) if previous is None else previous.latent
        last_magnitude, last_bands = self._features(last)
        symbols = np.zeros((rows, columns, self.channels), np.int32)
        magnitude = torch.zeros(rows, columns, self.channels)
        here = torch.from_numpy(coded)

        group0 = context.GROUPS[0]
        flat = torch.zeros(rows * columns, group0, dtype=torch.int64)
        last_flat = last_magnitude[..., :group0].reshape(-1, group0)
        last_box = context.box(last_magnitude[..., :group0]).reshape(-1, group0)
        for stage, positions, neighbours in lattices(rows, columns):
            chosen = coded.reshape(-1)[positions]
            at, near = torch.from_numpy(positions[chosen]), torch.from_numpy(neighbours[chosen])
            if not len(at):
                continue
            predicted, expected = model.lattice(flat, last_flat, last_box, stage, at, near, key, step)
            wanted = None if units is None else units.reshape(-1, self.channels)[positions[chosen], :group0].ravel()
            integers = expected.floor().numpy().astype(np.int32).ravel()
            values = stream.values(_tables(predicted).ravel(), integers, wanted).astype(np.int64)
            flat[at] = torch.from_numpy(values.reshape(-1, group0))
        symbols[..., :group0] = flat.view(rows, columns, group0).numpy()
        magnitude[..., :group0] = context.magnitudes(flat).view(rows, columns, group0)

        for group in range(1, len(context.GROUPS)):
            start, stop = context.STARTS[group : group + 2]
            for phase in (0, 1):
                select = context.checkerboard(rows, columns, phase) & here
                if not select.any():
                    continue
                predicted = model.group(magnitude, last_magnitude, last_bands, group, phase, select, key, step)
                tables = _tables(predicted)
                where = select.numpy()
                wanted = None if units is None else units[where, start:stop].ravel()
                values = stream.values(tables.ravel(), np.zeros(tables.size, np.int32), wanted)
                symbols[where, start:stop] = values.reshape(tables.shape)
                # The slice first: behind a two-dimensional mask torch 2.6 applies it to the second dimension.
                magnitude[..., start:stop][select] = context.magnitudes(torch.from_numpy(values.reshape(tables.shape)))
        return symbols


def _tables(index: torch.Tensor, least: int = 0) -> np.ndarray:
    """Table indices of a context model, rounded down and clipped: uint8."""
    return index.floor().clamp(least, TABLES - 1).numpy().astype(np.uint8)
