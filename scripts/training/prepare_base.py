"""Turn folders of training videos into plain arrays for train_restore.py: shots as they are, and through AV1.

    python scripts/training/prepare_base.py OUT FOLDER [FOLDER ...] [--frames 16] [--size 384x256]
    python scripts/training/prepare_base.py OUT FOLDER [FOLDER ...] --sources     without AV1

Every folder has video/*.mp4. One .npz per shot, cropped from its middle; T frames of H x W, multiples of 4:

    y uint8 [T, H, W]; uv uint8 [T, 2, H/2, W/2]          the source
    flow int16 [T, 2, H/2, W/2]; visible bool, likewise   where it moves, and what is visible in the frame before
    up_y0, up_uv0 as y and uv                             carried by AV1 at some size and crf, and enlarged by Lanczos;
                                                          before AV1 all but the first went through the prefilter
    flow0; doubt0 uint8 [T, H/2, W/2]                     flow and doubt between those (see sdvideo/restore.py)
    base float32 [N, 2]                                   crf and scale of each of these variants 0..N-1

Flow is (x, y) towards the frame before in 1/16 samples of the half-size grid; frame 0 has none. Shots of about one
source in eighteen, by the hash of its name, are for judging only: their files start with "judge_", and all their
variants went through the prefilter. Needs PyAV, with libsvtav1 and libdav1d; train_restore.py needs only what this
writes.
"""

from __future__ import annotations

import argparse
import zlib
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from sdvideo.codecs.av1.base_layer import PRESETS, Filter, decode_base, encode_base
from sdvideo.codecs.av1.prefilter import Prefilter
from sdvideo.container.header import SCALES
from sdvideo.frames import Picture
from sdvideo.media.colour import planes_of
from sdvideo.media.scaling import scaled
from sdvideo.motion.optical_flow import HalfSizeFlow, half_size, sample_grid
from sdvideo.motion.source_motion import source_motion
from sdvideo.restoration.engine import NO_HISTORY
from sdvideo.weights import PREFILTER

JUDGED = [(crf, scale) for scale in SCALES for crf in (40, 55)]


def held_back(path: Path) -> bool:
    """Is this shot for judging only? All of one source are, or none."""
    return zlib.crc32(path.stem.rsplit("_", 1)[0].encode()) % 18 == 0


def read(path: Path, frames: int, width: int, height: int) -> list[Picture]:
    """The middle of a file, in time and in the picture."""
    with av.open(str(path)) as container:
        pictures = [planes_of(frame) for frame in container.decode(video=0)]
    first = max(0, (len(pictures) - frames) // 2)
    return [cropped(picture, width, height) for picture in pictures[first : first + frames]]


def cropped(picture: Picture, width: int, height: int) -> Picture:
    h, w = (min(most, side) // 4 * 4 for most, side in ((height, picture.height), (width, picture.width)))
    top, left = (picture.height - h) // 4 * 2, (picture.width - w) // 4 * 2
    chroma = np.s_[top // 2 : (top + h) // 2, left // 2 : (left + w) // 2]
    planes = picture.y[top : top + h, left : left + w], picture.u[chroma], picture.v[chroma]
    return Picture(*map(np.ascontiguousarray, planes))


prefilter = cache(partial(Prefilter, PREFILTER, device="cpu"))  # once in each process


def through_av1(pictures: list[Picture], crf: int, scale: Fraction, before: Filter | None) -> list[Picture]:
    """One group, as the codec brings it back, enlarged by Lanczos. before: what it goes through first."""
    width, height = pictures[0].width, pictures[0].height
    coded = encode_base(pictures, scale, crf, PRESETS["balanced"], prefilter=before)
    return [scaled(picture, width, height) for picture in decode_base(coded, width, height)]


def stacked(pictures: list[Picture]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([p.y for p in pictures]), np.stack([np.stack([p.u, p.v]) for p in pictures])


def fixed(flow: np.ndarray) -> np.ndarray:
    """float [h, w, 2] in samples -> int16 [2, h, w] in sixteenths."""
    return np.rint(flow * 16).clip(-32768, 32767).astype(np.int16).transpose(2, 0, 1)


def source_side(pictures: list[Picture]) -> dict[str, np.ndarray]:
    y, uv = stacked(pictures)
    size = y.shape[2] // 2, y.shape[1] // 2
    flows, seen = [np.zeros((2, *size[::-1]), np.int16)], [np.zeros(size[::-1], bool)]
    for before, now in pairwise(y):
        motion = source_motion(before, now)
        flow = motion.positions - sample_grid(*now.shape)
        flows.append(fixed(cv2.resize(flow, size, interpolation=cv2.INTER_AREA) / 2))
        seen.append(motion.visible[::2, ::2] & (not motion.cut))
    return {"y": y, "uv": uv, "flow": np.stack(flows), "visible": np.stack(seen)}


def base_side(
    pictures: list[Picture], crf: int, scale: Fraction, before: Filter | None, number: int
) -> dict[str, np.ndarray]:
    y, uv = stacked(through_av1(pictures, crf, scale, before))
    halves = [half_size(luma) for luma in y]
    tracer = HalfSizeFlow()
    flows, doubts = [np.zeros((2, *halves[0].shape), np.int16)], [np.full_like(halves[0], NO_HISTORY)]
    for before, now in pairwise(halves):
        flow, doubt = tracer.estimate(before, now)
        flows.append(fixed(flow))
        doubts.append(doubt)
    names = ("up_y", "up_uv", "flow", "doubt")
    return {f"{name}{number}": value for name, value in zip(names, (y, uv, np.stack(flows), np.stack(doubts)))}


def prepare(path: Path, out: Path, frames: int, width: int, height: int, sources: bool) -> str:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    name = f"{path.parent.parent.name}_{path.stem}"
    judge = held_back(path)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    pictures = read(path, frames, width, height)
    if sources:
        variants = []
    elif judge:
        variants = JUDGED
    else:
        # Full size twice: most bits are spent there, and there is least to gain.
        scales = (SCALES[0], *SCALES)
        variants = [(int(rng.integers(35, 61) if rng.random() < 0.75 else rng.integers(25, 64)), s) for s in scales]
    base = np.array([(crf, float(scale)) for crf, scale in variants], np.float32).reshape(-1, 2)
    arrays = source_side(pictures) | {"base": base}
    for number, (crf, scale) in enumerate(variants):
        # The preset "fast" codes what comes as it is.
        before = prefilter() if judge or number else None
        arrays |= base_side(pictures, crf, scale, before, number)
    np.savez(out / f"{'judge_' if judge else ''}{name}.npz", **arrays)
    told = ", ".join(f"crf {crf} at {scale}" for crf, scale in variants)
    return f"{name}: {len(pictures)} frames, {pictures[0]}, {told}{' (judge)' if judge else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", default="384x256", help="the largest crop")
    parser.add_argument("--sources", action="store_true", help="nothing through AV1")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    width, height = map(int, options.size.split("x"))
    paths = [path for folder in options.folders for path in sorted(folder.glob("video/*.mp4"))]
    work = partial(prepare, out=options.out, frames=options.frames, width=width, height=height, sources=options.sources)
    with ProcessPoolExecutor(options.processes) as pool:
        for line in pool.map(work, paths):
            print(line, flush=True)


if __name__ == "__main__":
    main()
