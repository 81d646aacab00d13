"""Block motion: candidate vectors from optical flow, chosen by rate and distortion, applied in integers.

A motion field is int16 [2, h, w]: (dx, dy) of every 16x16 luma block in quarter pixels. The block at (x, y) is
predicted from (x + dx / 4, y + dy / 4) of the reference; samples outside the reference are its nearest border samples.
Blocks overlap (overlapped block motion compensation): within 4 pixels of its border a block blends into what the
neighbour's vector predicts there. Blocks with a zero vector do not blend, since what does not move must not change.
Sub-pixel samples are OpenCV's bicubic ones, which on 8-bit planes are computed with fixed-point weights and positions
rounded to 1/32. A field of zeros returns the reference as it is.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdvideo.frames import Picture

from .optical_flow import DenseFlow

BLOCK = 16
LIMIT = 1023  # largest component of a vector, quarter pixels

# Weight of a block's own prediction at each sample, in sixteenths; the rest is the neighbour's.
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
    here_y, beside_y = _half_blocks(rows)
    here_x, beside_x = _half_blocks(columns)
    at_rest = ~field[:, here_y[:, None], here_x].any(0)
    total = np.full(plane.shape, 128, np.uint16)
    for from_y, weight_y in ((here_y, own_y), (beside_y, 16 - own_y)):
        for from_x, weight_x in ((here_x, own_x), (beside_x, 16 - own_x)):
            vectors = np.where(at_rest, 0, field[:, from_y[:, None], from_x])
            predicted = _warp(plane, vectors, BLOCK // block)
            weight = weight_y[:, None] * weight_x
            total += predicted * weight.reshape(*weight.shape, *[1] * (plane.ndim - 2))
    return (total >> 8).astype(np.uint8)


def _half_blocks(count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each half block along an axis: its block, and the block next to it (itself at the picture's border)."""
    here = np.repeat(np.arange(count), 2)
    return here, (here + np.tile([-1, 1], count)).clip(0, count - 1)


def _warp(plane: np.ndarray, field: np.ndarray, subsampling: int) -> np.ndarray:
    """Sample the plane where each vector points; each vector of the field holds for an equal rectangle."""
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


def unchanged(picture: Picture, previous: Picture, block: int) -> np.ndarray:
    """The blocks in which a picture equals the previous one, bool [ceil(H/block), ceil(W/block)]; block: even.

    These blocks are never coded: what does not move in the source must not move in the decoded video.
    """
    rows, columns = -(-picture.height // block), -(-picture.width // block)
    same = np.ones((rows, columns), bool)
    planes = zip((picture.y, picture.u, picture.v), (previous.y, previous.u, previous.v))
    for (now, before), size in zip(planes, (block, block // 2, block // 2)):
        differs = np.zeros((rows * size, columns * size), bool)
        differs[: now.shape[0], : now.shape[1]] = now != before
        same &= ~differs.reshape(rows, size, columns, size).any((1, 3))
    return same


# By preset: the flow that proposes vectors, and by how many quarter pixels they are then refined, round by round.
_EFFORT = {"fast": ("ultrafast", (2,)), "balanced": ("fast", (2, 1)), "best": ("medium", (8, 4, 2, 1, 1))}


class Estimator:
    """Finds the motion field of each picture against its reference.

    Candidates for each block are the optical flow, rest, the block's last vector and the vectors of its neighbours. The
    one with the lowest squared error + penalty * bits stays and is then refined.
    """

    def __init__(self, rows: int, columns: int, preset: str = "balanced"):
        flow, self._rounds = _EFFORT[preset]
        self._flow = DenseFlow(flow)
        self._last = np.zeros((2, rows, columns), np.int16)

    def estimate(self, current: np.ndarray, reference: np.ndarray, penalty: float) -> np.ndarray:
        """current, reference: luma, uint8 [H, W], sides multiples of 16. penalty: squared error that a bit is worth.

        Returns a motion field, int16 [2, H/16, W/16].
        """
        rows, columns = self._last.shape[1:]
        search = _Search(current, reference, penalty)
        flow = self._flow.estimate(current, reference).reshape(rows, BLOCK, columns, BLOCK, 2)
        flow = flow[:, 4:12, :, 4:12].mean((1, 3)).transpose(2, 0, 1)
        search.propose(_rounded(flow * 4))
        search.propose(np.zeros_like(self._last))
        search.propose(self._last)
        for _ in range(2):
            search.predict_from_neighbours()
            search.propose(search.predicted)
        for reach in self._rounds:
            search.predict_from_neighbours()
            centre = search.field
            for step in ((reach, 0), (-reach, 0), (0, reach), (0, -reach)):
                search.propose(_rounded(centre + np.array(step, np.int16)[:, None, None]))
        self._last = search.field
        return self._last


class _Search:
    """The best field so far, with its squared error and its cost, block by block."""

    def __init__(self, current: np.ndarray, reference: np.ndarray, penalty: float):
        self._current, self._reference, self._penalty = current, reference, penalty
        self._blocks = (current.shape[1] // BLOCK, current.shape[0] // BLOCK)
        self.field = np.zeros((2, *self._blocks[::-1]), np.int16)
        self.predicted = self.field
        self._error = self._cost = np.full(self._blocks[::-1], np.inf, np.float32)

    def propose(self, field: np.ndarray) -> None:
        """Take the vectors of this field that cost less than the best so far."""
        difference = cv2.absdiff(self._current, _warp(self._reference, field, 1))
        squares = cv2.multiply(difference, difference, dtype=cv2.CV_32F)
        error = cv2.resize(squares, self._blocks, interpolation=cv2.INTER_AREA) * BLOCK**2
        cost = error + self._penalty * self._bits(field)
        better = cost < self._cost
        self.field = np.where(better, field, self.field)
        self._error = np.where(better, error, self._error)
        self._cost = np.where(better, cost, self._cost)

    def predict_from_neighbours(self) -> None:
        """From now on a vector's bits depend on its distance to the median of itself and its four neighbours."""
        padded = np.pad(self.field, ((0, 0), (1, 1), (1, 1)), mode="edge")
        rows, columns = self.field.shape[1:]
        cross = [padded[:, y : y + rows, x : x + columns] for y, x in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))]
        self.predicted = np.median(cross, axis=0).astype(np.int16)
        self._cost = self._error + self._penalty * self._bits(self.field)

    def _bits(self, field: np.ndarray) -> np.ndarray:
        """Estimated bits for each vector, given the predicted one."""
        off = np.abs(field - self.predicted, dtype=np.float32)
        return np.where(off > 0, 2.5 + 2 * np.log2(np.maximum(off, 1)), 0.3).sum(0)


def _rounded(field: np.ndarray) -> np.ndarray:
    return np.rint(field).clip(-LIMIT, LIMIT).astype(np.int16)
