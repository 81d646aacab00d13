"""The restoration network in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from .engine import BLOCKS
from .network import RestorationNetwork, load_network
from .patches import add_rounded

_MAX_SQUARES = 80_000  # of one pass of the network; a square takes about 1 kB of memory


class TorchEngine:
    """An Engine, see `engine.py`. weights: float32, by name; device: "cpu" or "cuda"."""

    def __init__(self, weights: Mapping[str, np.ndarray], device: str):
        self._device = device
        self._network = load_network(RestorationNetwork(), weights, device)

    @torch.inference_mode()
    def restore(
        self, upscaled: np.ndarray, warped: np.ndarray, warp_error: np.ndarray, setting: tuple[float, float]
    ) -> np.ndarray:
        centred, difference = (
            np.subtract(a, b, dtype=np.int16) for a, b in ((upscaled, np.uint8(128)), (warped, upscaled))
        )
        seen = np.concatenate([centred, difference, warp_error], -1)
        conditions = torch.tensor([setting], device=self._device)
        restored = np.empty_like(upscaled)
        for rows, context in _strips(*seen.shape[:2]):
            strip = torch.from_numpy(seen[context]).to(self._device).permute(2, 0, 1)[None]
            change = self._network(strip, conditions)[0].permute(1, 2, 0).cpu().numpy()
            skip = rows.start - context.start
            restored[rows] = add_rounded(upscaled[rows], change[skip : skip + rows.stop - rows.start])
        return restored


def _strips(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Rows of squares to restore in one pass, and the rows needed for it: each block looks one square further."""
    count = -(-rows * columns // _MAX_SQUARES)
    for n in range(count):
        top, bottom = rows * n // count, rows * (n + 1) // count
        yield slice(top, bottom), slice(max(0, top - BLOCKS), min(rows, bottom + BLOCKS))
