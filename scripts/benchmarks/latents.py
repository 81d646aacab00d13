"""Latents kept in .sdv files against latents kept as they are: bytes, error, and how fast windows of them come.

    python scripts/benchmarks/latents.py CLIPS MODEL

CLIPS: a folder of videos; MODEL: a folder of an image autoencoder of diffusers. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset

import sdvideo
from clips import VIDEOS, Clip, files_in, without_tracks
from journal import number, row_of
from sdvideo.codecs.latent.latent_space import STEPS_PER_DEVIATION
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.media.output import open_sink
from speed import machine

QUALITIES = (40, 60, 80, 100)
KEYINTS = (64, 16)
BATCH = 4
KEPT = {
    "float16": lambda latents: latents.to(torch.float16).float(),
    "fp8 (e4m3)": lambda latents: latents.to(torch.float8_e4m3fn).float(),
}
BYTES = {"float16": 2, "fp8 (e4m3)": 1}


class RawDataset(Dataset):
    """The same windows as a LatentDataset's from float16 arrays: .npy files, mapped, or .safetensors, sliced."""

    def __init__(self, paths: list[Path], lengths: list[int], frames: int):
        self._frames = frames
        self._windows = [
            (path, first)
            for path, length in zip(paths, lengths, strict=True)
            for first in range(0, length - frames + 1, frames)
        ]

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, first = self._windows[index]
        window = slice(first, first + self._frames)
        if path.suffix == ".npy":
            latents = np.load(path, mmap_mode="r")[window]
        else:
            with safe_open(path, "np") as file:
                latents = file.get_slice("latents")[window]
        return {"latents": torch.from_numpy(latents.astype(np.float32)), "path": str(path), "first": first}


def prepare(clip: Clip, folder: Path, model) -> np.ndarray:
    """The clip as a lossless file without sound, and its true latents, float32 [frames, channels, h, w]."""
    info, latents = without_tracks(clip.info), []
    model.colour = info.colour
    with open_sink(folder / f"{clip.name}.mp4", info, lossless=True) as sink:
        for frame in clip.cut():
            sink.write(frame)
            latents.append(model.source(frame.picture).latent.transpose(2, 0, 1) / np.float32(STEPS_PER_DEVIATION))
    return np.stack(latents)


def error(latents: np.ndarray, truth: np.ndarray) -> float:
    """RMS of what is wrong, in standard deviations of the true latents."""
    return float(np.sqrt(np.square(latents - truth).mean()) / truth.std())


def pace(dataset: Dataset, workers: int, shuffled: bool, seconds: float) -> float:
    """Windows per second over at least `seconds`, once the first batch has come."""
    random = np.random.default_rng(1)
    order = [i for _ in range(2000) for i in (random.permutation(len(dataset)) if shuffled else range(len(dataset)))]
    batches = iter(DataLoader(dataset, BATCH, sampler=order, num_workers=workers))
    next(batches)
    begin, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch["first"])
        if (spent := time.perf_counter() - begin) >= seconds:
            return count / spent
    return count / spent


def tables(args: argparse.Namespace, folder: Path) -> Iterator[str]:
    model = load_model(str(args.model), device=args.device)
    clips = [Clip(path, folder, args.frames, args.short) for path in files_in(args.clips, VIDEOS)]
    truth = {clip.name: prepare(clip, folder, model) for clip in clips}
    files = {}
    for quality in args.qualities:
        for keyint in args.keyints:
            files[quality, keyint] = sdv = folder / f"q{quality}-k{keyint}"
            sdv.mkdir()
            for name in truth:
                options = {"model": str(args.model), "device": args.device, "quality": quality, "keyint": keyint}
                sdvideo.encode(folder / f"{name}.mp4", sdv / f"{name}.sdv", **options)

    values = sum(latents.size for latents in truth.values())
    count = sum(len(latents) for latents in truth.values())
    sizes = ", ".join(f"{clip.name} {clip.info.width}x{clip.info.height}" for clip in clips)
    yield f"{sizes}; the first {args.frames} frames, {values // count} latents in a frame on average; {machine()}.\n"
    yield row_of("latents as", "bytes per frame", "against float16", "error, deviations")
    yield "|---|---|---|---|"
    for title, keep in KEPT.items():
        errors = [error(keep(torch.from_numpy(latents)).numpy(), latents) for latents in truth.values()]
        size = values * BYTES[title]
        yield row_of(title, f"{size / count:,.0f}", number(size / (2 * values), ".0%"), f"{np.mean(errors):.4f}")
    for (quality, keyint), sdv in files.items():
        size, errors = 0, []
        for name, latents in truth.items():
            with sdvideo.open(sdv / f"{name}.sdv") as video:
                errors.append(error(video.latents(), latents))
            size += (sdv / f"{name}.sdv").stat().st_size
        title = f".sdv, quality {quality}, --keyint {keyint}"
        yield row_of(title, f"{size / count:,.0f}", number(size / (2 * values), ".0%"), f"{np.mean(errors):.4f}")

    yield f"\nWindows of {args.window} frames per second, in batches of {BATCH}, by number of workers:\n"
    yield row_of("from", *(f"{order}, {workers}" for order in ("shuffled", "in order") for workers in (0, 2)))
    yield "|---|---|---|---|---|"
    for title, dataset in datasets(args, folder, truth, files):
        paces = (pace(dataset, workers, shuffled, args.seconds) for shuffled in (True, False) for workers in (0, 2))
        yield row_of(title, *(f"{found:,.0f}" if found >= 10 else f"{found:.1f}" for found in paces))


def datasets(args, folder: Path, truth: dict[str, np.ndarray], files: dict) -> Iterator[tuple[str, Dataset]]:
    """All of one shape, that of the first clip: other windows make no batch with it."""
    shape = next(iter(truth.values())).shape[1:]
    names = [name for name, latents in truth.items() if latents.shape[1:] == shape]
    lengths = [len(truth[name]) for name in names]
    for suffix in (".npy", ".safetensors"):
        paths = [folder / f"{name}{suffix}" for name in names]
        for name, path in zip(names, paths):
            half = truth[name].astype(np.float16)
            if suffix == ".npy":
                np.save(path, half)
            else:
                save_file({"latents": half}, path)
        yield f"float16, {suffix}", RawDataset(paths, lengths, args.window)
    for (quality, keyint), sdv in files.items():
        paths = [sdv / f"{name}.sdv" for name in names]
        yield f".sdv, quality {quality}, --keyint {keyint}", sdvideo.LatentDataset(paths, frames=args.window)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path, help="a folder of videos")
    parser.add_argument("model", type=Path, help="a folder of an image autoencoder of diffusers")
    parser.add_argument("--frames", type=int, default=128, help="of each clip")
    parser.add_argument("--short", type=int, default=256, help="pixels of the short side at most")
    parser.add_argument("--window", type=int, default=16, help="frames of an item")
    parser.add_argument("--qualities", type=int, nargs="+", default=QUALITIES)
    parser.add_argument("--keyints", type=int, nargs="+", default=KEYINTS)
    parser.add_argument("--seconds", type=float, default=5, help="for each speed")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for line in tables(args, Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
