"""Train the context model alone, on the integers the real encoder chooses on whole frames.

    python scripts/training/train_context.py data run/last.pt --out run/final.pt --minutes 12

train.py trains it beside the transform on small crops, with rounding in the place of the encoder's choices; this last
stage sees what will be coded. First every shot is encoded at a random quality with the given weights; then the bits
of randomly drawn frames are descended on, each frame weighing the same whatever its rate.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch

import train
from sdvideo.codecs.latent.coding import context_model as ctx
from sdvideo.codecs.latent.embedded import EmbeddedModel, Transform
from sdvideo.codecs.latent.frame_codec import FrameEncoder
from sdvideo.codecs.latent.rate_control import ConstantQuality
from sdvideo.frames import Frame, Picture


def pictures(planes: np.ndarray):
    """I420 planes [T, 1.5 H, W] -> frames."""
    height, width = planes.shape[1] * 2 // 3, planes.shape[2]
    for t, plane in enumerate(planes):
        u, v = plane[height:].reshape(2, height // 2, width // 2)
        yield Frame(t, 1, Picture(plane[:height], u, v))


def collect(transform, context, shots, rng: np.random.Generator) -> list:
    """What the encoder makes of the shots: [[(index, symbols) of each frame] of each shot]."""
    model = EmbeddedModel(transform, context, "0" * 64, "")
    sequences = []
    for planes, _ in shots:
        # A photograph is worth two qualities, a video one.
        for _ in range(2 if len(planes) == 1 else 1):
            index = int(rng.integers(60, 236))
            height, width = planes.shape[1] * 2 // 3, planes.shape[2]
            encoder = FrameEncoder(model, height, width, ConstantQuality(index))
            sequence = []
            for frame in pictures(planes[:6]):
                coded = encoder.encode(frame)
                sequence.append((coded.step, encoder.symbols))
            sequences.append(sequence)
    return sequences


def frame_bits(context, sequence, t: int) -> torch.Tensor:
    index, symbols = sequence[t]
    latent = torch.from_numpy(symbols.latent)[None].float()
    previous = torch.from_numpy(sequence[t - 1][1].latent)[None].float() if t else None
    coded = torch.from_numpy(symbols.coded)[None]
    motion = torch.from_numpy(symbols.motion.astype(np.int64))[None]
    bits = train.rate(context, latent, latent, coded, previous, motion, index).sum()
    if t and motion.any():
        last = torch.from_numpy(sequence[t - 1][1].motion.astype(np.int64))
        bits = bits + train.motion_bits(context, motion[0], last, index)
    return bits


@torch.no_grad()
def judge(context, sequences) -> str:
    """Bytes of all key frames and of all others."""
    key = sum(float(frame_bits(context, s, 0)) for s in sequences) / 8
    other = sum(float(frame_bits(context, s, t)) for s in sequences for t in range(1, len(s))) / 8
    return f"key frames {key:,.0f} bytes, others {other:,.0f} bytes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--thin", type=int, default=1, help="use every N-th shot")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    transform, context = Transform(), ctx.ContextModel()
    state = torch.load(options.start, weights_only=True)
    transform.load_state_dict(state["transform"])
    context.load_state_dict(state["context"])
    shots, held_back = train.load(options.data, 20)
    held_back, sequences = (collect(transform, context, s, rng) for s in (held_back, shots[:: options.thin]))
    for network in [*context.networks, context.coded, context.motion]:
        network.weights = None  # EmbeddedModel froze them
    print(f"{len(sequences)} sequences; before: {judge(context, held_back)}", flush=True)

    kinds = {"bias": [], "weight": []}
    for name, parameter in context.named_parameters():
        kinds["bias" if name.endswith("bias") else "weight"].append(parameter)
    optimiser = torch.optim.Adam([{"params": kinds["bias"], "pace": 10.0}, {"params": kinds["weight"], "pace": 1.0}])
    frames = [(s, t) for s in sequences for t in range(len(s)) for _ in range(1 if t else 2)]
    begin, steps = time.monotonic(), 0
    while (share := (time.monotonic() - begin) / 60 / options.minutes) < 1:
        for group in optimiser.param_groups:
            group["lr"] = options.rate * group["pace"] * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        optimiser.zero_grad(set_to_none=True)
        for pick in rng.integers(len(frames), size=2):
            bits = frame_bits(context, *frames[pick])
            (bits / (float(bits.detach()) + 200)).backward()
        torch.nn.utils.clip_grad_norm_(context.parameters(), 0.5)
        optimiser.step()
        steps += 1
        if steps % 1000 == 0:
            print(f"{steps} steps: {judge(context, held_back)}", flush=True)
    print(f"{steps} steps: {judge(context, held_back)}", flush=True)
    torch.save({"transform": state["transform"], "context": context.state_dict()}, options.out)


if __name__ == "__main__":
    main()
