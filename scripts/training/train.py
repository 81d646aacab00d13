"""Train the embedded latent model: transform and context model together, on chains of decoded frames.

    python scripts/training/prepare.py data FOLDER [FOLDER ...]
    python scripts/training/train.py data --out run --minutes 90                      from nothing
    python scripts/training/train.py data --out run --minutes 90 --continue           from the shipped weights
    python scripts/training/train.py data --out run --minutes 90 --start run/last.pt  from those of a run

Needs torch, numpy, OpenCV, safetensors and constriction. Every step takes crops of a few consecutive frames (or a
photograph), codes the first as a key frame and the others against the decoded frame before, warped along the prepared
motion, around a random quantiser step in the rhythm of rate.py, and descends on SSE + lambda * bits with lambda = 0.12
step^2. Rounding passes gradients straight through to the distortion and is noise to the rate; the context model trains
with the integers it codes with.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from sdvideo.codecs.latent.coding import context_model as ctx
from sdvideo.codecs.latent.coding.range_coder import TABLES
from sdvideo.codecs.latent.coding.rdoq import LAMBDA, step_size
from sdvideo.codecs.latent.embedded import CHANNELS, Transform, from_patches_8x8, load_networks, to_patches_8x8
from sdvideo.codecs.latent.rate_control import index_offset
from sdvideo.motion.block_matching import compensate
from sdvideo.weights import EMBEDDED


def load(folder: Path, hold_back: int) -> tuple[list, list]:
    """[(planes, motion)] for training, and every `hold_back`-th of them for judging."""
    shots = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            shots.append((arrays["planes"], arrays["motion"]))
    return [s for i, s in enumerate(shots) if i % hold_back], shots[::hold_back]


def crop(shot, rng: np.random.Generator, size: int, length: int):
    """A random chain from a shot: y uint8 [T, s, s], u and v [T, s/2, s/2], motion [T - 1, 2, s/16, s/16]."""
    planes, motion = shot
    height, width = planes.shape[1] * 2 // 3, planes.shape[2]
    first = rng.integers(len(planes) - length + 1)
    y0 = rng.integers((height - size) // 16 + 1) * 16
    x0 = rng.integers((width - size) // 16 + 1) * 16
    chosen = planes[first : first + length]
    chroma = chosen[:, height:].reshape(length, 2, height // 2, width // 2)
    chroma = chroma[:, :, y0 // 2 : (y0 + size) // 2, x0 // 2 : (x0 + size) // 2]
    y = chosen[:, y0 : y0 + size, x0 : x0 + size]
    field = motion[first : first + length - 1, :, y0 // 16 : (y0 + size) // 16, x0 // 16 : (x0 + size) // 16]
    return y, chroma[:, 0], chroma[:, 1], field


def patches_of(chains, t: int) -> torch.Tensor:
    y, u, v = (torch.from_numpy(np.stack([c[k][t] for c in chains])).float() for k in range(3))
    return to_patches_8x8(y, u, v)


def predict(decoded: torch.Tensor, fields: list[np.ndarray]) -> torch.Tensor:
    """Decoded patches [B, 96, h, w] -> the next prediction, each crop warped by its field."""
    planes = [plane.round().to(torch.uint8).numpy() for plane in from_patches_8x8(decoded)]
    warped = [
        np.stack([compensate(p, f, 16 if k == 0 else 8) for p, f in zip(plane, fields)])
        for k, plane in enumerate(planes)
    ]
    return to_patches_8x8(*(torch.from_numpy(w).float() for w in warped))


def laplace_bits(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Bits of values (integers, or blurred by uniform noise) under the Laplace distribution of each table index."""
    b = (ctx.FINEST / math.sqrt(2)) * torch.exp2(0.2 * index)
    size = values.abs()
    # Each branch is kept inside its own range: an infinity in the one not taken would still poison the gradient.
    outer, inner = size.clamp(min=0.5), size.clamp(max=0.5)
    tail = -(outer - 0.5) / b + torch.log(-torch.expm1(-1 / b)) - math.log(2)
    middle = torch.log((1 - 0.5 * (torch.exp(-(0.5 - inner) / b) + torch.exp(-(0.5 + inner) / b))).clamp_min(1e-9))
    return torch.where(size >= 0.5, tail, middle).clamp_min(-40) * (-1 / math.log(2))


def both_bits(symbols: torch.Tensor, noisy: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The bits of the symbols, with two gradients: the context model's by the symbols, the transform's by the noise."""
    index = index.clamp(0, TABLES - 1)
    exact, smooth = laplace_bits(symbols, index), laplace_bits(noisy, index.detach())
    return exact + smooth - smooth.detach()


def motion_bits(model: ctx.ContextModel, motion: torch.Tensor, last: torch.Tensor, index: int) -> torch.Tensor:
    """Bits of a motion field, int64 [2, h, w], given that of the frame before."""
    rows, columns = motion.shape[1:]
    known, last = F.pad(motion.flatten(1).T, (0, 0, 0, 1)), last.flatten(1).T
    total = torch.zeros(())
    for stage in range(len(ctx.LATTICES)):
        at, near = ctx.lattice_positions(rows, columns, stage)
        if len(at):
            expected, deviations = ctx.expected_motion(known, last, stage, at, near)
            found = model.motion_tables(deviations, stage, ctx.step_input(index))
            total = total + laplace_bits(known[at] - expected, found.clamp(1, TABLES - 1)).sum()
    return total


def rate(model: ctx.ContextModel, symbols, noisy, coded, previous, motion, index: int) -> torch.Tensor:
    """Bits per position of a batch of frames, all passes at once, float32 [B, h, w].

    symbols, noisy: [B, h, w, 384], as coded, and with noise instead of rounding; coded: bool [B, h, w]; previous: the
    symbols of the frame before, None for key frames; motion: int64 [B, 2, h, w]; index: the quantiser index.
    """
    batch, rows, columns, _ = symbols.shape
    symbols, key, step = symbols.detach(), previous is None, ctx.step_input(index)
    before, before_bands = ctx.previous_features(torch.zeros_like(symbols) if key else previous)
    before_box = ctx.box(before[..., : ctx.GROUPS[0]]).reshape(-1, ctx.GROUPS[0])
    flat, flat_noisy = symbols[..., : ctx.GROUPS[0]].reshape(-1, 6), noisy[..., : ctx.GROUPS[0]].reshape(-1, 6)
    flat_coded = coded.flatten()
    if not key:
        around = torch.cat([model.surroundings(*one) for one in zip(before, before_bands, motion)])
    low = torch.zeros(batch * rows * columns)
    for stage in range(len(ctx.LATTICES)):
        at, near = ctx.lattice_positions(rows, columns, stage)
        # Frames lie side by side as if they were one list of positions, each with its own neighbours.
        offset = torch.arange(batch)[:, None, None] * rows * columns
        near = torch.where(near == rows * columns, batch * rows * columns, near + offset).flatten(0, 1)
        at = (at + offset[..., 0]).flatten()
        if not len(at):
            continue
        if not key:
            odds = (model.coded_blocks(flat_coded.long(), around, stage, at, near, step) - 31.5) / 5
            low = low.index_add(0, at, F.softplus(torch.where(flat_coded[at], -odds, odds)) / math.log(2))
        at, near = at[flat_coded[at]], near[flat_coded[at]]
        if len(at):
            found, expected = model.lattice(
                flat, before[..., :6].reshape(-1, 6), before_box, stage, at, near, key, step
            )
            expected = ctx.straight_through_floor(expected)
            bits = both_bits(flat[at] - expected, flat_noisy[at] - expected, found)
            low = low.index_add(0, at, bits.sum(-1))
    total = low.view(batch, rows, columns)
    magnitude = ctx.magnitudes(symbols)
    for group in range(1, len(ctx.GROUPS)):
        start, end = ctx.STARTS[group], ctx.STARTS[group + 1]
        for phase in (0, 1):
            here = ctx.checkerboard(rows, columns, phase)
            known = magnitude[..., :end].clone()
            known[..., start:end] *= ~here[..., None] if phase else 0
            select = here & coded
            found = model.group(known, before, before_bands, group, phase, select, key, step)
            bits = both_bits(symbols[..., start:end][select], noisy[..., start:end][select], found).sum(-1)
            total = total + torch.zeros_like(total).masked_scatter(select, bits)
    return total


def worth_coding(latent: torch.Tensor, symbols: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Blocks whose delta buys more than it costs, [B, 1, h, w]: the encoder's first guess."""
    unit = latent / step[:, None, None, None]
    gain = (unit**2 - (unit - symbols) ** 2).sum(1, keepdim=True)
    cost = ((symbols != 0) * (5 + 1.5 * (symbols.abs() + 1e-9).log2().clamp_min(0))).sum(1, keepdim=True)
    return (gain > LAMBDA * cost).float()


def code(transform, context, source, prediction, step, previous, fields):
    """Code one batch of frames; fields: the motion behind the prediction.

    Returns (decoded patches, symbols [B, h, w, 384], bits [B, h, w]).
    """
    key = previous is None
    latent = transform.analyse(source, prediction, step)
    unit = latent / step[:, None, None, None]
    # A dead zone like the one that choosing by rate and distortion will make.
    symbols = unit + (unit.sign() * (unit.abs() + 0.35).floor() - unit).detach()
    coded = torch.ones_like(unit[:, :1]) if key else worth_coding(latent, symbols, step).detach()
    symbols = symbols * coded
    noisy = (unit + torch.rand_like(unit) - 0.5) * coded
    decoded = transform.synthesise(symbols * step[:, None, None, None], prediction, step, coded)
    whole = symbols.detach().round().permute(0, 2, 3, 1)
    motion = torch.from_numpy(np.stack(fields).astype(np.int64))
    index = round(32 * math.log2(float(step[0])))
    bits = rate(context, whole, noisy.permute(0, 2, 3, 1), coded[:, 0] > 0, previous, motion, index)
    return decoded, whole, bits


def learning_groups(transform, context) -> list[dict]:
    """Each kind of parameter at its own pace: the KLT is nearly right, the biases of the context model are large."""
    paces = {"linear": 0.2, "bias": 10.0, "table": 1.0, "network": 1.0}
    kinds = {kind: [] for kind in paces}
    for name, parameter in transform.named_parameters():
        kinds["linear" if ".linear." in name else "network"].append(parameter)
    for name, parameter in context.named_parameters():
        kinds["bias" if name.endswith("bias") else "table"].append(parameter)
    return [{"params": kinds[kind], "pace": pace, "lr": 0.0} for kind, pace in paces.items()]


def klt(shots, rng) -> tuple[torch.Tensor, torch.Tensor]:
    """The KLT of 16x16 patches, [384 basis vectors, 384], by falling variance, and the deviations [384]."""
    total, count = torch.zeros(CHANNELS, CHANNELS, dtype=torch.float64), 0
    for shot in shots:
        height, width = shot[0].shape[1] * 2 // 3, shot[0].shape[2]
        for _ in range(4):
            chain = crop(shot, rng, min(height, width, 256) // 32 * 32, 1)
            x = F.pixel_unshuffle(patches_of([chain], 0) - 128, 2)[0].flatten(1).double()
            total, count = total + x @ x.T / x.shape[1], count + 1
    values, vectors = torch.linalg.eigh(total)
    return vectors.flip(1).T.float(), (values / count).flip(0).clamp_min(0.01).sqrt().float()


@torch.no_grad()
def judge(transform, context, shots, steps=(16.0, 32.0, 64.0)) -> dict:
    """PSNR (YUV, all samples alike) and bits per pixel of key and predicted frames on held-back shots."""
    result = {}
    rng = np.random.default_rng(7)
    chains = [
        crop(s, rng, 256, 5) for s in shots if len(s[0]) >= 5 and min(s[0].shape[1] * 2 // 3, s[0].shape[2]) >= 256
    ]
    for value in steps:
        decoded = previous = None
        found = []
        for t in range(5):
            step = torch.full((len(chains),), value * step_size(index_offset(t)))
            source = patches_of(chains, t)
            fields = [c[3][max(0, t - 1)] for c in chains]
            p = torch.full_like(source, 128) if t == 0 else predict(decoded, fields)
            decoded, previous, bits = code(transform, context, source, p, step, previous, fields)
            mse = (decoded.round() - source).square().mean((1, 2, 3))
            found.append((float(bits.mean() / 256), float((10 * (255**2 / mse).log10()).mean())))
        for name, rows in (("key", found[:1]), ("others", found[1:])):
            bpp, psnr = np.mean(rows, 0)
            result[f"{name}@{value:g}"] = (round(bpp, 4), round(psnr, 2))
    return result


@torch.no_grad()
def checkpoint(transform, context, average, held_back, out: Path, row: dict) -> None:
    """Save the averaged weights and log how they do; training goes on with its own."""
    parameters = [*transform.parameters(), *context.parameters()]
    own = [p.clone() for p in parameters]
    torch._foreach_copy_(parameters, average)
    torch.save({"transform": transform.state_dict(), "context": context.state_dict()}, out / "last.pt")
    line = json.dumps(row | judge(transform, context, held_back))
    torch._foreach_copy_(parameters, own)
    print(line, flush=True)
    with (out / "log.jsonl").open("a") as log:
        print(line, file=log)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--continue", dest="go_on", action="store_true", help="start from the shipped weights")
    start.add_argument("--start", type=Path, help="start from the weights of a run")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--length", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    shots, held_back = load(options.data, 20)
    moving = [s for s in shots if len(s[0]) >= options.length]
    transform, context = load_networks(EMBEDDED.read_bytes()) if options.go_on else (Transform(), ctx.ContextModel())
    if options.start:
        state = torch.load(options.start, weights_only=True)
        transform.load_state_dict(state["transform"])
        context.load_state_dict(state["context"])
    elif not options.go_on:
        basis, deviation = klt(shots, rng)
        transform.start_from(basis)
        context.start_from(deviation)
    transform = transform.to(memory_format=torch.channels_last)
    parameters = [*transform.parameters(), *context.parameters()]
    optimiser = torch.optim.Adam(learning_groups(transform, context), betas=(0.9, 0.98))
    average = [p.detach().clone() for p in parameters]
    begin, next_judge, steps = time.monotonic(), 0.0, 0
    while (elapsed := (time.monotonic() - begin) / 60) < options.minutes:
        share = elapsed / options.minutes
        warm = min(1, (steps + 1) / 200)
        for group in optimiser.param_groups:
            group["lr"] = options.rate * group["pace"] * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        value = 2 ** rng.uniform(1, 3) if rng.random() < 0.08 else 2 ** rng.uniform(3, 6.8)
        still = rng.random() < 0.3
        count = options.batch * 2 if still else options.batch
        pool = shots if still else moving
        length = 1 if still else options.length
        chains = [crop(pool[rng.integers(len(pool))], rng, options.crop, length) for _ in range(count)]
        decoded = previous = None
        optimiser.zero_grad(set_to_none=True)
        for t in range(length):
            step = torch.full((count,), value * step_size(index_offset(t)))
            source = patches_of(chains, t).contiguous(memory_format=torch.channels_last)
            fields = [c[3][t - 1] if t else np.zeros((2, options.crop // 16, options.crop // 16)) for c in chains]
            p = torch.full_like(source, 128) if t == 0 else predict(decoded.detach(), fields)
            decoded, previous, bits = code(transform, context, source, p, step, previous, fields)
            pixels = options.crop**2
            sse = (decoded - source).square().sum((1, 2, 3)).mean() / pixels
            loss = (sse + LAMBDA * float(step[0]) ** 2 * bits.sum((1, 2)).mean() / pixels) / value**1.5
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        steps += 1
        with torch.no_grad():
            decay = min(0.999, steps / (steps + 50))
            torch._foreach_mul_(average, decay)
            torch._foreach_add_(average, parameters, alpha=1 - decay)
        if elapsed >= next_judge:
            next_judge = elapsed + 4
            checkpoint(transform, context, average, held_back, options.out, {"minutes": elapsed, "steps": steps})
    checkpoint(transform, context, average, held_back, options.out, {"minutes": elapsed, "steps": steps})


if __name__ == "__main__":
    main()
