"""Makes the tables for AV1's frame headers, weights/plans.bin and weights/priors.bin.

    python scripts/training/train_frame_headers.py FOLDER [FOLDER ...]

`sdvideo/codecs/av1/header_compression.py` says how they are used. plans.bin holds the beginning of each OBU of a group,
as far as it does not depend on the content of the pictures. It depends on the number of pictures, the preset, the
length of the mini-GOPs (SVT-AV1 chooses 16 or 32 by size and CRF) and on whether the tools for screen content are used.
priors.bin holds what the contexts have learned from the shots in the folders, each coded once, at a random quality,
scale and preset. Files depend on both tables, so new tables are a new format. Takes ten minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdvideo.codecs.av1 import svt_process as svt
from sdvideo.codecs.av1.base_layer import GROUP_OPTIONS
from sdvideo.codecs.av1.header_compression import LONGEST_PLAN, learn_priors, obus, pack_plans, pack_priors
from sdvideo.codecs.av1.rate_control import encode_at_level, level_of
from sdvideo.container.header import SCALES
from sdvideo.frames import Picture
from sdvideo.media.source import open_source
from sdvideo.weights import HEADER_PLANS, HEADER_PRIORS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from clips import VIDEOS, files_in

# SVT-AV1's preset (1 makes the same plans as 3, and 7 as 6), hierarchical levels, which give mini-GOPs of 2**levels
# pictures, and whether the tools for screen content are used.
SETTINGS = [(preset, levels, screen) for screen in (0, 1) for preset in (3, 6) for levels in (4, 5)]
SIDE = 64
QUALITIES = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60)
PRESETS = ("fast", "balanced", "balanced")


def pictures(count: int) -> list[Picture]:
    """Moving noise; the encoder decides nothing about the plan by the content."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE + count, SIDE), np.uint8)
    chroma = np.full((SIDE // 2, SIDE // 2), 128, np.uint8)
    return [Picture(noise[n : n + SIDE], chroma, chroma) for n in range(count)]


def beginning(header: bytes, payload: bytes) -> bytes:
    """The part of an OBU that depends on nothing but the plan."""
    type = header[0] >> 3 & 15
    if type == 1:  # a sequence header: profile, level, and the bit lengths of width and height
        return header + payload[:4]
    if payload[0] & 0b1110_0000 == 0b1000_0000 or len(payload) == 1:  # show_existing_frame: coded before
        return header + payload[:1]
    if payload[0] & 0b0110_0000 == 0:  # a key frame
        return header + payload[:2]
    return header + payload[:6]


def write_plans() -> None:
    plans = []
    noise = pictures(LONGEST_PLAN)
    for preset, levels, screen in tqdm(SETTINGS):
        params = f"crf=50:{GROUP_OPTIONS}:scm={screen}:hierarchical-levels={levels}"
        for count in [LONGEST_PLAN, *range(1, LONGEST_PLAN)]:
            packets = svt.encode(noise[:count], {"preset": str(preset), "svtav1-params": params})
            plan = [beginning(*obu) for number in range(count) for obu in obus(packets[number])]
            if count == LONGEST_PLAN:
                longest, shared = plan, 0
            else:
                shared = next((at for at, pair in enumerate(zip(plan, longest)) if pair[0] != pair[1]), len(plan))
            plans.append((shared, plan[shared:]))
    HEADER_PLANS.write_bytes(pack_plans(plans))


def groups(folders: list[Path]) -> Iterator[tuple[bytes, ...]]:
    """The temporal units of each shot."""
    rng = random.Random(1)
    shots = [path for folder in folders for path in files_in(folder, VIDEOS)]
    rng.shuffle(shots)
    for path in tqdm(shots):
        with open_source(path) as video:
            pictures = [frame.picture for frame in video.frames()]
        level, scale, preset = level_of(rng.choice(QUALITIES)), rng.choice(SCALES), rng.choice(PRESETS)
        yield encode_at_level(pictures, level, preset, scale).units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    folders = parser.parse_args().folders
    write_plans()
    HEADER_PRIORS.write_bytes(pack_priors(learn_priors(groups(folders))))


if __name__ == "__main__":
    main()
