"""Find out by which plans SVT-AV1 codes groups, and put them into the package: what `sdvideo/heads.py` expects.

    python scripts/plans.py

A plan says how each OBU of a group begins, up to where it depends on the pictures. It is a matter of how many pictures
there are, of the preset, of the length of mini-GOPs (SVT-AV1 chooses 16 or 32 by size and CRF) and of the tools for
what is drawn. Files depend on these plans: changed ones make another format. Takes ten minutes.
"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from sdvideo import svt
from sdvideo.base import GROUP_OPTIONS
from sdvideo.heads import LONGEST_PLAN, PLANS, obus, pack_plans
from sdvideo.picture import Picture

# Preset (1 codes as 3, 7 as 6 does), mini-GOPs of 2**this - 1, and whether the pictures are taken for drawn.
WAYS = [(preset, levels, drawn) for drawn in (0, 1) for preset in (3, 6) for levels in (4, 5)]
SIDE = 64


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


def main() -> None:
    plans = []
    shown = pictures(LONGEST_PLAN)
    for preset, levels, drawn in tqdm(WAYS):
        params = f"crf=50:{GROUP_OPTIONS}:scm={drawn}:hierarchical-levels={levels}"
        for count in [LONGEST_PLAN, *range(1, LONGEST_PLAN)]:
            packets = svt.encode(shown[:count], {"preset": str(preset), "svtav1-params": params})
            plans.append([beginning(*obu) for number in range(count) for obu in obus(packets[number])])
    PLANS.write_bytes(pack_plans(plans))


if __name__ == "__main__":
    main()
