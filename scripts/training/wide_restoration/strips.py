"""Pictures to look at: source, enlarged base and what networks make of it, side by side at 200 %.

    python strips.py data --out pictures WEIGHTS [WEIGHTS ...] [--setting 55,1] [--frame 8] [--side 128]

Of each held-back shot the crop with most detail in the source, after a chain of frames.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_restore as faithful
from train_natural import rgb
from wide_network import widened


def busiest(y: torch.Tensor, side: int) -> tuple[int, int]:
    """Top and left of the square with most detail; strong edges count no more than texture."""
    detail = (y - F.avg_pool2d(y[None], 5, 1, 2)[0]).abs().clamp_max(8)
    sums = F.avg_pool2d(detail[None], side, 8)[0, 0]
    at = int(sums.argmax())
    return 8 * (at // sums.shape[1]), 8 * (at % sums.shape[1])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--setting", default="55,1", help="crf, scale")
    parser.add_argument("--frame", type=int, default=8)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--only", default="", help="part of the names of shots")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    light = torch.autocast("cpu", torch.bfloat16)
    painters = [faithful.lightly(widened(p).to(memory_format=torch.channels_last), light) for p in options.weights]
    wanted = [float(v) for v in options.setting.split(",")]
    for path in sorted(options.data.glob(f"judge_*{options.only}*.npz".replace("**", "*"))):
        shot = faithful.Shot(path, "cpu")
        variant = min(range(len(shot.base)), key=lambda v: abs(np.subtract(shot.base[v], wanted)) @ [1, 100])
        chain = shot.whole(variant, options.frame + 1)
        last = chain.y.shape[1] - 1
        pictures = [(chain.y[:, last], chain.uv[:, last]), (chain.up_y[:, last], chain.up_uv[:, last])]
        pictures += [faithful.paint(painter, chain, rounded=True)[last] for painter in painters]
        top, left = busiest(chain.y[:, last], options.side)
        crops = [rgb(*planes)[0].flip(0) for planes in pictures]
        crops = [crop[:, top : top + options.side, left : left + options.side] for crop in crops]
        strip = np.concatenate([(crop * 255).round().byte().permute(1, 2, 0).numpy() for crop in crops], 1)
        strip = cv2.resize(strip, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(options.out / f"{path.stem[6:]}_{options.setting.replace(',', '_')}.png"), strip)


if __name__ == "__main__":
    main()
