"""Measure what the README claims of latent deltas alone (base none), on every video of a folder.

    python scripts/benchmarks/measure.py CLIPS_FOLDER [--out results.json]    all but memory
    python scripts/benchmarks/measure.py CLIPS_FOLDER --only memory           slow: 220 s of video

A clip's first 64 frames (--frames), scaled down to a short side of at most 480 (--short), become a lossless
MP4 that everything is measured on. The parts, in this order:

    exact     decoding with 1 and with 2 threads gives the same integers; decoding to .mp4 keeps the number
              of frames, the size, every time and every audio packet; seeking gives what playing gives
    still     a picture that is repeated stays bit for bit the same between two key frames, or at least
              where neither a delta nor motion is coded
    inter     bits per frame at equal PSNR-Y against the same codec with key frames only (--qualities); these
              are coded on every 8th frame only, unless --thorough: their bits vary little from frame to frame
    speed     frames per second of encoding and decoding, loading the model included; a fresh process for
              every run (--runs)
    memory    peak resident memory for a short and a long video (--seconds), a few frames played to and fro

"At equal PSNR" is what curves.py says. Progress goes to stderr, a Markdown table to stdout, everything to --out, after
every clip: what is there already is skipped unless --again. How sdvideo does against other codecs, bench.py measures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

import sdvideo
from clips import VIDEOS, Clip, files_in, psnr, without_tracks
from curves import bits_ratio
from journal import number, row_of, say, write_json
from sdvideo.codecs.latent.frame_codec import FrameDecoder, FrameEncoder
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.codecs.latent.rate_control import ConstantQuality, step_index
from sdvideo.container import Reader
from sdvideo.frames import Frame, Picture
from sdvideo.media.output import open_sink
from sdvideo.media.source import open_source
from sdvideo.settings import DEFAULT_QUALITY

PARTS = ("exact", "still", "inter", "speed", "memory")
KEYINT = 64
KEY_SPACING = 8  # key frames are measured on every 8th frame
LEAST_OVERLAP = 0.5  # dB that two curves must share to be compared

# What the README promises.
MOST_INTER, NOT_FOR_INTER = 0.40, ("screen", "cut")
LEAST_ENCODE_FPS, LEAST_DECODE_FPS = 6, 12
MOST_GROWTH = 1.10  # memory of the long video over memory of the short one


def every_8th(clip: Clip) -> Path:
    """A lossless copy of one frame in KEY_SPACING, made once."""
    path = clip.folder / f"{clip.name}-sparse.mp4"
    if not path.exists():
        step = min(KEY_SPACING, clip.info.frames)
        with open_sink(path, without_tracks(clip.info), lossless=True) as sink:
            for frame in islice(clip.frames(), step // 2, None, step):
                sink.write(frame)
    return path


def encoded(path: Path, quality: float, keyint: int = KEYINT) -> Path:
    """The video at `path` as .sdv, made once."""
    target = path.with_name(f"{path.stem}-q{quality:g}-k{keyint}.sdv")
    if not target.exists():
        sdvideo.encode(path, target, quality=quality, keyint=keyint, base="none", device="cpu")
    return target


# --- exact --------------------------------------------------------------------------------------------------


def measure_exact(clip: Clip, options: argparse.Namespace) -> dict:
    path = encoded(clip.path, DEFAULT_QUALITY)
    one, two = (worker("digest", path=str(path), threads=n) for n in (1, 2))
    return {
        "frames": len(one["symbols"]),
        "symbols_same": one["symbols"] == two["symbols"],
        "pictures_differing": sum(a != b for a, b in zip(one["pictures"], two["pictures"])),
        **compare_media(clip, path),
        "seek_same": seeks_exactly(clip),
    }


def compare_media(clip: Clip, path: Path) -> dict[str, bool]:
    """Is what comes out of the decoder in step with the source as it was before anything touched it?"""
    target = clip.folder / f"{clip.name}-decoded.mp4"
    sdvideo.decode(path, target, overwrite=True, device="cpu")
    with open_source(clip.source) as video:
        wanted = [frame.pts * video.info.time_base for frame in islice(video.frames(), clip.info.frames)]
    with open_source(target) as video:
        size = (video.info.width, video.info.height)
        times = [frame.pts * video.info.time_base for frame in video.frames()]
    audio = audio_packets(clip.source)
    return {
        "count_same": len(times) == len(wanted),
        "size_same": size == (clip.info.width, clip.info.height),
        "times_same": times == wanted,
        "audio_tracks": len(audio),
        "audio_same": audio == audio_packets(target),
    }


def audio_packets(path: Path) -> list[list[tuple[Fraction, bytes]]]:
    """For each audio track the time and the bytes of its packets."""
    with av.open(str(path)) as container:
        tracks = {stream.index: [] for stream in container.streams.audio}
        for packet in container.demux(*container.streams.audio) if tracks else ():
            if packet.size:
                tracks[packet.stream_index].append((packet.pts * packet.time_base, bytes(packet)))
    return list(tracks.values())


def seeks_exactly(clip: Clip) -> bool:
    """Are frames the same whether reached by jumping or by playing from the start?"""
    path = encoded(clip.path, DEFAULT_QUALITY, max(1, clip.info.frames // 4))
    with Reader(path) as reader:
        groups = reader.groups
    with sdvideo.open(path, device="cpu") as video:
        played = [digest(video, frame) for frame in video]
    middle, last = groups[len(groups) // 2], groups[-1]
    wanted = [*range(last.first, last.first + last.frames), middle.first + middle.frames // 2, 0]
    with sdvideo.open(path, device="cpu") as video:
        return all(digest(video, video[number]) == played[number] for number in wanted)


def digest(video: sdvideo.VideoReader, frame: Frame) -> tuple[str, str]:
    """Hashes of the integers and of the picture of the frame decoded last."""
    symbols, picture = video.symbols(), frame.picture
    return (
        hash_of(symbols.motion, symbols.coded, symbols.latent),
        hash_of(picture.y, picture.u, picture.v),
    )


def hash_of(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


# --- still --------------------------------------------------------------------------------------------------


def measure_still(clip: Clip, options: argparse.Namespace) -> dict:
    """The clip's first picture, 16 times, in two groups.

    changes: predicted pictures that differ from the one before; share: how much of their area, on average;
    unasked: blocks among that with neither a delta nor motion, nor next to motion (blocks overlap when they
    are moved); bytes: of frame data.
    """
    picture = next(clip.frames()).picture
    model = load_model(device="cpu")
    height, width = picture.y.shape
    rate = ConstantQuality(step_index(DEFAULT_QUALITY))
    decoder = FrameDecoder(model, height, width)
    sizes, shares, unasked, before = [], [], 0, None
    for index in range(16):
        if index % 8 == 0:
            encoder = FrameEncoder(model, height, width, rate)
        coded = encoder.encode(Frame(index, 1, picture))
        symbols = decoder.parse(coded)
        shown = decoder.reconstruct(coded, symbols).picture
        if index % 8:
            changed = changed_blocks(before, shown)
            shares.append(float(changed.mean()))
            moving = cv2.dilate(symbols.motion.any(0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            unasked += int((changed & ~symbols.coded & ~moving).sum())
        sizes.append(len(coded.data))
        before = shown
    changes = sum(share > 0 for share in shares)
    return {"changes": changes, "share": statistics.fmean(shares), "unasked": unasked, "bytes": sizes}


def changed_blocks(one: Picture, other: Picture) -> np.ndarray:
    """Which 16x16 blocks of luma with their chroma differ, bool [ceil(H/16), ceil(W/16)]."""
    rows, columns = -(-one.height // 16), -(-one.width // 16)
    changed = np.zeros((rows, columns), bool)
    for a, b, side in ((one.y, other.y, 16), (one.u, other.u, 8), (one.v, other.v, 8)):
        differ = np.zeros((rows * side, columns * side), bool)
        differ[: a.shape[0], : a.shape[1]] = a != b
        changed |= differ.reshape(rows, side, columns, side).any((1, 3))
    return changed


# --- inter --------------------------------------------------------------------------------------------------


def measure_inter(clip: Clip, options: argparse.Namespace) -> dict:
    qualities = sorted({*options.qualities, DEFAULT_QUALITY})
    inter = [video_point(clip.path, quality, KEYINT) for quality in qualities]
    sparse = clip.path if options.thorough else every_8th(clip)
    intra = covering_ladder(lambda quality: video_point(sparse, quality, 1), qualities, inter)
    chosen = inter[qualities.index(DEFAULT_QUALITY)]
    seconds = chosen["frames"] / float(clip.info.rate or 25)
    return {
        "kbps": chosen["file_bits"] / seconds / 1000,
        "psnr_y": chosen["y"],
        "psnr_yuv": chosen["yuv"],
        "ratio": share_of_bits(inter, intra, "y"),
        "ratio_yuv": share_of_bits(inter, intra, "yuv"),
        "inter": inter,
        "intra": intra,
    }


def share_of_bits(ours: list[dict], theirs: list[dict], by: str) -> float | None:
    return bits_ratio(*([(row["bits"], row[by]) for row in rows] for rows in (ours, theirs)), least=LEAST_OVERLAP)


def covering_ladder(point: Callable[[float], dict], qualities: list[float], target: list[dict]) -> list[dict]:
    """Points at those qualities, and beyond them until the target's PSNR-Y is covered or quality ends."""
    points = {quality: point(quality) for quality in qualities}
    while min(p["y"] for p in points.values()) > min(p["y"] for p in target) and min(points) > 0:
        lower = max(0, min(points) - 15)
        points[lower] = point(lower)
    while max(p["y"] for p in points.values()) < max(p["y"] for p in target) and max(points) < 100:
        higher = min(100, max(points) + 15)
        points[higher] = point(higher)
    return [points[quality] for quality in sorted(points)]


def video_point(path: Path, quality: float, keyint: int) -> dict:
    """bits: of frame data, per frame; file_bits: of all groups as they are in the file; y, yuv: mean PSNR."""
    coded = encoded(path, quality, keyint)
    with Reader(coded) as reader:
        file_bytes = sum(entry.end - entry.offset for entry in reader.groups)
        data = sum(len(f.data) for i in range(len(reader.groups)) for f in reader.read_group(i).frames)
        groups = len(reader.groups)
    with sdvideo.open(coded, device="cpu") as video, open_source(path) as source:
        rows = [psnr(a.picture, b.picture) for a, b in zip(source.frames(), video, strict=True)]
    return {
        "quality": quality,
        "frames": len(rows),
        "groups": groups,
        "bits": 8 * data / len(rows),
        "file_bits": 8 * file_bytes,
        **{name: statistics.fmean(row[name] for row in rows) for name in ("y", "yuv")},
    }


# --- speed and memory ---------------------------------------------------------------------------------------


def measure_speed(clip: Clip, options: argparse.Namespace) -> dict:
    coded = clip.folder / f"{clip.name}-speed.sdv"
    jobs = {
        "encode": {"source": str(clip.path), "target": str(coded)},
        "decode": {"source": str(coded), "target": None},
        "decode_mp4": {"source": str(coded), "target": str(coded.with_suffix(".mp4"))},
    }
    row = {}
    for name, paths in jobs.items():
        runs = [worker(name.split("_")[0], **paths) for _ in range(options.runs)]
        rates = sorted(run["frames"] / run["seconds"] for run in runs)
        row[name] = {"best": rates[-1], "median": statistics.median(rates), "runs": rates}
    return row


def measure_memory(clip: Clip, options: argparse.Namespace) -> dict:
    """One row per length: seconds of video and MiB at the peak of encoding and of decoding to .mp4."""
    rows = []
    for seconds in sorted(options.seconds):
        source = write_loop(clip, seconds)
        coded, shown = source.with_suffix(".sdv"), source.with_suffix(".decoded.mp4")
        row = {"seconds": seconds}
        for name, paths in (("encode", (source, coded)), ("decode", (coded, shown))):
            run = worker(name, source=str(paths[0]), target=str(paths[1]))
            row |= {f"{name}_mib": run["peak_mib"], f"{name}_fps": run["frames"] / run["seconds"]}
        say("memory", clip.name, row)
        rows.append({**row, "frames": run["frames"]})
    return {
        "rows": rows,
        "encode_growth": rows[-1]["encode_mib"] / rows[0]["encode_mib"],
        "decode_growth": rows[-1]["decode_mib"] / rows[0]["decode_mib"],
    }


def write_loop(clip: Clip, seconds: float) -> Path:
    """The clip's frames played to and fro, so that no jump starts a new group before its time."""
    path = clip.folder / f"{clip.name}-{seconds:g}s.mp4"
    info = replace(without_tracks(clip.info), frames=None)
    rate = info.rate or Fraction(25)
    step = max(1, round(1 / rate / info.time_base))
    pictures = [frame.picture for frame in clip.frames()]
    order = [*pictures, *pictures[-2:0:-1]]
    with open_sink(path, info, crf=10) as sink:
        for number in range(round(seconds * rate)):
            sink.write(Frame(number * step, step, order[number % len(order)]))
    return path


# --- workers: what runs in a process of its own -------------------------------------------------------------


def worker(job: str, threads: int | None = None, **arguments: object) -> dict:
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        arguments["threads"] = threads
    command = [sys.executable, __file__, "--worker", job, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def work_digest(path: str, threads: int) -> dict:
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    with sdvideo.open(path, device="cpu") as video:
        symbols, pictures = zip(*(digest(video, frame) for frame in video))
    return {"symbols": symbols, "pictures": pictures}


def work_encode(source: str, target: str) -> dict:
    done = sdvideo.encode(source, target, overwrite=True, base="none", device="cpu")
    return {"frames": done.frames, "seconds": done.seconds, "peak_mib": peak_mib()}


def work_decode(source: str, target: str | None) -> dict:
    begin = time.monotonic()
    if target is None:
        with sdvideo.open(source, device="cpu") as video:
            frames = sum(1 for _ in video)
    else:
        frames = sdvideo.decode(source, target, overwrite=True, device="cpu").frames
    return {"frames": frames, "seconds": time.monotonic() - begin, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Peak resident memory of this process.

    Linux's ru_maxrss starts at what the parent had when it started this process, so VmHWM is asked first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


WORKERS = {"digest": work_digest, "encode": work_encode, "decode": work_decode}


# --- results ------------------------------------------------------------------------------------------------

MEASURES = {
    "exact": measure_exact,
    "still": measure_still,
    "inter": measure_inter,
    "speed": measure_speed,
    "memory": measure_memory,
}


class Results:
    """What was measured, part by part and clip by clip, in a JSON file that is written after each."""

    def __init__(self, path: Path, settings: dict, again: tuple[str, ...]):
        self._path = path
        self.data: dict = {"settings": settings, "clips": {}}
        if path.exists():
            data = json.loads(path.read_text())
            if data.get("settings") == settings:
                self.data = data
            elif not again:
                raise SystemExit(f"{path} has other settings or weights: add --again, or name another --out")
        for part in again:
            self.data.pop(part, None)

    def has(self, part: str, name: str) -> bool:
        return name in self.data.get(part, {})

    def put(self, part: str, name: str, row: dict) -> None:
        self.data.setdefault(part, {})[name] = row
        write_json(self._path, self.data)


def measure_all(options: argparse.Namespace, results: Results, folder: Path) -> None:
    clips = []
    for path in files_in(options.clips, VIDEOS):
        clips.append(Clip(path, folder, options.frames, options.short))
        results.put("clips", clips[-1].name, clips[-1].about)
    for clip in clips:
        for part in options.only:
            if part == "memory" and clip is not for_memory(clips):
                continue
            measure_once(results, part, clip.name, lambda p=part, c=clip: MEASURES[p](c, options))


def measure_once(results: Results, part: str, name: str, measure: Callable[[], dict]) -> None:
    if results.has(part, name):
        return
    begin = time.monotonic()
    row = measure()
    results.put(part, name, row)
    brief = {key: value for key, value in row.items() if not isinstance(value, list)}
    say(part, name, f"{time.monotonic() - begin:.0f} s", json.dumps(brief))


def for_memory(clips: list[Clip]) -> Clip:
    """The first large clip that is one shot."""
    ordinary = [clip for clip in clips if not is_exempt(clip.name)]
    return next((clip for clip in ordinary if clip.is_480p), (ordinary or clips)[0])


def is_exempt(name: str) -> bool:
    return any(word in name for word in NOT_FOR_INTER)


# --- the table ----------------------------------------------------------------------------------------------


def table(data: dict) -> Iterator[str]:
    yield "| clip | kbit/s | PSNR-Y, dB | bits against key frames only | encode, fps | decode, fps | to .mp4, fps |"
    yield "|---" * 7 + "|"
    for name, clip in data["clips"].items():
        inter, speed = (data.get(part, {}).get(name, {}) for part in ("inter", "speed"))
        yield row_of(
            f"{name}, {clip['width']}x{clip['height']}, {clip['fps']:g} fps",
            number(inter.get("kbps"), ".0f"),
            number(inter.get("psnr_y"), ".1f"),
            number(inter.get("ratio"), ".0%"),
            *(number(speed.get(job, {}).get("median"), ".1f") for job in ("encode", "decode", "decode_mp4")),
        )


def legend(settings: dict) -> Iterator[str]:
    keys = "all frames" if settings["thorough"] else f"every {KEY_SPACING}th frame"
    yield (
        f"First {settings['frames']} frames, short side at most {settings['short']}. kbit/s and PSNR-Y at "
        f"quality {DEFAULT_QUALITY:g}. Bits at equal PSNR: against key frames only by PSNR-Y (those coded on "
        f"{keys}). Frames per second: median run, loading the model included."
    )


def summary(data: dict) -> Iterator[str]:
    """A line for each promise: what was measured, and whether it holds."""
    clips = data["clips"]
    exact, still = data.get("exact", {}), data.get("still", {})
    if exact:
        yield from exactness_lines(exact)
    if still:
        yield from stillness_lines(still)

    ratios = {n: r["ratio"] for n, r in data.get("inter", {}).items() if n in clips and not is_exempt(n)}
    yield from judge(ratios, "bits against key frames only, worst clip", most=MOST_INTER)
    speed = {n: r for n, r in data.get("speed", {}).items() if clips.get(n, {}).get("is_480p")}
    for job, title, least in (
        ("encode", "encoding, slowest 480p clip", LEAST_ENCODE_FPS),
        ("decode", "decoding, slowest 480p clip", LEAST_DECODE_FPS),
        ("decode_mp4", "decoding to .mp4, slowest 480p clip", None),
    ):
        yield from judge({n: r[job]["median"] for n, r in speed.items()}, title, least=least)
    for name, row in data.get("memory", {}).items():
        yield memory_line(name, row)


def exactness_lines(exact: dict) -> Iterator[str]:
    titles = {
        "symbols_same": "same integers with 1 and 2 threads",
        "count_same": "number of frames kept",
        "size_same": "size kept",
        "times_same": "times kept",
        "audio_same": "audio packets kept",
        "seek_same": "seeking gives what playing gives",
    }
    for key, title in titles.items():
        wrong = [name for name, row in exact.items() if not row[key]]
        yield verdict(title + but_not(wrong), not wrong)
    frames, differing = (sum(r[key] for r in exact.values()) for key in ("frames", "pictures_differing"))
    yield f"- pictures with 1 and 2 threads: {differing} of {frames} differ"


def stillness_lines(still: dict) -> Iterator[str]:
    unasked = [name for name, row in still.items() if row["unasked"]]
    yield verdict(f"what has neither delta nor motion does not change{but_not(unasked)}", not unasked)
    moved = [name for name, row in still.items() if row["changes"]]
    area = number(max(row["share"] for row in still.values()), ".2%")
    share = f" (at most {area} of the area changes)" if moved else ""
    yield verdict(f"a repeated picture is still between key frames{but_not(moved)}{share}", not moved)


def but_not(names: list[str]) -> str:
    return f", not in {', '.join(names)}" if names else ""


def judge(
    values: dict[str, float | None], title: str, *, most: float | None = None, least: float | None = None
) -> Iterator[str]:
    """The worst of the values against its bound: a share of bits (most) or frames per second (least)."""
    unknown = [name for name, value in values.items() if value is None]
    known = {name: value for name, value in values.items() if value is not None}
    if unknown:
        yield f"- {title}: no common PSNR range for {', '.join(unknown)}"
    if not values:
        yield f"- {title}: not measured"
    if not known:
        return
    name = (max if most is not None else min)(known, key=known.get)
    worst = known[name]
    if most is not None:
        share = f"{number(worst, '.1%')} ({name}), promised <= {number(most, '.0%')}"
        yield verdict(f"{title}: {share}", worst <= most)
    elif least is not None:
        yield verdict(f"{title}: {worst:.1f} fps ({name}), promised >= {least} fps", worst >= least)
    else:
        yield f"- {title}: {worst:.1f} fps ({name})"


def memory_line(name: str, row: dict) -> str:
    steps = ", ".join(
        f"{r['seconds']:g} s: {r['encode_mib']:.0f} MiB to encode, {r['decode_mib']:.0f} MiB to decode"
        for r in row["rows"]
    )
    flat = max(row["encode_growth"], row["decode_growth"]) <= MOST_GROWTH
    return verdict(f"peak memory does not grow with length ({name}; {steps})", flat)


def verdict(text: str, holds: bool) -> str:
    return f"- {'holds' if holds else '**MISSED**'}: {text}"


# --- command line -------------------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="a folder of videos")
    parser.add_argument("--frames", type=int, default=64, help="of each clip (64)")
    parser.add_argument("--short", type=int, default=480, help="the short side's most pixels (480)")
    parser.add_argument("--out", type=Path, default=Path("results.json"), help="results.json")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="measure these parts again")
    parser.add_argument("--qualities", type=float, nargs="+", default=[35, 50, 65], help="of 'inter'")
    parser.add_argument("--thorough", action="store_true", help="key frames only: on every frame")
    parser.add_argument("--runs", type=int, default=3, help="of the part 'speed' (3)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[20, 200], help="of the part 'memory'")
    options = parser.parse_args()
    options.only = tuple(p for p in PARTS if p in options.only) if options.only else PARTS[:-1]
    return options


def settings_of(options: argparse.Namespace) -> dict:
    """What results must have in common to stand in one table."""
    return {
        "frames": options.frames,
        "short": options.short,
        "thorough": options.thorough,
        "qualities": sorted(options.qualities),
        "model": load_model(device="cpu").id.sha256,
        "version": sdvideo.__version__,
    }


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(WORKERS[sys.argv[2]](**json.loads(sys.argv[3]))))
        return
    options = parse_options()
    results = Results(options.out, settings_of(options), options.only if options.again else ())
    with tempfile.TemporaryDirectory(prefix="sdvideo-measure-") as folder:
        measure_all(options, results, Path(folder))
    data = results.data
    print("\n".join([*table(data), "", *legend(data["settings"]), "", *summary(data)]))


if __name__ == "__main__":
    main()
