"""Bühlmann's smallest form: a palette of up to 256 colours over the vectors of a latent, and a byte for each position.

A colour is a vector of bytes as in `byte.py`. Colours and indices of a 512x512 picture with a latent of 4 channels at
an eighth of its size are 256 * 4 + 64 * 64 = 5120 bytes, as his; they are packed without loss. In video a group has one
palette, and frames after the first code which positions change their colour; the others keep it, bit for bit. No motion
is coded. The format leaves the choice of colours to the encoder (`dithering.py`). To keep the dither still, the encoder
changes a position only when its source has changed by more than the palette's own error; a changed position takes half
of the error that the motion carries to it.

Files name this quantizer by the coder "palette-1". Frame data is the words of one range-coder run (see
`coding/range_coder.py`); no words at all mean "as the previous frame". The step index has no meaning. // rounds down.
Otherwise
1. key frames: the number of colours as a value under table 14, expected 256, clipped to 1..256. Then for each channel a
   value under table 30, expected 32, clipped to 1..63: the table under which follow, as values, the differences from
   each colour's channel to that of the previous colour (of the first: to 128); their sums are clipped to 0..255;
2. predicted frames: the map of the positions that change their colour, by the adaptive coder
   (`coding/adaptive_coder.py`);
3. the indices of these positions (in key frames of all) in seven lattice passes (see context_model.LATTICES), as ranks
   among the colours. Of its four neighbours in its pass (a mirrored one at the border) and itself, each that has a
   colour yet gives every colour c the affinity 65536 // (8 + |c - its colour|^2). Colours rank by the sum of these, the
   smaller index first if equal; the colour that a position had in the previous frame ranks last, with a sum of -1. With
   k the number of binary digits of a rank (none of 0), whether k is j is coded for j = 0, 1, ... until it is, up to 7,
   for all positions of the pass at once; then for j = 2, 3, ... 8, for each rank with k >= j and in that order, the
   (j - 1)th digit after the first under table 32. A rank beyond the last colour becomes the last.
   The table for "k is j" is adaptive_coder.bit_tables of 65536 * ones // bits, counted over the earlier passes of the
   frame where the greatest sum of affinities // 64 had as many digits; each count begins as if it had seen 8 bits with
   FIRST[j] ones.

A reference holds at every position the values of the colour's bytes, see `byte.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sdvideo.codecs.latent.coding.adaptive_coder import bit_tables, table_near
from sdvideo.codecs.latent.coding.frame_syntax import FrameSymbols, lattices
from sdvideo.codecs.latent.coding.rdoq import ExactSymbolEncoder, SymbolDecoder, SymbolStream
from sdvideo.codecs.latent.latent_space import LatentSpace, Reference, grid_size, warp

from .byte import in_bytes, values_of
from .dithering import COLOURS, diffuse, find_palette, nearest

if TYPE_CHECKING:
    from sdvideo.codecs.latent.autoencoder import PreparedSource

FIRST = (1, 1, 1, 1, 2, 2, 3, 4)
_FIRST_BITS = 8
_ONE = 1 << 16
_MOST_DIGITS = 8  # of a rank
_CONTEXTS = 11  # binary digits, 0..10, of the greatest sum of affinities // 64
_EVEN_TABLE = 32
_CHUNK = 1 << 10  # positions whose affinities are in memory at a time
_PULL = 0.5  # of the previous error, carried along the motion: an error that stays flickers less than a new one
_PATIENCE = 1.0  # squared errors of the palette by which a source may change before its colour is chosen again


@dataclass(frozen=True, slots=True)
class PaletteSymbols(FrameSymbols):
    """The integers of a frame.

    motion: zeros. coded: bool [h, w], positions that change their colour. latent: int32 [h, w, 1], the index of the
    colour of every position. palette: uint8 [1 to 256, channels].
    """

    palette: np.ndarray

    @property
    def indices(self) -> np.ndarray:
        """int32 [h, w]."""
        return self.latent[..., 0]

    def still_after(self) -> PaletteSymbols:
        return replace(self, coded=np.zeros_like(self.coded))

    def unpacked(self) -> bytes:
        """Palette and indices before packing."""
        return self.palette.tobytes() + self.indices.astype(np.uint8).tobytes()


def unpacked_size(height: int, width: int, channels: int = 4, block: int = 8, colours: int = COLOURS) -> int:
    """Bytes of palette and indices before packing, of a picture of this size.

    block: pixels per latent position along each side.
    """
    rows, columns = grid_size(height, width, block)
    return min(colours, rows * columns) * channels + rows * columns


class PaletteQuantizer:
    """A Quantizer for latent spaces."""

    coder = "palette-1"

    # What the encoder remembers of its last frame, float32 [h, w, channels] in units of a byte.
    _wanted: np.ndarray  # its source
    _source: np.ndarray  # at each position the source when its colour was chosen
    _errors: np.ndarray  # of dithering, see diffuse
    _patience: float  # of the group: squared change of a source up to which a position keeps its colour

    def __init__(self, model: LatentSpace):
        self._map_coder, self._block = model.coder, model.block
        self._lookahead: list[np.ndarray] = []  # vectors of other frames of the next group

    def look_ahead(self, sources: list[PreparedSource]) -> None:
        """Take other frames of the next group into account for its palette."""
        self._lookahead = [in_bytes(source.latent).reshape(-1, self._map_coder.channels) for source in sources]

    def code(
        self,
        source: PreparedSource,
        prediction: Reference,
        motion: np.ndarray,
        same: np.ndarray | None,
        previous: FrameSymbols,
        index: int,
    ) -> tuple[PaletteSymbols, bytes]:
        wanted = in_bytes(source.latent)
        vectors = wanted.reshape(-1, wanted.shape[-1])
        if same is None:
            palette = find_palette(np.concatenate([vectors, *self._lookahead]))
            last = np.zeros(previous.coded.shape, np.uint8)
            kept, target = np.zeros(previous.coded.shape, bool), wanted
            self._patience = _PATIENCE * nearest(vectors, palette)[1].mean()
            self._source = self._errors = np.zeros_like(wanted)
        else:
            assert isinstance(previous, PaletteSymbols)
            palette, last = previous.palette, previous.indices
            kept = same | (np.square(wanted - self._source).sum(-1) <= self._patience)
            target = wanted + _PULL * self._moved(palette[last] - self._wanted, motion)
        indices, self._errors = diffuse(target, palette, kept, last, self._errors)
        self._wanted, self._source = wanted, np.where(kept[..., None], self._source, wanted)
        coded = np.ones_like(kept) if same is None else indices != last
        symbols = PaletteSymbols(np.zeros_like(previous.motion), coded, indices[..., None].astype(np.int32), palette)
        stream = ExactSymbolEncoder()
        self._code_frame(stream, previous, same is None, symbols)
        return symbols, b"" if symbols.still else stream.finish()

    def _moved(self, errors: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """The previous frame's errors, float32 [h, w, channels], moved along the motion."""
        return warp(np.rint(errors * 4096).astype(np.int32), motion, self._block).astype(np.float32) / 4096

    def parse(self, data: bytes, previous: FrameSymbols, key: bool, index: int) -> PaletteSymbols:
        stream = SymbolDecoder(data)
        symbols = self._code_frame(stream, previous, key, None)
        stream.finish()
        return symbols

    def reference(self, prediction: Reference, symbols: FrameSymbols, index: int) -> Reference:
        assert isinstance(symbols, PaletteSymbols)
        return prediction.successor(values_of(symbols.palette[symbols.indices]))

    def _code_frame(
        self, stream: SymbolStream, previous: FrameSymbols, key: bool, wanted: PaletteSymbols | None
    ) -> PaletteSymbols:
        """Write or read a frame: one function serves both directions, as frame_syntax.code_frame."""
        coded = np.ones_like(previous.coded)
        if key:
            palette = _code_palette(stream, self._map_coder.channels, None if wanted is None else wanted.palette)
            last = np.full(coded.shape, len(palette))
        else:
            assert isinstance(previous, PaletteSymbols)  # since a group begins with a key frame
            palette, last = previous.palette, previous.indices
            wanted_map = None if wanted is None else wanted.coded
            coded = self._map_coder.code_map(stream, previous, previous.motion, 0, wanted_map)
        indices = _code_indices(stream, palette, coded, last, None if wanted is None else wanted.indices)
        return PaletteSymbols(np.zeros_like(previous.motion), coded, indices[..., None], palette)


def _code_palette(stream: SymbolStream, channels: int, wanted: np.ndarray | None) -> np.ndarray:
    """The colours, uint8 [n, channels]."""
    count = _code_number(stream, 14, COLOURS, None if wanted is None else len(wanted), COLOURS)
    palette = np.empty((count, channels), np.uint8)
    for channel in range(channels):
        wanted_steps: np.ndarray | None = None
        wanted_table = None
        if wanted is not None:
            wanted_steps = np.diff(wanted[:, channel].astype(np.int32), prepend=128)
            wanted_table = table_near(wanted_steps)
        table = _code_number(stream, 30, 32, wanted_table, 63)
        steps = stream.exactly(np.full(count, table, np.uint8), np.zeros(count, np.int32), wanted_steps)
        palette[:, channel] = (128 + np.cumsum(steps.astype(np.int64))).clip(0, 255)
    return palette


def _code_number(stream: SymbolStream, table: int, expected: int, wanted: int | None, most: int) -> int:
    """A number from 1 to `most`."""
    given = None if wanted is None else np.array([wanted], np.int32)
    return int(stream.exactly(np.array([table], np.uint8), np.array([expected], np.int32), given)[0].clip(1, most))


def _code_indices(
    stream: SymbolStream, palette: np.ndarray, coded: np.ndarray, last: np.ndarray, wanted: np.ndarray | None
) -> np.ndarray:
    """The indices of all positions, int32 [h, w]. last: the previous ones, or the number of colours for none."""
    affinities = _affinities(palette)
    known = np.append(last.reshape(-1), len(palette))
    here = coded.reshape(-1)
    rank_coder = _RankCoder(stream)
    for _, positions, neighbours in lattices(*coded.shape):
        chosen = here[positions]
        positions, neighbours = positions[chosen], neighbours[chosen]
        if len(positions):
            seen = np.concatenate([neighbours, positions[:, None]], 1)
            ordered = [_order(affinities, known[seen[i : i + _CHUNK]]) for i in range(0, len(positions), _CHUNK)]
            order, greatest = (np.concatenate(parts) for parts in zip(*ordered))
            ranks = None if wanted is None else (order == wanted.reshape(-1)[positions][:, None]).argmax(1)
            ranks = rank_coder.code(greatest, ranks).clip(0, len(palette) - 1)
            known[positions] = order[np.arange(len(positions)), ranks]
    return known[:-1].reshape(coded.shape).astype(np.int32)


def _affinities(palette: np.ndarray) -> np.ndarray:
    """Affinities of every colour, and of no colour, to every colour: int64 [n + 1, n]."""
    colours = palette.astype(np.int64)
    squares = np.square(colours).sum(1)
    distances = squares[:, None] + squares - 2 * colours @ colours.T
    return np.vstack([_ONE // (8 + distances), np.zeros_like(distances[:1])])


def _order(affinities: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours by rank, uint8 [positions, n], and the greatest sum of affinities, int64 [positions].

    seen: the colours of the neighbours and, last, of the position itself, int [positions, 5].
    """
    sums: np.ndarray = sum(affinities[colours] for colours in seen.T)
    own = np.flatnonzero(seen[:, -1] < sums.shape[1])
    sums[own, seen[own, -1]] = -1
    keys = (sums << 8) + 255 - np.arange(sums.shape[1])  # all different: every sort gives the same order
    return (255 - (np.sort(keys)[:, ::-1] & 255)).astype(np.uint8), sums.max(1)


class _RankCoder:
    """Codes the ranks of a frame, and counts them for its later passes."""

    def __init__(self, stream: SymbolStream) -> None:
        self._stream = stream
        self._bits = np.full((_CONTEXTS, _MOST_DIGITS), _FIRST_BITS, np.int64)
        self._ones = np.tile(np.array(FIRST, np.int64), (_CONTEXTS, 1))

    def code(self, greatest: np.ndarray, ranks: np.ndarray | None) -> np.ndarray:
        """The ranks of a pass, int64 [n]. greatest: the greatest sum of affinities of each position, int64 [n]."""
        context = _digits_of(greatest // 64)
        wanted_digits = None if ranks is None else _digits_of(ranks)
        digits = np.full(len(greatest), _MOST_DIGITS)
        open_ = np.arange(len(greatest))  # positions whose number of digits is not known yet
        tables = bit_tables(_ONE * self._ones // self._bits)
        for number in range(_MOST_DIGITS):
            contexts = context[open_]
            wanted = None if wanted_digits is None else wanted_digits[open_] == number
            found = self._stream.bits(tables[contexts, number], wanted) > 0
            self._bits[:, number] += np.bincount(contexts, minlength=_CONTEXTS)
            self._ones[:, number] += np.bincount(contexts[found], minlength=_CONTEXTS)
            digits[open_[found]] = number
            open_ = open_[~found]
        values: np.ndarray = np.minimum(digits, 1)
        for digit in range(2, _MOST_DIGITS + 1):
            longer = np.flatnonzero(digits >= digit)
            bits = None if ranks is None else ranks[longer] >> (digits[longer] - digit) & 1
            values[longer] = 2 * values[longer] + self._stream.bits(np.full(len(longer), _EVEN_TABLE, np.uint8), bits)
        return values


def _digits_of(numbers: np.ndarray) -> np.ndarray:
    """How many binary digits each number below 2**15 has, int64; none for 0."""
    return np.searchsorted(1 << np.arange(15), numbers, side="right")
