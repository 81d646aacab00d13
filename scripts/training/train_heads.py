"""Find out what the heads of SVT-AV1's OBUs are like, and put it into the package: what `sdvideo/heads.py` expects.

    python scripts/training/train_heads.py FOLDER [FOLDER ...]

plans.bin: how each OBU of a group begins, up to where it depends on the pictures. That is a matter of how many
pictures there are, of the preset, of the length of mini-GOPs (SVT-AV1 chooses 16 or 32 by size and CRF) and of the
tools for what is drawn. priors.bin: what the experts know after the shots in the folders, each coded once, at a
quality, scale and preset drawn by lot. Files depend on both: changed ones make another format. Takes ten minutes.
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
from sdvideo.codecs.av1.header_compression import LONGEST_PLAN, learned, obus, pack_plans, pack_priors
from sdvideo.codecs.av1.rate_control import encode_at_level, level_of
from sdvideo.container.header import SCALES
from sdvideo.frames import Picture
from sdvideo.media.source import open_source
from sdvideo.weights import HEADER_PLANS, HEADER_PRIORS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from clips import VIDEOS, files_in

# Preset (1 codes as 3, 7 as 6 does), mini-GOPs of 2**this - 1, and whether the pictures are taken for drawn.
WAYS = [(preset, levels, drawn) for drawn in (0, 1) for preset in (3, 6) for levels in (4, 5)]
SIDE = 64
QUALITIES = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60)
PRESETS = ("fast", "balanced", "balanced")


def pictures(count: int) -> list[Picture]:
    """Noise that moves, which no decision of the encoder depends on."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE + count, SIDE), np.uint8)
    chroma = np.full((SIDE // 2, SIDE // 2), 128, np.uint8)
    return [Picture(noise[n : n + SIDE], chroma, chroma) for n in range(count)]


def beginning(header: bytes, payload: bytes) -> bytes:
    """As much of an OBU as depends on nothing but the plan."""
    kind = header[0] >> 3 & 15
    if kind == 1:  # a sequence: profile, level, and bits of the sides
        return header + payload[:4]
    if payload[0] & 0b1110_0000 == 0b1000_0000 or len(payload) == 1:  # a picture that was coded before
        return header + payload[:1]
    if payload[0] & 0b0110_0000 == 0:  # a key frame
        return header + payload[:2]
    return header + payload[:6]


def find_plans() -> None:
    plans = []
    shown = pictures(LONGEST_PLAN)
    for preset, levels, drawn in tqdm(WAYS):
        params = f"crf=50:{GROUP_OPTIONS}:scm={drawn}:hierarchical-levels={levels}"
        for count in [LONGEST_PLAN, *range(1, LONGEST_PLAN)]:
            packets = svt.encode(shown[:count], {"preset": str(preset), "svtav1-params": params})
            plan = [beginning(*obu) for number in range(count) for obu in obus(packets[number])]
            if count == LONGEST_PLAN:
                longest, shared = plan, 0
            else:
                shared = next((at for at, pair in enumerate(zip(plan, longest)) if pair[0] != pair[1]), len(plan))
            plans.append((shared, plan[shared:]))
    HEADER_PLANS.write_bytes(pack_plans(plans))


def groups(folders: list[Path]) -> Iterator[tuple[bytes, ...]]:
    """The units of each shot."""
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
    find_plans()
    HEADER_PRIORS.write_bytes(pack_priors(learned(groups(folders))))


if __name__ == "__main__":
    main()
