"""Measure what the README claims, on every video of a folder.

    python scripts/measure.py CLIPS_FOLDER [--stills FOLDER] [--out results.json]    all but memory
    python scripts/measure.py CLIPS_FOLDER --only memory                             slow: 220 s of video

A clip's first 64 frames (--frames), scaled down to a short side of at most 480 (--short), become a lossless
MP4 that everything is measured on. The parts, in this order:

    exact     decoding with 1 and with 2 threads gives the same integers; decoding to .mp4 keeps the number
              of frames, the size, every time and every audio packet; seeking gives what playing gives
    still     a picture that is repeated stays bit for bit the same between two key frames, or at least
              where neither a delta nor motion is coded
    inter     bits per frame at equal PSNR-Y against the same codec with key frames only (--qualities); these
              are coded on every 8th frame only, unless --thorough: their bits vary little from frame to frame
    pictures  bits of the first frame of each clip, and of the stills, at equal PSNR against JPEG (optimised
              Huffman tables) and WebP (method 6), which get the RGB of the same 4:2:0 picture and are judged
              in 4:2:0 again
    speed     frames per second of encoding and decoding, loading the model included; a fresh process for
              every run (--runs)
    memory    peak resident memory for a short and a long video (--seconds), a few frames played to and fro

"At equal PSNR" is a Bjøntegaard average: log(bits) over PSNR by monotone cubic interpolation (PCHIP), the
mean difference over the PSNR range that both have. Progress goes to stderr, a Markdown table to stdout,
everything to --out, after every clip: what is there already is skipped unless --again. Needs what sdvideo
needs; JPEG and WebP come from Pillow if it is there, else from OpenCV.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

import sdvideo
from sdvideo.colour import from_rgb, to_rgb
from sdvideo.container import Reader
from sdvideo.decoding import FrameDecoder
from sdvideo.demux import open_source
from sdvideo.encoding import FrameEncoder
from sdvideo.latents import LatentModel
from sdvideo.models import load_model
from sdvideo.mux import open_sink
from sdvideo.picture import Colour, Frame, Picture, StreamInfo
from sdvideo.rate import ConstantQuality
from sdvideo.settings import DEFAULT_QUALITY, step_index

try:
    from PIL import Image
except ImportError:  # OpenCV writes both formats too, WebP with less effort
    Image = None

PARTS = ("exact", "still", "inter", "pictures", "speed", "memory")
VIDEOS = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".y4m")
STILLS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
STILL_COLOUR = Colour(full_range=False, matrix=6)
KEYINT = 64
CODEC_LADDER = (15, 30, 45, 60, 75, 90)
JPEG_LADDER = (8, 20, 35, 50, 70, 85)
WEBP_LADDER = (1, 15, 35, 55, 75, 90)
KEY_SPACING = 8  # key frames are measured on every 8th frame
LEAST_OVERLAP = 0.5  # dB that two curves must share to be compared

# What the README promises.
MOST_INTER, NOT_FOR_INTER = 0.40, ("screen", "cut")
MOST_JPEG, MOST_WEBP = 0.60, 1.10
LEAST_ENCODE_FPS, LEAST_DECODE_FPS = 6, 12
MOST_GROWTH = 1.10  # memory of the long video over memory of the short one


def say(*words: object) -> None:
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


# --- clips --------------------------------------------------------------------------------------------------


class Clip:
    """One clip of the folder, cut and scaled; what is made of it goes into `folder`, once."""

    def __init__(self, source: Path, folder: Path, frames: int, short: int):
        self.source, self.name, self.folder = source, source.stem, folder
        self._most = frames
        with open_source(source) as video:
            size = scaled_size(video.info.width, video.info.height, short)
            count = min(frames, video.count_frames())
            self.info = replace(video.info, width=size[0], height=size[1], frames=count)

    @cached_property
    def path(self) -> Path:
        """The lossless copy, with all of the source's sound."""
        path = self.folder / f"{self.name}.mp4"
        with open_source(self.source) as video:
            files = video.track_files()
            with open_sink(path, self.info, track_files=files, lossless=True) as sink:
                for frame in islice(video.frames(), self._most):
                    sink.write(replace(frame, picture=scaled(frame.picture, self.info)))
        return path

    @cached_property
    def every_8th(self) -> Path:
        """A lossless copy of one frame in KEY_SPACING."""
        path = self.folder / f"{self.name}-sparse.mp4"
        step = min(KEY_SPACING, self.info.frames)
        with open_sink(path, without_tracks(self.info), lossless=True) as sink:
            for frame in islice(self.frames(), step // 2, None, step):
                sink.write(frame)
        return path

    def frames(self) -> Iterator[Frame]:
        with open_source(self.path) as video:
            yield from video.frames()

    @property
    def is_480p(self) -> bool:
        """Is it about 854x480 large? The promised speeds are for that."""
        return self.info.width * self.info.height >= 0.9 * 854 * 480

    @property
    def about(self) -> dict:
        info = self.info
        return {
            "width": info.width,
            "height": info.height,
            "frames": info.frames,
            "fps": float(info.rate or 25),
            "is_480p": self.is_480p,
        }


def scaled_size(width: int, height: int, short: int) -> tuple[int, int]:
    """Even, in the same shape, the short side at most `short`."""
    factor = min(Fraction(1), Fraction(short, min(width, height)))
    if factor == 1:
        return width // 2 * 2, height // 2 * 2
    return round(width * factor / 2) * 2, round(height * factor / 2) * 2


def scaled(picture: Picture, info: StreamInfo) -> Picture:
    """The picture at info's size: cropped by an odd column or line, else averaged over areas."""
    width, height = info.width, info.height
    if picture.width - width <= 1 and picture.height - height <= 1:
        half = np.s_[: height // 2, : width // 2]
        return Picture(picture.y[:height, :width], picture.u[half], picture.v[half])
    half = width // 2, height // 2
    sizes = ((width, height), half, half)
    planes = (picture.y, picture.u, picture.v)
    return Picture(*(cv2.resize(p, s, interpolation=cv2.INTER_AREA) for p, s in zip(planes, sizes)))


def without_tracks(info: StreamInfo) -> StreamInfo:
    return replace(info, tracks=(), chapters=())


def encoded(path: Path, quality: float, keyint: int = KEYINT) -> Path:
    """The video at `path` as .sdv, made once."""
    target = path.with_name(f"{path.stem}-q{quality:g}-k{keyint}.sdv")
    if not target.exists():
        sdvideo.encode(path, target, quality=quality, keyint=keyint, device="cpu")
    return target


# --- curves -------------------------------------------------------------------------------------------------


def psnr(one: Picture, other: Picture) -> dict[str, float]:
    """y: of luma; yuv: (6 Y + U + V) / 8. In dB, at most 100."""
    planes = zip((one.y, one.u, one.v), (other.y, other.u, other.v))
    errors = (np.square(a.astype(np.float32) - b.astype(np.float32)).mean() for a, b in planes)
    y, u, v = (min(100.0, float(10 * np.log10(255**2 / max(error, 1e-9)))) for error in errors)
    return {"y": y, "yuv": (6 * y + u + v) / 8}


def pchip(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Monotone cubic interpolation (Fritsch and Butland) of y over rising x, two points at least."""
    h = np.diff(x)
    d = np.diff(y) / h
    slope = np.full(len(x), d[0])
    if len(x) > 2:
        before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
        same = d[:-1] * d[1:] > 0
        safe = np.where(same, d[:-1], 1.0), np.where(same, d[1:], 1.0)
        slope[1:-1] = np.where(same, (before + after) / (before / safe[0] + after / safe[1]), 0.0)
        slope[0], slope[-1] = _end_slope(h[:2], d[:2]), _end_slope(h[:-3:-1], d[:-3:-1])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(h) - 1)
    t = (at - x[i]) / h[i]
    curve = (1 + 2 * t) * (1 - t) ** 2 * y[i] + t**2 * (3 - 2 * t) * y[i + 1]
    return curve + h[i] * (t * (1 - t) ** 2 * slope[i] + t**2 * (t - 1) * slope[i + 1])


def _end_slope(h: np.ndarray, d: np.ndarray) -> float:
    slope = ((2 * h[0] + h[1]) * d[0] - h[0] * d[1]) / (h[0] + h[1])
    if slope * d[0] <= 0:
        return 0.0
    return 3 * d[0] if d[0] * d[1] < 0 and abs(slope) > 3 * abs(d[0]) else slope


def bits_ratio(ours: list[dict], theirs: list[dict], by: str) -> float | None:
    """Mean ratio of bits at equal PSNR over the range both cover; None where that is next to nothing."""
    curves = [_curve(points, by) for points in (ours, theirs)]
    low, high = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    if high - low < LEAST_OVERLAP:
        return None
    at = np.linspace(low, high, 200)
    one, other = (pchip(*curve, at) for curve in curves)
    return float(np.exp(np.mean(one - other)))


def _curve(points: list[dict], by: str) -> tuple[np.ndarray, np.ndarray]:
    """PSNR, rising, and log(bits)."""
    pairs = {round(point[by], 4): np.log(point["bits"]) for point in points}
    x = np.array(sorted(pairs))
    return x, np.array([pairs[value] for value in x])


def geometric_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.geometric_mean(known) if known else None


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
    encoder = FrameEncoder(model, height, width, ConstantQuality(step_index(DEFAULT_QUALITY)), 8)
    decoder = FrameDecoder(model, height, width)
    sizes, shares, unasked, before = [], [], 0, None
    for index in range(16):
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
    sparse = clip.path if options.thorough else clip.every_8th
    intra = covering_ladder(lambda quality: video_point(sparse, quality, 1), qualities, inter)
    chosen = inter[qualities.index(DEFAULT_QUALITY)]
    seconds = chosen["frames"] / float(clip.info.rate or 25)
    return {
        "kbps": chosen["file_bits"] / seconds / 1000,
        "psnr_y": chosen["y"],
        "psnr_yuv": chosen["yuv"],
        "ratio": bits_ratio(inter, intra, "y"),
        "ratio_yuv": bits_ratio(inter, intra, "yuv"),
        "inter": inter,
        "intra": intra,
    }


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


# --- pictures -----------------------------------------------------------------------------------------------


def measure_picture(picture: Picture, colour: Colour, model: LatentModel) -> dict:
    rgb = to_rgb(picture, colour)

    def points(code: Callable[[float], tuple[int, Picture]], ladder: tuple[int, ...]) -> list[dict]:
        rows = []
        for quality in ladder:
            size, shown = code(quality)
            rows.append({"quality": quality, "bits": 8 * size, **psnr(picture, shown)})
        return rows

    def foreign(format: str) -> Callable[[float], tuple[int, Picture]]:
        def code(quality: float) -> tuple[int, Picture]:
            size, shown = code_rgb(rgb, format, round(quality))
            return size, from_rgb(shown, colour)

        return code

    ours = points(lambda quality: code_picture(picture, quality, model), CODEC_LADDER)
    jpeg, webp = points(foreign("JPEG"), JPEG_LADDER), points(foreign("WEBP"), WEBP_LADDER)
    return {
        **{f"{name}_{by}": bits_ratio(ours, other, by)
           for name, other in (("jpeg", jpeg), ("webp", webp)) for by in ("yuv", "y")},
        "rgb_and_back": psnr(picture, from_rgb(rgb, colour)),  # what JPEG and WebP cannot exceed
        "sdvideo": ours,
        "jpeg": jpeg,
        "webp": webp,
    }  # fmt: skip


def code_picture(picture: Picture, quality: float, model: LatentModel) -> tuple[int, Picture]:
    """Bytes of the key frame, and what it decodes to."""
    height, width = picture.y.shape
    encoder = FrameEncoder(model, height, width, ConstantQuality(step_index(quality)), 1)
    coded = encoder.encode(Frame(0, 1, picture))
    decoder = FrameDecoder(model, height, width)
    return len(coded.data), decoder.reconstruct(coded, decoder.parse(coded)).picture


def code_rgb(rgb: np.ndarray, format: str, quality: int) -> tuple[int, np.ndarray]:
    """Bytes of the whole JPEG or WebP file, and what it decodes to."""
    if Image is not None:
        file = io.BytesIO()
        extra = {"subsampling": "4:2:0", "optimize": True} if format == "JPEG" else {"method": 6}
        Image.fromarray(rgb).save(file, format, quality=quality, **extra)
        return len(file.getvalue()), np.asarray(Image.open(file).convert("RGB"))
    if format == "JPEG":
        flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    else:
        flags = [cv2.IMWRITE_WEBP_QUALITY, quality]
    _, data = cv2.imencode(f".{format.lower()}", rgb[..., ::-1], flags)
    return len(data), np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def measure_first_frame(clip: Clip, options: argparse.Namespace) -> dict:
    return measure_picture(next(clip.frames()).picture, clip.info.colour, load_model(device="cpu"))


def measure_still_file(path: Path) -> dict:
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    height, width = (side // 2 * 2 for side in bgr.shape[:2])
    picture = from_rgb(np.ascontiguousarray(bgr[:height, :width, ::-1]), STILL_COLOUR)
    return measure_picture(picture, STILL_COLOUR, load_model(device="cpu"))


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
    with open_sink(path, info, crf=10, preset="ultrafast") as sink:
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
    done = sdvideo.encode(source, target, overwrite=True, device="cpu")
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
    "pictures": measure_first_frame,
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
        beside = self._path.with_name(self._path.name + ".part")
        beside.write_text(json.dumps(self.data, indent=1))
        os.replace(beside, self._path)


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
    if "pictures" in options.only and options.stills:
        for path in files_in(options.stills, STILLS):
            measure_once(results, "pictures", still_name(path), lambda p=path: measure_still_file(p))


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


def files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not found:
        raise SystemExit(f"{folder}: no {' '.join(suffixes)} in it")
    return found


def still_name(path: Path) -> str:
    return f"still {path.stem}"


def is_exempt(name: str) -> bool:
    return any(word in name for word in NOT_FOR_INTER)


# --- the table ----------------------------------------------------------------------------------------------


def table(data: dict) -> Iterator[str]:
    yield (
        "| clip | kbit/s | PSNR-Y, dB | bits against key frames only | key frame against JPEG | against WebP "
        "| encode, fps | decode, fps | to .mp4, fps |"
    )
    yield "|---" * 9 + "|"
    for name, clip in data["clips"].items():
        inter, picture, speed = (data.get(part, {}).get(name, {}) for part in ("inter", "pictures", "speed"))
        yield row_of(
            f"{name}, {clip['width']}x{clip['height']}, {clip['fps']:g} fps",
            number(inter.get("kbps"), ".0f"),
            number(inter.get("psnr_y"), ".1f"),
            number(inter.get("ratio"), ".0%"),
            number(picture.get("jpeg_yuv"), ".0%"),
            number(picture.get("webp_yuv"), ".0%"),
            *(number(speed.get(job, {}).get("median"), ".1f") for job in ("encode", "decode", "decode_mp4")),
        )
    pictures = data.get("pictures", {})
    stills = [row for name, row in pictures.items() if name not in data["clips"]]
    for title, rows in ((f"stills ({len(stills)})", stills), ("all pictures", list(pictures.values()))):
        if rows:
            means = (geometric_mean(row[f"{other}_yuv"] for row in rows) for other in ("jpeg", "webp"))
            yield row_of(title, "", "", "", *(number(mean, ".0%") for mean in means), "", "", "")


def row_of(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form).replace("%", " %")


def legend(settings: dict) -> Iterator[str]:
    keys = "all frames" if settings["thorough"] else f"every {KEY_SPACING}th frame"
    yield (
        f"First {settings['frames']} frames, short side at most {settings['short']}. kbit/s and PSNR-Y at "
        f"quality {DEFAULT_QUALITY:g}. Bits at equal PSNR: against key frames only by PSNR-Y (those coded on "
        f"{keys}), against JPEG and WebP ({settings['still_codecs']}) by (6 Y + U + V) / 8; means over "
        "pictures are geometric. Frames per second: median run, loading the model included."
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
    pictures = data.get("pictures", {})
    for other, most in (("jpeg", MOST_JPEG), ("webp", MOST_WEBP)):
        mean = geometric_mean(row[f"{other}_yuv"] for row in pictures.values())
        luma = number(geometric_mean(row[f"{other}_y"] for row in pictures.values()), ".0%")
        title = f"key frames against {other.upper()}, {len(pictures)} pictures (by PSNR-Y: {luma})"
        yield from judge({"mean": mean} if pictures else {}, title, most=most)

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
    worst, where = known[name], "" if name == "mean" else f" ({name})"
    if most is not None:
        share = f"{number(worst, '.1%')}{where}, promised <= {number(most, '.0%')}"
        yield verdict(f"{title}: {share}", worst <= most)
    elif least is not None:
        yield verdict(f"{title}: {worst:.1f} fps{where}, promised >= {least} fps", worst >= least)
    else:
        yield f"- {title}: {worst:.1f} fps{where}"


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
    parser.add_argument("--stills", type=Path, help="a folder of pictures for the part 'pictures'")
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
    pillow = "" if Image is None else f"Pillow {Image.__version__}"
    return {
        "frames": options.frames,
        "short": options.short,
        "thorough": options.thorough,
        "qualities": sorted(options.qualities),
        "model": load_model(device="cpu").id.sha256,
        "version": sdvideo.__version__,
        "still_codecs": pillow or f"OpenCV {cv2.__version__}",
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
