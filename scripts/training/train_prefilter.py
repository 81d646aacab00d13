"""Train the network before `--base av1`, through a stand-in for the codec and the network after it.

    python scripts/training/prepare_base.py data FOLDER [FOLDER ...] --sources
    python scripts/training/train_prefilter.py data --out run --minutes 60              from nothing
    python scripts/training/train_prefilter.py data --out run --minutes 60 --continue   from the shipped weights
    python scripts/training/train_prefilter.py data --out run --minutes 60 --resume     where an interrupted run was
    python scripts/training/train_prefilter.py --out run --export REVISION              put its weights into the package

Needs torch, numpy, OpenCV and safetensors; a CUDA GPU is used where there is one. Every step takes crops of a few
consecutive frames, scales them down, filters and codes them (standin.py), scales them up and restores them with the
shipped weights, which stay as they are. The loss of a chain is about the log of the bits that it takes at equal
quality:

    sum_k RATE_k log(bits_k)  +  sum_m WEIGHT_m / SLOPE_m log(error_m)

over intra and inter bits, and over the mean squared error, 1 - MS-SSIM, and the change of the error along the motion.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F

from sdvideo.codecs.av1.prefilter_engine import SQUARE
from sdvideo.codecs.av1.prefilter_network import PrefilterNetwork
from sdvideo.restoration.engine import NO_HISTORY, conditioning
from sdvideo.restoration.network import RestorationNetwork
from sdvideo.weights import PREFILTER, RESTORATION
from standin import code, step_of
from train_restore import (
    JUDGE_EVERY,
    LOG_EVERY,
    Chain,
    Run,
    Similarity,
    arguments,
    changes,
    export,
    lightly,
    paint,
    warp,
)

SCALES, SCALE_SHARES = (1.0, 2 / 3, 1 / 2), (0.5, 0.3, 0.2)
CRFS = (28.0, 63.0)
BLOCKS = (8, 16)
# How the log of AV1's bits follows that of the stand-in's, intra and inter: a regression over light blurring and
# sharpening of five held-back shots at two scales and CRFs each (60 encodes; correlation 0.96).
RATE = 0.27, 0.38
# Of squared error, structure and steadiness; and how far the log of each falls where that of the bits grows by one.
WEIGHTS, SLOPES = (0.2, 0.75, 0.05), (0.95, 0.95, 0.5)
SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363)  # the four finer scales of Wang et al. (2003)
LENGTH = 5
_FLOW = 1 / 16

Filter = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Source:
    """The source side of a prepared file, on the device: see prepare_base.py."""

    def __init__(self, path: Path, device: str):
        with np.load(path) as arrays:
            self._planes = [torch.from_numpy(arrays[name]).to(device) for name in ("y", "uv", "flow", "visible")]
        self.frames, self.height, self.width = self._planes[0].shape

    def crop(self, first: int, top: int, left: int, size: int) -> list[torch.Tensor]:
        """y, uv, flow and visible of LENGTH frames."""
        planes = []
        for array, grid in zip(self._planes, (1, 2, 2, 2)):
            rows, columns = (slice(at // grid, (at + size) // grid) for at in (top, left))
            planes.append(array[first : first + LENGTH, ..., rows, columns].float())
        planes[2] = planes[2] * _FLOW
        return planes


def draw(sources: list[Source], rng: np.random.Generator, batch: int, size: int) -> list[torch.Tensor]:
    """Random crops, [B, T, ...] of y, uv, flow, visible; half of the time left is right."""
    crops = []
    for _ in range(batch):
        source = sources[rng.integers(len(sources))]
        first = rng.integers(source.frames - LENGTH + 1)
        top, left = (rng.integers((side - size) // 4 + 1) * 4 for side in (source.height, source.width))
        crops.append(source.crop(first, top, left, size))
    planes = [torch.stack(parts) for parts in zip(*crops)]
    if rng.random() < 0.5:
        planes = [plane.flip(-1) for plane in planes]
        planes[2] = planes[2] * planes[2].new_tensor([-1, 1])[:, None, None]
    return planes


def lanczos(few: int, many: int, device: str) -> torch.Tensor:
    """A row of `few` samples from one of `many`, or the other way round, as a matrix [few, many]: three lobes, as wide
    as going down needs.
    """
    ratio = many / few
    at = (torch.arange(few) + 0.5) * ratio - 0.5
    far = (at[:, None] - torch.arange(many)) / max(1, ratio)
    weights = torch.sinc(far) * torch.sinc(far / 3) * (far.abs() < 3)
    return (weights / weights.sum(1, keepdim=True)).to(device)


def resized(planes: torch.Tensor, size: int) -> torch.Tensor:
    """Square planes at another size by Lanczos."""
    if planes.shape[-1] == size:
        return planes
    matrix = lanczos(size, planes.shape[-1], planes.device)
    return (matrix @ planes @ matrix.T).clamp(0, 255)


class Course:
    """From the source to what is shown, and how good and how dear that is."""

    def __init__(self, restoration: Callable[..., torch.Tensor], device: str):
        self._restoration, self._similarity, self._device = restoration, Similarity(device, SSIM_WEIGHTS), device

    def measures(
        self, network: Filter, planes: list[torch.Tensor], scale: float, crf: np.ndarray, block: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The logs of the bits, [B, 2], and of the errors, [B, 3]."""
        y, uv, flow, visible = planes
        batch, size = len(y), y.shape[-1]
        small = round(size * scale)
        setting = torch.tensor([conditioning(one, scale) for one in crf], dtype=torch.float32, device=self._device)
        squares = F.pixel_unshuffle(resized(y, small).view(-1, 1, small, small), SQUARE)
        squares = squares.contiguous(memory_format=torch.channels_last)
        squares = squares + network(squares, setting.repeat_interleave(LENGTH, 0))
        readied = F.pixel_shuffle(squares, SQUARE).clamp(0, 255).view(batch, LENGTH, small, small)
        moves = F.interpolate(flow.flatten(0, 1), (small, small), mode="bilinear") * (2 * scale)
        seen = F.interpolate(visible.flatten(0, 1)[:, None], (small, small)).view_as(readied)
        step = torch.from_numpy(step_of(crf)).float().to(self._device)
        coded = code(readied, moves.unflatten(0, (batch, LENGTH)), seen, step, block)
        up = resized(coded.decoded, size)
        chain = Chain(y, uv, flow, visible, up, uv, flow, doubts(up.detach(), flow), setting)
        painted = torch.stack([luma for luma, _ in paint(self._restoration, chain)], 1)
        errors = (painted - y) / 255
        moved = [changes(errors[:, t], errors[:, t - 1], chain, t) for t in range(1, LENGTH)]
        alike = self._similarity(painted.flatten(0, 1) / 255, y.flatten(0, 1) / 255).view(batch, LENGTH)
        bad = errors.square().mean((1, 2, 3)), 1 - alike.mean(1), torch.stack(moved, 1).mean(1)
        bits = torch.stack([coded.intra, coded.inter], 1) + 1e-3 * readied[0].numel()
        return bits.log(), (torch.stack(bad, 1) + 1e-6).log()


def doubts(up: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """How far enlarged luma [B, T, S, S] is from its own past, [B, T, S/2, S/2]."""
    half = F.avg_pool2d(up, 2)
    found = [torch.full_like(half[:, 0], NO_HISTORY)]
    for t in range(1, half.shape[1]):
        before, _ = warp(half[:, t - 1, None], flow[:, t], "bilinear")
        found.append((half[:, t] - before[:, 0]).abs())
    return torch.stack(found, 1)


def cost(bits: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    """The log of the bits at equal quality, [B]."""
    each = [weight / slope for weight, slope in zip(WEIGHTS, SLOPES)]
    return (bits * bits.new_tensor(RATE)).sum(1) + (errors * errors.new_tensor(each)).sum(1)


def unchanged(squares: torch.Tensor, setting: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(squares)


@torch.no_grad()
def judge(network: Filter, course: Course, sources: list[Source], size: int) -> dict[str, list[float]]:
    """By scale and CRF: percent of intra bits, inter bits, and of each error that the filter adds, in the stand-in."""
    table = {}
    for scale in SCALES:
        for crf in (35.0, 48.0, 60.0):
            rows = []
            for source in sources:
                top, left = ((side - size) // 8 * 4 for side in (source.height, source.width))
                planes = [plane[None] for plane in source.crop(0, top, left, size)]
                with_it, without = (
                    course.measures(one, planes, scale, np.array([crf]), 16) for one in (network, unchanged)
                )
                rows.append(torch.cat([a - b for a, b in zip(with_it, without)], 1)[0].cpu().numpy())
            table[f"{scale:.2f}@{crf:g}"] = (100 * np.mean(rows, 0)).round(2).tolist()
    return table


def train(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    paths = sorted(options.data.glob("*.npz"))
    judged = [Source(path, device) for path in paths if path.name.startswith("judge_")]
    sources = [Source(path, device) for path in paths if not path.name.startswith("judge_")]
    fitting = [s for s in sources if s.frames >= LENGTH and min(s.height, s.width) >= options.crop]
    light = torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or options.light)
    restoration = RestorationNetwork().to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    restoration.load_state_dict(safetensors.torch.load_file(RESTORATION, device))
    course = Course(lightly(torch.compile(restoration) if device == "cuda" else restoration, light), device)
    run = Run(options, device, PrefilterNetwork(), PREFILTER)
    rng = np.random.default_rng((options.seed, run.steps))
    averaged = PrefilterNetwork().to(device, memory_format=torch.channels_last)
    print(f"{len(fitting)} shots, {len(judged)} held back, {device}", flush=True)

    def report(**row) -> None:
        line = json.dumps({"minutes": round(run.spent, 2), "steps": run.steps} | row)
        print(line, flush=True)
        with (options.out / "log.jsonl").open("a") as log:
            print(line, file=log)

    def look() -> None:
        run.save()
        averaged.load_state_dict(run.average)
        report(judged=judge(averaged, course, judged, options.crop))

    next_log, next_look, gains = run.spent + LOG_EVERY, run.spent + JUDGE_EVERY, []
    while run.tick(options.stop):
        planes = draw(fitting, rng, options.batch, options.crop)
        scale, crf = rng.choice(SCALES, p=SCALE_SHARES), rng.uniform(*CRFS, options.batch)
        bits, errors = course.measures(run.network, planes, float(scale), crf, int(rng.choice(BLOCKS)))
        loss = cost(bits, errors).mean()
        run.step(loss)
        gains.append(loss.detach())
        if run.spent >= next_log:
            report(loss=round(float(torch.stack(gains).mean()), 4))
            next_log, gains = run.spent + LOG_EVERY, []
        if run.spent >= next_look:
            look()
            next_look = run.spent + JUDGE_EVERY
    look()


def main() -> None:
    options = arguments(__doc__, minutes=60, batch=2, crop=192, rate=1e-3)
    if options.export:
        export(options.out, PREFILTER, options.export)
    else:
        train(options)


if __name__ == "__main__":
    main()
