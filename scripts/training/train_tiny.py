"""Train an autoencoder of the shape of Stable Diffusion's (factor 8, 4 channels) that is small enough for any CPU.

    python scripts/training/prepare.py data/tiny FOLDER [FOLDER ...] --frames 4
    python scripts/training/train_tiny.py data/tiny --out build/tiny --minutes 75
    sdvideo encode clip.mp4 --model build/tiny

An AutoencoderTiny of diffusers whose blocks all work at half the resolution or less: about 1 M parameters, 2 MB of
float16. Crops of 96x96 are encoded, the latents disturbed as quantising would disturb them, decoded, and compared in
mean squared error. A light penalty keeps each latent channel at mean 0 and deviation 1, the scale that codecs and
diffusion models expect. What is written is the running mean of the weights. Every 360th file is held back.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny

CROP, BATCH, RATE = 96, 8, 2e-3
MOST_NOISE = 0.3  # deviations of the latent
UNIT = 1e-3  # weight of the penalty, beside squared errors of values -1..1
KEPT = 0.998  # of the running mean, each step
JUDGED = 12  # files held back
JUDGE_EVERY = 5.0  # minutes


def new_model() -> AutoencoderTiny:
    width = (48,) * 4
    return AutoencoderTiny(
        encoder_block_out_channels=width,
        decoder_block_out_channels=width,
        num_encoder_blocks=(0, 1, 2, 4),
        num_decoder_blocks=(4, 2, 1, 0),
    ).to(memory_format=torch.channels_last)


def pictures(path: Path) -> np.ndarray:
    """The frames of a prepared file, uint8 [T, H, W, 3], RGB."""
    with np.load(path) as arrays:
        return np.stack([cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420) for planes in arrays["planes"]])


def crop(shots: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A random crop of a random picture, some from pictures of half the size, uint8 [CROP, CROP, 3]."""
    shot = shots[rng.integers(len(shots))]
    picture = shot[rng.integers(len(shot))]
    scale = 2 if rng.random() < 0.3 and min(picture.shape[:2]) >= 2 * CROP else 1
    size = CROP * scale
    top, left = (int(rng.integers(side - size + 1)) for side in picture.shape[:2])
    piece = picture[top : top + size, left : left + size]
    if scale > 1:
        piece = cv2.resize(piece, (CROP, CROP), interpolation=cv2.INTER_AREA)
    return piece[:, ::-1] if rng.random() < 0.5 else piece


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], -1..1."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(model: AutoencoderTiny, batch: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        latent = model.encode(batch).latents.float()
        strength = MOST_NOISE * torch.rand(len(batch), 1, 1, 1)
        seen = model.decode(latent + strength * (torch.rand_like(latent) - 0.5) * math.sqrt(12)).sample.float()
    spread = latent.var((0, 2, 3))
    unit = latent.mean((0, 2, 3)).square().mean() + (spread + 1e-6).log().square().mean()
    return (seen - batch).square().mean() + UNIT * unit


@torch.inference_mode()
def judge(model: AutoencoderTiny, shots: list[np.ndarray]) -> tuple[float, float]:
    """Mean PSNR of whole pictures, dB, and deviation of their latents."""
    found, deviations = [], []
    for shot in shots:
        x = to_tensor(shot[:1, : shot.shape[1] // 8 * 8, : shot.shape[2] // 8 * 8])
        latent = model.encode(x).latents
        error = (model.decode(latent).sample.clamp(-1, 1) - x).square().mean() / 4
        found.append(-10 * math.log10(float(error)))
        deviations.append(float(latent.std()))
    return float(np.mean(found)), float(np.mean(deviations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    paths = sorted(options.data.glob("*.npz"))
    held = paths[:: len(paths) // JUDGED]
    judged = [pictures(path) for path in held]
    shots = [pictures(path) for path in paths if path not in held]

    model, mean = new_model(), new_model()
    mean.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-3)
    begin, steps, next_judge = time.monotonic(), 0, JUDGE_EVERY
    while (minutes := (time.monotonic() - begin) / 60) < options.minutes:
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (steps + 1) / 200) * (0.01 + 0.5 + 0.5 * math.cos(math.pi * minutes / options.minutes))
            )
        loss = loss_of(model, to_tensor(np.stack([crop(shots, rng) for _ in range(BATCH)])))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        kept = min(KEPT, steps / (steps + 10))
        for ours, theirs in zip(mean.parameters(), model.parameters()):
            ours.data.lerp_(theirs.data, 1 - kept)
        if minutes > next_judge:
            next_judge += JUDGE_EVERY
            save(mean, options.out, judged, minutes, steps)
    save(mean, options.out, judged, minutes, steps)


def save(model: AutoencoderTiny, out: Path, judged: list[np.ndarray], minutes: float, steps: int) -> None:
    psnr, deviation = judge(model, judged)
    print(
        f"{minutes:.1f} min, {steps:,} steps: held back {psnr:.2f} dB, latents of deviation {deviation:.2f}", flush=True
    )
    copy = new_model().half()
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(out)


if __name__ == "__main__":
    main()
