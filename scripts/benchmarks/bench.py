"""sdvideo against x264, x265, SVT-AV1 and VVenC, its pictures against JPEG, WebP and AVIF: what the README shows.

    python scripts/benchmarks/bench.py CLIPS --stills FOLDER --out FOLDER                  all but speed
    python scripts/benchmarks/bench.py CLIPS --stills FOLDER --out FOLDER --only speed     with nothing else running
    python scripts/benchmarks/bench.py CLIPS --stills FOLDER --out FOLDER --only tables    from what was measured

A clip's first 64 frames (--frames), scaled down to a short side of at most 480 (--short), without sound, are what
every codec gets and what comes out is measured against. The parts, in this order:

    quality   bits and PSNR-Y, MS-SSIM, VMAF, VMAF-NEG, XPSNR, MCF and φ of every point of every ladder
    stills    the first frame of each clip, and --stills, at several qualities of each picture format
    speed     frames per second and peak memory in the middle of each ladder, on the clips of about 854x480;
              only if asked for, as it wants the machine for itself
    tables    tables.md and rd-*.png

results.json in --out is written after every point; a point that stands there is not measured again, so an
interrupted run goes on where it was. A point is known by its frames (name, number, size, hash of the source), its
codec with all settings, and the codec's version: of sdvideo that is the package's and its model's hash. Tables are
made of the points of the clips, codecs and versions at hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from clips import STILLS, VIDEOS, Clip, files_in
from findings import Findings
from journal import say, write_json
from material import Material, write_material
from ours import DEFAULT_PRESET, Ours, ours
from peers import PEERS, Peer
from plots import write_plots
from quality import measure_point, one_thread_each
from sdvideo.codecs import registry
from sdvideo.frames import Picture
from speed import machine, measure_run, middle
from stills import FORMATS, Format, OurFormat, read_still
from tables import write_tables

PARTS = ("quality", "stills", "speed", "tables")


class Results:
    """results.json: part -> key -> row."""

    def __init__(self, path: Path):
        self._path = path
        self._data: dict[str, dict[str, dict]] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, part: str, key: str) -> dict | None:
        return self._data.get(part, {}).get(key)

    def put(self, part: str, key: str, row: dict) -> None:
        self._data.setdefault(part, {})[key] = row
        write_json(self._path, self._data)


# --- what there is to measure -------------------------------------------------------------------------------


class Bench:
    """The clips, pictures and codecs of one run; what is made of the clips goes into `folder`, once."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self._folder = folder
        paths = {path.stem: path for path in files_in(options.folder, VIDEOS)}
        chosen = [paths[name] for name in among(options.clips, list(paths), "clips")]
        self.clips = [Clip(path, folder, options.frames, options.short) for path in chosen]
        self._stills = files_in(options.stills, STILLS) if options.stills else []
        codecs: dict[str, Ours | Peer] = {codec.name: codec for codec in (*ours(options.base), *PEERS)}
        self.codecs = [codecs[name] for name in among(options.codecs, list(codecs), "codecs")]

    @cache  # noqa: B019, one Bench lives as long as the program
    def material(self, clip: Clip) -> Material:
        return write_material(clip, self._folder)

    def points(self) -> Iterator[tuple[Clip, Ours | Peer, int, str]]:
        """Clip, codec, the value of its ladder, and the key."""
        for clip in self.clips:
            for codec in self.codecs:
                for value in codec.ladder:
                    yield clip, codec, value, point_key(clip, codec, value)

    def runs(self, count: int) -> Iterator[tuple[Clip, Ours | Peer, str]]:
        """Each codec on each clip, `count` times over, so that a busy moment of the machine does not hit one codec."""
        for run in range(count):
            for clip in filter(lambda clip: clip.is_480p, self.clips):
                for codec in self.codecs:
                    yield clip, codec, f"{point_key(clip, codec, middle(codec))} | {machine()} | run {run + 1}"

    @cached_property
    def formats(self) -> list[Format | OurFormat]:
        chosen = [codec for codec in self.codecs if isinstance(codec, Ours) and codec.preset == DEFAULT_PRESET]
        return [*map(OurFormat, chosen), *FORMATS]

    def pictures(self) -> Iterator[tuple[str, str, Callable[[], Picture]]]:
        """Name, key, and what gives the picture."""
        for clip in self.clips:
            yield clip.name, clip_key(clip), lambda clip=clip: next(clip.cut()).picture
        for path in self._stills:
            yield path.stem, f"{path.stem} {file_hash(path)}", lambda path=path: read_still(path)


def among(chosen: list[str] | None, there: list[str], what: str) -> list[str]:
    """Those of what is there that were chosen, all of them for None."""
    unknown = [name for name in chosen or () if name not in there]
    if unknown:
        raise SystemExit(f"no {', '.join(unknown)} among the {what}: {', '.join(there)}")
    return [name for name in there if chosen is None or name in chosen]


def point_key(clip: Clip, codec: Ours | Peer, value: float) -> str:
    return f"{clip_key(clip)} | {codec.name} | {codec.settings(value)} | {codec.version}"


def still_key(picture: str, kind: Format | OurFormat) -> str:
    ladder = " ".join(map(str, kind.ladder))
    return f"{picture} | {kind.name} | {ladder} | {kind.version}"


def clip_key(clip: Clip) -> str:
    info = clip.info
    return f"{clip.name} {info.frames} frames {info.width}x{info.height} {file_hash(clip.source)}"


@cache
def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


# --- measuring ----------------------------------------------------------------------------------------------


@dataclass
class Job:
    """A row of results.json that is missing. cost: what it will take, in any unit, for telling the time left."""

    key: str
    title: str
    cost: float
    work: Callable[..., dict]
    arguments: tuple


def measure_quality(bench: Bench, results: Results, workers: int) -> bool:
    missing = [point for point in bench.points() if results.get("quality", point[-1]) is None]
    materials = dict.fromkeys(bench.material(clip) for clip, *_ in missing)
    motions = [Job("", f"{m.name}: motion of the source", samples(m), prepare_motions, (m,)) for m in materials]
    jobs = []
    for clip, codec, value, key in missing:
        material = bench.material(clip)
        title = f"{clip.name} {codec.name} {value:g}"
        jobs.append(Job(key, title, samples(material), measure_point, (material, codec, value)))
    for _ in finished(motions, workers):
        pass
    return put_all(results, "quality", jobs, workers)


def measure_stills(bench: Bench, results: Results, workers: int) -> bool:
    jobs = []
    for name, picture_key, picture in bench.pictures():
        for kind in bench.formats:
            key = still_key(picture_key, kind)
            if results.get("stills", key) is None:
                jobs.append(Job(key, f"{name} {kind.name}", len(kind.ladder), measure_still, (picture(), kind)))
    return put_all(results, "stills", jobs, workers)


def measure_speed(bench: Bench, results: Results, runs: int) -> None:
    missing = [run for run in bench.runs(runs) if results.get("speed", run[-1]) is None]
    for done, (clip, codec, key) in enumerate(missing, 1):
        row = measure_run(bench.material(clip), codec)
        results.put("speed", key, row)
        say(f"{done}/{len(missing)}", clip.name, codec.name, json.dumps(row))


def samples(material: Material) -> int:
    return material.frames * material.picture_size


def prepare_motions(material: Material) -> dict:
    material.prepare_motions()
    return {}


def measure_still(picture: Picture, kind: Format | OurFormat) -> dict:
    return {"points": kind.measure(picture)}


def put_all(results: Results, part: str, jobs: list[Job], workers: int) -> bool:
    """Did all of them end well? One that failed is told, and tried again by the next run."""
    count = 0
    for job, row in finished(jobs, workers):
        results.put(part, job.key, row)
        count += 1
    return count == len(jobs)


def finished(jobs: list[Job], workers: int) -> Iterator[tuple[Job, dict]]:
    """Run them in as many processes, tell of each when it ends, and give what those that did not fail made."""
    begin, spent, total = time.monotonic(), 0.0, sum(job.cost for job in jobs)
    # Forking would copy threads of libraries in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread_each) as pool:
        waiting = iter(jobs)
        running = {}
        for number in range(1, len(jobs) + 1):
            # No more than are worked at, so that an interrupted run has no queue to empty.
            while len(running) < workers and (job := next(waiting, None)) is not None:
                running[pool.submit(timed, job.work, job.arguments)] = job
            future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            job = running.pop(future)
            spent += job.cost
            elapsed = time.monotonic() - begin
            left = f"{elapsed * (total - spent) / spent / 60:.0f} min left"
            if error := future.exception():
                say(f"{number}/{len(jobs)}", job.title, f"FAILED: {type(error).__name__}: {error},", left)
                continue
            seconds, row = future.result()
            say(f"{number}/{len(jobs)}", job.title, f"{seconds:.1f} s", brief(row), left)
            yield job, row


def timed(work: Callable[..., dict], arguments: tuple) -> tuple[float, dict]:
    begin = time.monotonic()
    row = work(*arguments)
    return time.monotonic() - begin, row


def brief(row: dict) -> str:
    return " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items() if k != "points")


# --- what was found -----------------------------------------------------------------------------------------


def findings(bench: Bench, results: Results, options: argparse.Namespace) -> Findings:
    found = Findings(
        clips={clip.name: clip.about for clip in bench.clips},
        codecs=bench.codecs,
        formats=bench.formats,
        frames=options.frames,
        short=options.short,
        machine=machine(),
    )
    for clip, codec, value, key in bench.points():
        if (row := results.get("quality", key)) is not None:
            found.points.setdefault((clip.name, codec.name), []).append({"value": value, **row})
    for clip, codec, key in bench.runs(options.runs):
        if (row := results.get("speed", key)) is not None:
            found.runs.setdefault((clip.name, codec.name), []).append(row)
    for name, picture_key, _ in bench.pictures():
        for kind in bench.formats:
            if (row := results.get("stills", still_key(picture_key, kind))) is not None:
                found.pictures.setdefault(name, {})[kind.name] = row["points"]
    return found


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="CLIPS", type=Path, help="a folder of videos")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for results, tables and plots")
    parser.add_argument("--stills", type=Path, metavar="FOLDER", help="a folder of pictures")
    parser.add_argument("--frames", type=int, default=64, help="of each clip (64)")
    parser.add_argument("--short", type=int, default=480, help="the short side's most pixels (480)")
    parser.add_argument("--clips", type=split, metavar="NAME,..", help="only these of the folder, without suffix")
    parser.add_argument("--codecs", type=split, metavar="NAME,..", help="only these")
    parser.add_argument(
        "--base", nargs="+", choices=registry.names(), default=registry.names(), help="of sdvideo (all)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="points measured at a time (2)")
    parser.add_argument("--runs", type=int, default=3, help="of the part 'speed' (3)")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    options = parser.parse_args()
    options.only = options.only or [part for part in PARTS if part != "speed"]
    return options


def split(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["SVT_LOG"] = "1"  # SVT-AV1's level for errors only
    results, whole = Results(options.out / "results.json"), True
    with tempfile.TemporaryDirectory(prefix="sdvideo-bench-") as folder:
        bench = Bench(options, Path(folder))
        if "quality" in options.only:
            whole &= measure_quality(bench, results, options.jobs)
        if "stills" in options.only:
            whole &= measure_stills(bench, results, options.jobs)
        if "speed" in options.only:
            measure_speed(bench, results, options.runs)
        if "tables" in options.only:
            found = findings(bench, results, options)
            write_tables(found, options.out / "tables.md")
            write_plots(found, options.out)
    if not whole:
        sys.exit("some points failed: see above; the same call tries them again")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted; the same call goes on from here", file=sys.stderr)
        sys.exit(130)
