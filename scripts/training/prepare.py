"""Turn folders of training videos and photographs into plain arrays for train.py.

    python scripts/training/prepare.py OUT FOLDER [FOLDER ...] [--frames 10]

Every folder has video/*.mp4 and photos/*.jpg. One .npz per shot: planes uint8 [T, 1.5 H, W] (I420: Y above U and V,
each of those space_to_depth to width W), motion int16 [T - 1, 2, H/16, W/16] of each frame against the one before it.
Sizes are cropped to multiples of 32. Photographs have T = 1. Needs PyAV; train.py needs only what this writes.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np

from sdvideo.motion.block_matching import Estimator


def read_planes(path: Path, frames: int) -> np.ndarray:
    """The middle `frames` frames of a file, uint8 [T, 1.5 H, W]."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
        width, height = container.streams.video[0].width, container.streams.video[0].height
    first = max(0, (len(pictures) - frames) // 2)
    return np.stack([crop(picture, height, width) for picture in pictures[first : first + frames]])


def crop(i420: np.ndarray, height: int, width: int) -> np.ndarray:
    """I420 of any even size -> I420 of a multiple of 32 each way, from the middle."""
    if height % 2 or width % 2:
        raise ValueError(f"odd size {width}x{height}")
    y, chroma = i420[:height], i420[height:].reshape(2, height // 2, width // 2)
    h, w = height // 32 * 32, width // 32 * 32
    top, left = (height - h) // 4 * 2, (width - w) // 4 * 2
    y = y[top : top + h, left : left + w]
    chroma = chroma[:, top // 2 : (top + h) // 2, left // 2 : (left + w) // 2]
    return np.concatenate([y, chroma.reshape(h // 2, w)])


def read_photo(path: Path) -> np.ndarray:
    rgb = cv2.imread(str(path))
    rgb = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
    i420 = cv2.cvtColor(rgb, cv2.COLOR_BGR2YUV_I420)
    return crop(i420, rgb.shape[0], rgb.shape[1])[None]


def motion(planes: np.ndarray) -> np.ndarray:
    height, width = planes.shape[1] * 2 // 3, planes.shape[2]
    luma = np.ascontiguousarray(planes[:, :height])
    estimator = Estimator(height // 16, width // 16)
    fields = [estimator.estimate(after, before, 10.0) for before, after in pairwise(luma)]
    return np.stack(fields) if fields else np.zeros((0, 2, height // 16, width // 16), np.int16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=10)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for folder in options.folders:
        for path in sorted([*folder.glob("video/*"), *folder.glob("photos/*.jpg")]):
            planes = read_photo(path) if path.suffix == ".jpg" else read_planes(path, options.frames)
            np.savez(options.out / f"{folder.name}_{path.stem}.npz", planes=planes, motion=motion(planes))
            print(
                f"{path.name}: {planes.shape[0]} frames, {planes.shape[2]}x{planes.shape[1] * 2 // 3}",
                flush=True,
            )


if __name__ == "__main__":
    main()
