"""Judge weight files of either shape on whole held-back shots.

    python judge_all.py data --out judged.jsonl [--frames 16] [--everything] WEIGHTS [WEIGHTS ...]

At the scales and crfs that are judged while training, or at everything that is prepared.

A line of JSON for each file: MEASURES of train_natural.py and the distances of the octaves in dB.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_restore as faithful
from course import judged_shots
from train_natural import JUDGED_SETTINGS, MEASURES, Looks, judge, means
from wide_network import widened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--lanczos", action="store_true", help="judge plain enlargement, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    looks, judged = Looks(), judged_shots(options.data)
    for path in (*options.weights, *[None] * options.lanczos):
        network = path and faithful.lightly(widened(path).to(memory_format=torch.channels_last), looks.light)
        table = judge(network, judged, looks, options.frames, None if options.everything else JUDGED_SETTINGS)
        row = {"who": path.stem if path else "Lanczos", "measures": [*MEASURES, "octaves"], "means": means(table)}
        line = json.dumps(row | {"judged": table, "frames": options.frames})
        print(line[:400], flush=True)
        with options.out.open("a") as out:
            print(line, file=out)


if __name__ == "__main__":
    main()
