"""Where the base picture is at rest, the shown picture stays; where it moves, it is restored as in a whole picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sdvideo.frames import Picture
from sdvideo.restoration import at_rest
from sdvideo.restoration.loading import load_restorer
from sdvideo.restoration.restorer import FrameRestorer, Restorer


class CountedRestorer(Restorer):
    """Counts the pixels that the network restores."""

    def __init__(self) -> None:
        super().__init__(load_restorer(device="cpu")._engine)
        self.pixels = 0

    def restore(self, upscaled, warped, warp_error, setting):
        self.pixels += upscaled.y.size
        return super().restore(upscaled, warped, warp_error, setting)


def scene(width: int, height: int) -> np.ndarray:
    noise = np.random.default_rng(5).integers(0, 256, (height, width)).astype(np.float32)
    return np.clip(cv2.GaussianBlur(noise, (0, 0), 2) * 4 - 380, 0, 255).astype(np.uint8)


def base_picture(luma: np.ndarray) -> Picture:
    chroma = cv2.resize(luma, (luma.shape[1] // 2, luma.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return Picture(luma, chroma, 255 - chroma)


def restored(bases: list[Picture], width: int, height: int, restorer: Restorer) -> list[Picture]:
    frames = FrameRestorer(restorer, width, height)
    return [frames.restore(frames.prepare(base, number == 0), 50) for number, base in enumerate(bases)]


@pytest.mark.parametrize("size", [(512, 320), (510, 318), (340, 214)])
def test_a_picture_at_rest_stays_for_good_and_costs_nothing(size: tuple[int, int]) -> None:
    restorer = CountedRestorer()
    pictures = restored([base_picture(scene(*size))] * 160, 512, 320, restorer)
    assert restorer.pixels == 2 * 512 * 320
    assert all(np.array_equal(picture.y, pictures[1].y) for picture in pictures[2:])
    assert not np.array_equal(pictures[0].y, pictures[1].y)  # there was something to settle


@pytest.mark.parametrize("scale", [1, 2])
def test_a_moving_part_is_restored_as_in_a_whole_picture(scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height, side = 768 // scale, 512 // scale, 48 // scale
    background, sprite = scene(width, height), scene(side, side)
    bases = []
    for number in range(12):
        luma = background.copy()
        left = (300 + 6 * number) // scale
        luma[240 // scale :, left:][:side, :side] = sprite
        bases.append(base_picture(luma))
    restorer = CountedRestorer()
    parts = restored(bases, 768, 512, restorer)
    assert restorer.pixels < 0.5 * 12 * 768 * 512
    monkeypatch.setattr(at_rest, "_SETTLED", len(bases) + 1)
    whole = restored(bases, 768, 512, CountedRestorer())
    apart = [np.abs(a.y.astype(int) - b.y) for a, b in zip(parts, whole)]
    assert max(difference.max() for difference in apart) <= 12  # at rest, single samples of strong detail
    assert np.mean([(difference > 1).mean() for difference in apart]) < 0.01
    # What moves, a tile around it: only what was at rest there before may differ, by what the network adds to it.
    moving = [difference[240:288, 300 + 6 * number :][:, :48] for number, difference in enumerate(apart)]
    assert max(difference.max() for difference in moving) <= 2
