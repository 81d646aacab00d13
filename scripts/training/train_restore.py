"""Train the network behind `--base av1`: chains of decoded base pictures in, painted pictures out.

    python scripts/training/prepare_base.py data FOLDER [FOLDER ...]
    python scripts/training/train_restore.py data --out run --minutes 45              from nothing
    python scripts/training/train_restore.py data --out run --minutes 45 --continue   from the shipped weights
    python scripts/training/train_restore.py data --out run --minutes 45 --resume     where an interrupted run was
    python scripts/training/train_restore.py --out run --export REVISION              put its weights into the package

Needs torch, numpy, OpenCV and safetensors; a CUDA GPU is used where there is one (data resident there, bfloat16,
compiled). Every step takes crops of a few consecutive frames, and paints them one after the other; what was painted is
warped along the base's flow and fed back, with gradients through the whole chain. The loss of a frame is

    250 MSE + 12 (1 - MS-SSIM) + 150 mean_M d²,    d_t = e_t - W(e_{t-1})

on values 0..1, with MS-SSIM of three scales, e the luma error and W the warp along the flow of the source (M: visible
in both). A chain counts by one over the root of what Lanczos leaves, so that fine pictures count beside coarse ones.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from sdvideo.metrics.fidelity import structural_similarity
from sdvideo.restoration.engine import NO_HISTORY, conditioning
from sdvideo.restoration.network import RestorationNetwork, from_patches, to_patches
from sdvideo.weights import RESTORATION

FIDELITY, STRUCTURE, STEADINESS, CHROMA = 250.0, 12.0, 150.0, 1 / 8
SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001)  # the three finer scales of Wang et al. (2003)
LENGTHS = ((0.2, 3), (0.75, 5), (1.0, 8))  # up to this share of the run, chains of so many frames
JUDGE_EVERY, LOG_EVERY = 6.0, 1.0  # minutes
_FLOW = 1 / 16


@dataclass
class Chain:
    """T frames of B crops of S x R, on the training device; of a whole shot B is 1.

    y, up_y: [B, T, S, R]; uv, up_uv: [B, T, 2, S/2, R/2], 0..255, the source and the enlarged base. flow, up_flow:
    [B, T, 2, S/2, R/2] towards the frame before, in samples of that grid; visible: likewise, 0 or 1; doubt: 0..255.
    setting: [B, 2]. Everything float32.
    """

    y: torch.Tensor
    uv: torch.Tensor
    flow: torch.Tensor
    visible: torch.Tensor
    up_y: torch.Tensor
    up_uv: torch.Tensor
    up_flow: torch.Tensor
    doubt: torch.Tensor
    setting: torch.Tensor

    def mirrored(self) -> Chain:
        """Left is right."""
        planes = {name: value.flip(-1) for name, value in vars(self).items() if name != "setting"}
        for name in ("flow", "up_flow"):
            planes[name] = planes[name] * planes[name].new_tensor([-1, 1])[:, None, None]
        return Chain(**planes, setting=self.setting)


class Shot:
    """A prepared file, its arrays as tensors on the device."""

    def __init__(self, path: Path, device: str):
        with np.load(path) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files if name != "base"}
            self.base = [(float(crf), float(scale)) for crf, scale in arrays["base"]]
        self._source = [tensors[name] for name in ("y", "uv", "flow", "visible")]
        self._variants = [
            [tensors[f"{name}{i}"] for name in ("up_y", "up_uv", "flow", "doubt")] for i in range(len(self.base))
        ]
        self.frames, self.height, self.width = tensors["y"].shape

    def chain(self, variant: int, first: int, length: int, top: int, left: int, height: int, width: int) -> Chain:
        planes = []
        for array, grid in zip(self._source + self._variants[variant], (1, 2, 2, 2) * 2):
            rows, columns = (slice(at // grid, (at + n) // grid) for at, n in ((top, height), (left, width)))
            planes.append(array[first : first + length, ..., rows, columns].float()[None])
        planes[2], planes[6] = planes[2] * _FLOW, planes[6] * _FLOW
        return Chain(*planes, torch.tensor([conditioning(*self.base[variant])], device=planes[0].device))

    def whole(self, variant: int, frames: int) -> Chain:
        return self.chain(variant, 0, min(frames, self.frames), 0, 0, self.height, self.width)


def draw(shots: list[Shot], rng: np.random.Generator, batch: int, size: int, length: int) -> Chain:
    """Random crops of random chains; three in ten begin with the key frame."""
    chains = []
    for _ in range(batch):
        shot = shots[rng.integers(len(shots))]
        first = 0 if rng.random() < 0.3 else rng.integers(shot.frames - length + 1)
        top, left = (rng.integers((side - size) // 4 + 1) * 4 for side in (shot.height, shot.width))
        chains.append(shot.chain(rng.integers(len(shot.base)), first, length, top, left, size, size))
    whole = Chain(*(torch.cat([vars(chain)[name] for chain in chains]) for name in vars(chains[0])))
    return whole.mirrored() if rng.random() < 0.5 else whole


def warp(planes: torch.Tensor, flow: torch.Tensor, mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Look up [B, C, H, W] along a flow of the same grid, [B, 2, H, W] in samples; and where that is inside."""
    height, width = planes.shape[2:]
    x = flow[:, 0] + torch.arange(width, device=flow.device)
    y = flow[:, 1] + torch.arange(height, device=flow.device)[:, None]
    place = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], -1)
    inside = (place.abs() <= 1).all(-1)
    return F.grid_sample(planes, place, mode, "border", align_corners=True), inside


def enlarged(flow: torch.Tensor) -> torch.Tensor:
    """A flow of the half-size grid on the full one."""
    return 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)


def lightly(network: nn.Module, light: torch.autocast) -> Callable[..., torch.Tensor]:
    """The network in mixed precision; what is around it, the carrying and the loss, stays float32."""

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        with light:
            return network(*inputs)

    return call


def paint(
    network: Callable[..., torch.Tensor], chain: Chain, rounded: bool = False
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The painted frames, each y [B, S, R] and uv [B, 2, S/2, R/2], 0..255; as they are shown if `rounded`."""
    painted = []
    for t in range(chain.y.shape[1]):
        up = carried = to_patches(chain.up_y[:, t], chain.up_uv[:, t])
        doubt = torch.full_like(chain.doubt[:, t], NO_HISTORY)
        if painted:
            y, uv = painted[-1]
            y, _ = warp(y[:, None], enlarged(chain.up_flow[:, t]), "bicubic")
            uv, inside = warp(uv, chain.up_flow[:, t], "bicubic")
            carried = to_patches(y[:, 0].clamp(0, 255), uv.clamp(0, 255))
            doubt = torch.where(inside, chain.doubt[:, t], NO_HISTORY)
        seen = torch.cat([up - 128, carried - up, F.pixel_unshuffle(doubt[:, None], 2)], 1)
        out = up + network(seen.contiguous(memory_format=torch.channels_last), chain.setting)
        painted.append(from_patches(out.round().clamp(0, 255) if rounded else out))
    return painted


class Similarity(nn.Module):
    """MS-SSIM over crops, per picture: [N, S, R] twice, 0..1, -> [N]. weights: of the scales, from the finest on."""

    def __init__(self, device: str, weights: tuple[float, ...] = SSIM_WEIGHTS):
        super().__init__()
        self.weights = weights
        self.window = cv2.getGaussianKernel(11, 1.5)[:, 0].tolist()
        self.bands: dict[int, torch.Tensor] = {}
        self.device = device

    def band(self, side: int) -> torch.Tensor:
        """Blurring along an axis as a matrix, [side, side - 10]: on a CPU quicker than a convolution."""
        if side not in self.bands:
            band = torch.zeros(side, side - 10)
            for offset, weight in enumerate(self.window):
                band.diagonal(-offset).fill_(weight)
            self.bands[side] = band.to(self.device)
        return self.bands[side]

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result, total = 1.0, sum(self.weights)
        for scale, weight in enumerate(self.weights):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            maps = torch.stack([x, y, x * x + y * y, x * y])
            mean_x, mean_y, squares, product = self.band(x.shape[-2]).T @ (maps @ self.band(x.shape[-1]))
            means, both = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
            contrast = (2 * (product - means) + 0.03**2) / (squares - both + 0.03**2)
            if scale == len(self.weights) - 1:
                contrast = contrast * (2 * means + 0.01**2) / (both + 0.01**2)
            result = result * contrast.mean((-2, -1)).clamp_min(0.01) ** (weight / total)
        return result


def changes(errors: torch.Tensor, before: torch.Tensor, chain: Chain, t: int) -> torch.Tensor:
    """mean_M d_t² of luma errors [B, S, R] -> [B]; 0 where nothing is visible in both frames."""
    flow = enlarged(chain.flow[:, t])
    carried, inside = warp(before[:, None], flow, "bilinear")
    mask = F.interpolate(chain.visible[:, t, None], scale_factor=2, mode="nearest")[:, 0] * inside
    return ((errors - carried[:, 0]).square() * mask).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1)


def loss_of(network: Callable[..., torch.Tensor], similarity: Similarity, chain: Chain) -> torch.Tensor:
    painted = paint(network, chain)
    errors = [(y - chain.y[:, t]) / 255 for t, (y, _) in enumerate(painted)]
    squares = torch.stack([e.square().mean((1, 2)) for e in errors], 1)
    chroma = [((uv - chain.uv[:, t]) / 255).square().mean((2, 3)).sum(1) for t, (_, uv) in enumerate(painted)]
    chroma = torch.stack(chroma, 1)
    y, source = (v.flatten(0, 1) / 255 for v in (torch.stack([y for y, _ in painted], 1), chain.y))
    structure_loss = 1 - similarity(y, source).view_as(squares)
    unsteady = torch.stack([changes(errors[t], errors[t - 1], chain, t) for t in range(1, len(errors))], 1)
    loss = FIDELITY * (squares + CHROMA * chroma).mean(1) + STRUCTURE * structure_loss.mean(1)
    loss = loss + STEADINESS * unsteady.mean(1)
    lanczos = ((chain.up_y - chain.y) / 255).square().mean((1, 2, 3))
    return (loss * (lanczos / 1e-3).clamp(0.05, 20).rsqrt()).mean()


@torch.no_grad()
def judge(network: Callable[..., torch.Tensor], shots: list[Shot], frames: int) -> dict[str, dict[str, list[float]]]:
    """PSNR-Y, MS-SSIM and MCF of [Lanczos, painted] whole chains as they are shown, by scale and crf."""
    found: dict[str, list] = {}
    for shot in shots:
        for variant, (crf, scale) in enumerate(shot.base):
            chain = shot.whole(variant, frames)
            shown = [torch.stack([y for y, _ in paint(network, chain, rounded=True)], 1), chain.up_y]
            row = [measures(y, chain) for y in reversed(shown)]
            found.setdefault(f"{scale:.2f}@{crf:g}", []).append(row)
    table = {}
    for name, rows in sorted(found.items()):
        means = np.mean(rows, 0).T.round(4).tolist()
        table[name] = dict(zip(("psnr_y", "ms_ssim", "mcf"), means))
    return table


def measures(y: torch.Tensor, chain: Chain) -> tuple[float, float, float]:
    """PSNR-Y, MS-SSIM, MCF of luma [1, T, H, W], each from means over the frames."""
    errors = (y - chain.y)[0]
    psnr = 10 * math.log10(255**2 / max(1e-3, float(errors.square().mean())))
    pairs = zip(chain.y[0].cpu().numpy(), y[0].cpu().numpy())
    ms_ssim = float(np.mean([structural_similarity(a, b)[1] for a, b in pairs]))
    moves = [float(changes(errors[t, None], errors[t - 1, None], chain, t)) for t in range(1, len(errors))]
    return psnr, ms_ssim, 10 * math.log10(255**2 / max(1e-3, float(np.mean(moves))))


class Run:
    """Network, optimiser, averaged weights and the clock of a run, which all survive an interruption."""

    def __init__(self, options: argparse.Namespace, device: str, network: nn.Module, shipped: Path):
        self.out, self.minutes = options.out, options.minutes
        self.network = network.to(device, memory_format=torch.channels_last)
        if options.start:
            self.network.load_state_dict(safetensors.torch.load_file(shipped, device))
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimiser = torch.optim.Adam(self.network.parameters(), options.rate, betas=(0.9, 0.99))
        self.rate, self.steps, self.spent, self.stopped = options.rate, 0, 0.0, None
        if options.resume:
            self.network.load_state_dict(safetensors.torch.load_file(self.out / "last.safetensors", device))
            self.average = safetensors.torch.load_file(self.out / "average.safetensors", device)
            state = torch.load(self.out / "state.pt", map_location=device, weights_only=True)
            self.optimiser.load_state_dict(state["optimiser"])
            self.steps, self.spent = state["steps"], state["spent"]
        self.began = time.monotonic() - 60 * self.spent

    def tick(self, stop: Path | None) -> bool:
        """Look at the clock and set the pace; False when the time is up. Told to stop, it lands within a minute."""
        self.spent = (time.monotonic() - self.began) / 60
        if self.stopped is None and stop is not None and stop.exists():
            self.stopped = self.spent
            self.minutes = min(self.minutes, self.spent + 0.9)
        pace = 0.5 * (1 + math.cos(math.pi * min(1, self.spent / self.minutes)))
        if self.stopped is not None and self.minutes > self.stopped:
            pace = 0.5 * (self.minutes - self.spent) / (self.minutes - self.stopped)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1, (self.steps + 1) / 100) * max(0.005, pace)
        return self.spent < self.minutes

    def step(self, loss: torch.Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
        self.optimiser.step()
        self.steps += 1
        keep = min(0.998, self.steps / (self.steps + 20))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)

    def save(self) -> None:
        safetensors.torch.save_file(self.network.state_dict(), self.out / "last.safetensors")
        safetensors.torch.save_file(self.average, self.out / "average.safetensors")
        state = {"optimiser": self.optimiser.state_dict(), "steps": self.steps, "spent": self.spent}
        torch.save(state, self.out / "state.pt")


def export(run: Path, shipped: Path, revision: str) -> None:
    tensors = safetensors.torch.load_file(run / "average.safetensors")
    new = shipped.with_suffix(".new")
    halves = {name: value.half().contiguous() for name, value in tensors.items()}
    safetensors.torch.save_file(halves, new, {"revision": revision})
    new.chmod(0o644)
    new.replace(shipped)
    print(f"{shipped}: {shipped.stat().st_size:,} bytes")


def train(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    paths = sorted(options.data.glob("*.npz"))
    judged = [Shot(path, device) for path in paths if path.name.startswith("judge_")]
    shots = [Shot(path, device) for path in paths if not path.name.startswith("judge_")]
    longest = LENGTHS[-1][1]
    shots = [shot for shot in shots if shot.frames >= longest and min(shot.height, shot.width) >= options.crop]
    run = Run(options, device, RestorationNetwork(), RESTORATION)
    rng = np.random.default_rng((options.seed, run.steps))
    averaged = RestorationNetwork().to(device, memory_format=torch.channels_last)
    light = torch.autocast(device, torch.bfloat16, enabled=device == "cuda" or options.light)
    network = lightly(torch.compile(run.network) if device == "cuda" else run.network, light)
    similarity = Similarity(device)
    print(f"{len(shots)} shots, {len(judged)} held back, {run.network.macs():,.0f} MAC per pixel, {device}", flush=True)

    def report(**row) -> None:
        line = json.dumps({"minutes": round(run.spent, 2), "steps": run.steps} | row)
        print(line, flush=True)
        with (options.out / "log.jsonl").open("a") as log:
            print(line, file=log)

    def look(frames: int) -> None:
        run.save()
        averaged.load_state_dict(run.average)
        report(judged=judge(lightly(averaged, light), judged, frames), frames=frames)

    next_log, next_look, losses = run.spent + LOG_EVERY, run.spent + JUDGE_EVERY, []
    while run.tick(options.stop):
        length = next(n for share, n in LENGTHS if run.spent / run.minutes <= share)
        batch = max(1, round(options.batch * 5 / max(5, length)))
        chain = draw(shots, rng, batch, options.crop, length)
        loss = loss_of(network, similarity, chain)
        run.step(loss)
        losses.append(loss.detach())
        if run.spent >= next_log:
            report(loss=round(float(torch.stack(losses).mean()), 4))
            next_log, losses = run.spent + LOG_EVERY, []
        if run.spent >= next_look:
            look(6)
            next_look = run.spent + JUDGE_EVERY
    look(1000)


def arguments(description: str, minutes: float, batch: int, crop: int, rate: float) -> argparse.Namespace:
    """The options of a run, from the command line; with these defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--continue", dest="start", action="store_true", help="start from the shipped weights")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--stop", type=Path, help="when this file appears, finish within a minute")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--crop", type=int, default=crop)
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--light", action="store_true", help="bfloat16 on a CPU, too")
    parser.add_argument("--export", metavar="REVISION", help="put the averaged weights of --out into the package")
    options = parser.parse_args()
    if options.data is None and not options.export:
        parser.error("DATA is missing")
    return options


def main() -> None:
    options = arguments(__doc__, minutes=45, batch=4, crop=128, rate=2e-3)
    if options.export:
        export(options.out, RESTORATION, options.export)
    else:
        train(options)


if __name__ == "__main__":
    main()
