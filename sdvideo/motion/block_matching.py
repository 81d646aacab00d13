"""Block motion: proposed by DIS optical flow, chosen for rate and distortion, applied in integers.

A motion field is int16 [2, h, w]: (dx, dy) of every 16x16 luma block in quarter pixels; the block at (x, y) is
predicted from (x + dx / 4, y + dy / 4) of the reference, whose border samples are repeated outwards. Blocks overlap
(overlapped block motion compensation): within 4 pixels of its border a block fades into what the neighbour's vector
predicts there; blocks at rest do not, for what does not move must not change. Sub-pel samples are OpenCV's bicubic
ones, which on 8-bit planes it computes with fixed-point weights and a fraction of 1/32; a field of zeros returns the
reference as it is.
"""

from __future__ import annotations

import cv2
import numpy as np

BLOCK = 16
_LEAST = 32  # pixels a side that DIS needs
LIMIT = 1023  # quarter pixels, either way

# How much of a sample its own block says, in sixteenths; the rest is its neighbour's.
_OWN = {
    16: np.array([9, 11, 13, 15, 16, 16, 16, 16, 16, 16, 16, 16, 15, 13, 11, 9], np.uint16),
    8: np.array([10, 14, 16, 16, 16, 16, 14, 10], np.uint16),
}


def compensate(plane: np.ndarray, field: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """Warp a plane of the reference by a motion field.

    plane: uint8 [H, W] or [H, W, 2], H and W multiples of block. field: int16 [2, H/block, W/block], quarters of a
    luma pixel. block: 16 for luma, 8 for 4:2:0 chroma. Returns the same shape.
    """
    if not field.any():
        return plane.copy()
    rows, columns = field.shape[1:]
    own_y, own_x = np.tile(_OWN[block], rows), np.tile(_OWN[block], columns)
    here_y, beside_y = _halves(rows)
    here_x, beside_x = _halves(columns)
    at_rest = ~field[:, here_y[:, None], here_x].any(0)
    total = np.full(plane.shape, 128, np.uint16)
    for look_y, weight_y in ((here_y, own_y), (beside_y, 16 - own_y)):
        for look_x, weight_x in ((here_x, own_x), (beside_x, 16 - own_x)):
            vectors = np.where(at_rest, 0, field[:, look_y[:, None], look_x])
            seen = _warp(plane, vectors, BLOCK // block)
            weight = weight_y[:, None] * weight_x
            total += seen * weight.reshape(*weight.shape, *[1] * (plane.ndim - 2))
    return (total >> 8).astype(np.uint8)


def _halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each half block along an axis: its block, and the block on its side (itself at the picture's border)."""
    here = np.repeat(np.arange(count), 2)
    return here, (here + np.tile([-1, 1], count)).clip(0, count - 1)


def _warp(plane: np.ndarray, field: np.ndarray, subsampling: int) -> np.ndarray:
    """Look up every sample where its vector points; each vector of the field holds for an equal rectangle."""
    height, width = plane.shape[:2]
    x, y = (
        cv2.resize(component.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
        for component in field
    )
    x *= 0.25 / subsampling
    y *= 0.25 / subsampling
    x += np.arange(width, dtype=np.float32)
    y += np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(plane, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


# By preset: how carefully DIS looks, and by how many quarter pixels its proposals are then refined, round by round.
_EFFORT = {
    "fast": (cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, (2,)),
    "balanced": (cv2.DISOPTICAL_FLOW_PRESET_FAST, (2, 1)),
    "best": (cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, (8, 4, 2, 1, 1)),
}


class Estimator:
    """Finds the motion field of each picture against its reference.

    DIS flow (Kroeger et al. 2016, OpenCV's) proposes a vector for each block; so do rest, the block's last vector and
    its neighbours. The cheapest in squared error + penalty * bits stays, and is then refined.
    """

    def __init__(self, rows: int, columns: int, preset: str = "balanced"):
        care, self._rounds = _EFFORT[preset]
        self._dis = cv2.DISOpticalFlow_create(care)
        self._last = np.zeros((2, rows, columns), np.int16)

    def estimate(self, current: np.ndarray, reference: np.ndarray, penalty: float) -> np.ndarray:
        """current, reference: luma, uint8 [H, W]. penalty: squared error that one bit is worth.

        Returns a motion field, int16 [2, H/16, W/16].
        """
        rows, columns = self._last.shape[1:]
        search = _Search(current, reference, penalty)
        flow = self._dis.calc(_grown(current), _grown(reference), None)[: current.shape[0], : current.shape[1]]
        flow = flow.reshape(rows, BLOCK, columns, BLOCK, 2)[:, 4:12, :, 4:12].mean((1, 3)).transpose(2, 0, 1)
        search.propose(_whole(flow * 4))
        search.propose(np.zeros_like(self._last))
        search.propose(self._last)
        for _ in range(2):
            search.expect_neighbours()
            search.propose(search.expected)
        for reach in self._rounds:
            search.expect_neighbours()
            centre = search.field
            for step in ((reach, 0), (-reach, 0), (0, reach), (0, -reach)):
                search.propose(_whole(centre + np.array(step, np.int16)[:, None, None]))
        self._last = search.field
        return self._last


class _Search:
    """The best field so far, its squared error and its cost, block by block."""

    def __init__(self, current: np.ndarray, reference: np.ndarray, penalty: float):
        self._current, self._reference, self._penalty = current, reference, penalty
        self._blocks = (current.shape[1] // BLOCK, current.shape[0] // BLOCK)
        self.field = np.zeros((2, *self._blocks[::-1]), np.int16)
        self.expected = self.field
        self._error = self._cost = np.full(self._blocks[::-1], np.inf, np.float32)

    def propose(self, field: np.ndarray) -> None:
        """Take over the vectors of this field that cost less."""
        seen = _warp(self._reference, field, 1)
        difference = cv2.absdiff(self._current, seen)
        squares = cv2.multiply(difference, difference, dtype=cv2.CV_32F)
        error = cv2.resize(squares, self._blocks, interpolation=cv2.INTER_AREA) * BLOCK**2
        cost = error + self._penalty * self._bits(field)
        better = cost < self._cost
        self.field = np.where(better, field, self.field)
        self._error = np.where(better, error, self._error)
        self._cost = np.where(better, cost, self._cost)

    def expect_neighbours(self) -> None:
        """Price vectors from now on by how far they are from the median of their cross of neighbours."""
        padded = np.pad(self.field, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = self.field.shape[1:]
        cross = [padded[:, y : y + rows, x : x + columns] for y, x in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))]
        self.expected = np.median(cross, axis=0).astype(np.int16)
        self._cost = self._error + self._penalty * self._bits(self.field)

    def _bits(self, field: np.ndarray) -> np.ndarray:
        """About what each vector takes to code, given what the coder expects."""
        off = np.abs(field - self.expected, dtype=np.float32)
        return np.where(off > 0, 2.5 + 2 * np.log2(np.maximum(off, 1)), 0.3).sum(0)


def _grown(luma: np.ndarray) -> np.ndarray:
    """The picture as large as DIS needs, its last row and column repeated: narrow bands it would scale to nothing."""
    down, right = (max(0, _LEAST - side) for side in luma.shape)
    return cv2.copyMakeBorder(luma, 0, down, 0, right, cv2.BORDER_REPLICATE) if down or right else luma


def _whole(field: np.ndarray) -> np.ndarray:
    return np.rint(field).clip(-LIMIT, LIMIT).astype(np.int16)
