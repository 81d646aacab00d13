"""Prepare shots of several folders for training, those for judging first and the others in a shuffled order.

    python prepare_shots.py data --shots FOLDER [FOLDER ...] --native FOLDER [FOLDER ...]

What prepare_base.py does, but so that training can begin while the rest is still being prepared: whatever is there is a
fair mixture, each file is whole when it appears, and files that exist are left alone. Shots at a low resolution are
cropped to 384x256, native crops to 512x384. Of these six are for judging only, and the other crops of the same sources
are left out; prepare_base.py would tell crops of one source apart by its name only if a single number followed it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import prepare_base

FRAMES, SIZE, NATIVE_SIZE = 16, (384, 256), (512, 384)
JUDGED_NATIVE = {
    "city_meditati_beach_0006_1152_480",
    "folia_portfoli_drone_0000_1248_696",
    "peopl_umigripp_teaser_data_collec_0108_480_288",
    "scree_linctl_launch_0144_384_288",
    "smoke_liveweat_smoke_0000_480_96",
    "smoke_weather_snowday_0216_672_192",
}
JUDGED_SOURCES = {name.split("_", 1)[1].rsplit("_", 3)[0] for name in JUDGED_NATIVE}  # without kind and place


@dataclass(frozen=True)
class Job:
    """A file, the largest crop from it, and whether it is for judging only."""

    path: Path
    width: int
    height: int
    judge: bool


def jobs_of(shots: list[Path], native: list[Path]) -> list[Job]:
    jobs = [Job(path, *SIZE, prepare_base.held_back(path)) for path in _videos(shots)]
    for path in _videos(native):
        judge = path.stem in JUDGED_NATIVE
        if judge or not any(source in path.stem for source in JUDGED_SOURCES):
            jobs.append(Job(path, *NATIVE_SIZE, judge))
    random.Random(7).shuffle(jobs)
    return sorted(jobs, key=lambda job: not job.judge)


def _videos(folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob("video/*.mp4"))]


def prepare(job: Job, out: Path) -> str:
    path = job.path
    name = f"{path.parent.parent.name}_{path.stem}.npz"
    if (out / name).exists() or (out / f"judge_{name}").exists():
        return f"{name} is there"
    part = out / f"part{os.getpid()}"
    part.mkdir(exist_ok=True)
    prepare_base.held_back = lambda _: job.judge
    line = prepare_base.prepare(path, part, FRAMES, job.width, job.height, sources=False)
    for file in part.glob("*.npz"):
        file.rename(out / file.name)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shots", type=Path, nargs="*", default=[])
    parser.add_argument("--native", type=Path, nargs="*", default=[])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.processes) as pool:
        for line in pool.map(partial(prepare, out=options.out), jobs_of(options.shots, options.native)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
