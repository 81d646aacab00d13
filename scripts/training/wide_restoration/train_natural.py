"""Train the wider restoration network for the eye, from weights that were trained for fidelity.

    PYTHONPATH=FOLDER-OF-perceptual.py python train_natural.py data --start average.safetensors --out run --minutes 45

Begins from --start, or goes on where it was. Every step paints crops of a few consecutive frames one after the other,
as train_restore.py does. The loss of a chain is

    0.3 (250 MSE + 12 (1 - MS-SSIM)) + 300 mean_M d²      by one over the root of what Lanczos leaves, as there
    + 2.5 LPIPS (SqueezeNet) + 2.5 (LPIPS (VGG) or DISTS) of one frame; the latter by chance, of a part of the crop
    + 0.1 (- D)                                           a discriminator of patches
    + 8 excess + 0.15 octaves                             against regular patterns, see patterns.py

With --hold-back the terms of looks count less, and fidelity more, the less a base tells: by up to that share at half
size and CRF 60. With --plain the network has the shipped shape.

The discriminator sees a frame, the frame before it warped along the motion of the source, and the enlarged base, so
that detail that crawls is told from the source as well as detail that looks wrong. LPIPS (AlexNet) and the periodicity
of patterns.py are in no loss: they judge.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import perceptual
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_restore as faithful
from course import Run, Shots, judged_shots, parameter_groups
from patterns import excess, octave_distance, octave_energies, woven
from train_faithful import shipped_network
from wide_network import widened

FIDELITY, STEADINESS = 0.3, 300.0
SQUEEZE, FEATURES, ADVERSARY, EXCESS, OCTAVES = 2.5, 2.5, 0.1, 8.0, 0.15
LENGTHS = ((0.5, 5), (1.0, 8))  # up to this share of the run, chains of so many frames
FIRST = 0.2  # of the frames whose looks count are the first of their chain
ALONE = 60  # steps that the discriminator learns before it is heard
SAVE_EVERY, LOG_EVERY = 4.0, 2.0  # minutes
JUDGED_FRAMES = 6
JUDGED_SETTINGS = {(40, 1.0), (55, 1.0), (55, 2 / 3), (55, 1 / 2)}  # crf and scale, while training
FEATURE_CROP, JUDGED_CROP = 128, 256  # VGG takes longer than all the rest
MEASURES = ("psnr_y", "ms_ssim", "mcf", "lpips_alex", "dists", "high", "life")
MEASURES += ("periodic", "periodic_source", "woven", "excess")
LEAST = (40, 60), (0.0, 1.0)  # CRF, and -log2 of the scale, from where a base tells less to where it tells least
Painted = list[tuple[torch.Tensor, torch.Tensor]]


def rgb(y: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Planes of 0..255, limited range, as RGB [B, 3, S, R] of 0..1."""
    uv = F.interpolate(uv, scale_factor=2, mode="bilinear", align_corners=False) - 128
    y, u, v = (y - 16) * 1.164, uv[:, 0], uv[:, 1]
    return (torch.stack([y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u], 1) / 255).clamp(0, 1)


class Looks:
    """Distances of pictures by the features of other networks, in mixed precision."""

    def __init__(self):
        self.light = torch.autocast("cpu", torch.bfloat16)
        self.squeeze, self.vgg = perceptual.LPIPS("squeeze"), perceptual.LPIPS("vgg")
        self.alex, self.dists = perceptual.LPIPS("alex"), perceptual.DISTS()
        # The statistics of features need more than eight bits.
        for measure in (self.squeeze, self.vgg, self.alex, self.dists):
            measure.features = self._as_floats(measure.features)

    @staticmethod
    def _as_floats(features: Callable) -> Callable:
        return lambda *inputs: [feature.float() for feature in features(*inputs)]

    def __call__(self, name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        with self.light:
            return getattr(self, name)(a, b).float()


class Discriminator(nn.Module):
    """Painted or source, by patches: [B, S, R] each -> [B, 1, S/8, R/8]; positive means source."""

    def __init__(self, channels: int = 32):
        super().__init__()

        def layer(before: int, after: int, side: int, stride: int) -> list[nn.Module]:
            conv = nn.Conv2d(before, after, side, stride, padding=1)
            return [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]

        self.layers = nn.Sequential(
            *layer(12, channels, 3, 1),
            *layer(channels, 2 * channels, 4, 2),
            *layer(2 * channels, 2 * channels, 3, 1),
            *layer(2 * channels, 3 * channels, 4, 2),
            *layer(3 * channels, 3 * channels, 3, 1),
            *layer(3 * channels, 1, 3, 1)[:1],
        )

    def forward(self, y: torch.Tensor, up: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """moved: the change since the frame before along the motion, 0 where nothing is known of it."""
        planes = (y - up) / 16, up / 64 - 2, moved / 8
        return self.layers(torch.cat([F.pixel_unshuffle(plane[:, None], 2) for plane in planes], 1))


def moved(y: torch.Tensor, before: torch.Tensor | None, chain: faithful.Chain, t: int) -> torch.Tensor:
    """y - W(before) along the motion of the source, where that is visible in both; 0 elsewhere."""
    if before is None:
        return torch.zeros_like(y)
    carried, inside = faithful.warp(before[:, None], faithful.enlarged(chain.flow[:, t]), "bilinear")
    visible = F.interpolate(chain.visible[:, t, None], scale_factor=2, mode="nearest")[:, 0] * inside
    return (y - carried[:, 0]) * visible


class Loss:
    """The loss of the painter; and of the discriminator, which learns from the same chains."""

    def __init__(self, looks: Looks, rng: np.random.Generator, weights: argparse.Namespace):
        self.looks, self.rng, self.weights = looks, rng, weights
        self.similarity = faithful.Similarity("cpu")
        self.discriminator = Discriminator()
        self.optimiser = torch.optim.Adam(self.discriminator.parameters(), 4e-4, betas=(0.0, 0.99))

    def __call__(self, painted: Painted, chain: faithful.Chain, heard: bool) -> tuple[torch.Tensor, dict[str, float]]:
        t = 0 if self.rng.random() < FIRST else int(self.rng.integers(1, len(painted)))
        terms = {"faithful": self._faithful(painted, chain)}
        shown, source = rgb(*painted[t]), rgb(chain.y[:, t], chain.uv[:, t])
        heed = self._heed(chain)
        terms["squeeze"] = self.weights.features * SQUEEZE * (heed * self.looks("squeeze", shown, source)).mean()
        name = ("vgg", "dists")[int(self.rng.integers(2))]
        top, left = (int(self.rng.integers(side - FEATURE_CROP + 1)) for side in shown.shape[2:])
        part = np.s_[:, :, top : top + FEATURE_CROP, left : left + FEATURE_CROP]
        terms[name] = self.weights.features * FEATURES * (heed * self.looks(name, shown[part], source[part])).mean()
        y, before = painted[t][0], painted[t - 1][0] if t else None
        pattern = excess(y - chain.up_y[:, t], chain.y[:, t] - chain.up_y[:, t])
        terms["excess"] = self.weights.excess * pattern
        terms["octaves"] = self.weights.octaves * octave_distance(y, chain.y[:, t])
        if heard:
            with self.looks.light:
                score = self.discriminator(y, chain.up_y[:, t], moved(y, before, chain, t))
            terms["adversary"] = -self.weights.adversary * (heed * score.float().mean((1, 2, 3))).mean()
        self._now = chain, t, y.detach(), before if before is None else before.detach()
        return sum(terms.values()), {name: float(value.detach()) for name, value in terms.items()}

    def _heed(self, chain: faithful.Chain) -> torch.Tensor:
        """How much the looks of each picture count, [B], 0..1."""
        crf, smaller = 45 + 12 * chain.setting[:, 0], chain.setting[:, 1]
        coarse, small = (((v - a) / (b - a)).clamp(0, 1) for v, (a, b) in zip((crf, smaller), LEAST))
        return 1 - self.weights.hold_back * coarse * small

    def _faithful(self, painted: Painted, chain: faithful.Chain) -> torch.Tensor:
        errors = [(y - chain.y[:, t]) / 255 for t, (y, _) in enumerate(painted)]
        squares = torch.stack([e.square().mean((1, 2)) for e in errors], 1)
        chroma = [((uv - chain.uv[:, t]) / 255).square().mean((2, 3)).sum(1) for t, (_, uv) in enumerate(painted)]
        y, source = (v.flatten(0, 1) / 255 for v in (torch.stack([y for y, _ in painted], 1), chain.y))
        structure = 1 - self.similarity(y, source).view_as(squares)
        unsteady = [faithful.changes(errors[t], errors[t - 1], chain, t) for t in range(1, len(errors))]
        loss = faithful.FIDELITY * (squares + faithful.CHROMA * torch.stack(chroma, 1)).mean(1)
        loss = self.weights.fidelity / self._heed(chain) * (loss + faithful.STRUCTURE * structure.mean(1))
        loss = loss + self.weights.steadiness * torch.stack(unsteady, 1).mean(1)
        lanczos = ((chain.up_y - chain.y) / 255).square().mean((1, 2, 3))
        return (loss * (lanczos / 1e-3).clamp(0.05, 20).rsqrt()).mean()

    def teach(self) -> float:
        """A step of the discriminator, on what was just painted and its source."""
        chain, t, y, before = self._now
        up, source = chain.up_y[:, t], chain.y[:, t]
        with self.looks.light:
            fake = self.discriminator(y, up, moved(y, before, chain, t))
            real = self.discriminator(source, up, moved(source, chain.y[:, t - 1] if t else None, chain, t))
        loss = F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def high(y: torch.Tensor) -> float:
    """Energy of what a 3x3 mean takes away."""
    return float((y - F.avg_pool2d(y[:, None], 3, 1, 1)[:, 0]).square().mean())


@torch.no_grad()
def judge(
    network: Callable[..., torch.Tensor] | None,
    judged: dict[str, list[faithful.Shot]],
    looks: Looks,
    frames: int,
    settings: set[tuple[float, float]] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Means of MEASURES, and the distances of the octaves in dB, over the shots of a kind, by scale and crf.

    Of Lanczos, where there is no network. settings: crf and scale, or all. Looks are those of the middle of the last
    frame, life is the change along the motion as a part of the source's, high what fine detail there is, likewise.
    """
    table = {}
    for kind, shots in judged.items():
        rows: dict[str, list] = {}
        for shot in shots:
            for variant, (crf, scale) in enumerate(shot.base):
                if settings is not None and not any(np.allclose((crf, scale), wanted) for wanted in settings):
                    continue
                chain = shot.whole(variant, frames)
                painted = faithful.paint(network, chain, rounded=True) if network else []
                painted = painted or [(chain.up_y[:, t], chain.up_uv[:, t]) for t in range(chain.y.shape[1])]
                rows.setdefault(f"{scale:.2f}@{crf:g}", []).append(_figures(painted, chain, looks))
        table[kind] = {name: np.mean(found, 0).round(4).tolist() for name, found in sorted(rows.items())}
    return table


def _figures(painted: Painted, chain: faithful.Chain, looks: Looks) -> list[float]:
    last = len(painted) - 1
    (y, uv), source, up = painted[last], chain.y[:, last], chain.up_y[:, last]
    shown, true = (_middle(rgb(*planes)) for planes in ((y, uv), (source, chain.uv[:, last])))
    figures = list(faithful.measures(torch.stack([y for y, _ in painted], 1), chain))
    figures += [float(looks("alex", shown, true)), float(looks("dists", shown, true))]
    figures.append(math.sqrt(high(y) / max(1e-6, high(source))))
    pairs = [(y, painted[last - 1][0]), (source, chain.y[:, last - 1])]
    changes = [float(moved(now, before, chain, last).square().mean()) for now, before in pairs]
    figures.append(math.sqrt((changes[0] + 0.01) / (changes[1] + 0.01)))
    figures += woven(y, source, up)
    figures.append(float(excess(y - up, source - up)))
    octaves = (octave_energies(y) - octave_energies(source)).mean((0, 1)) * (10 / math.log(10))
    return figures + octaves.tolist()


def _middle(pictures: torch.Tensor) -> torch.Tensor:
    top, left = (max(0, side - JUDGED_CROP) // 2 for side in pictures.shape[2:])
    return pictures[:, :, top : top + JUDGED_CROP, left : left + JUDGED_CROP]


def means(table: dict[str, dict[str, list[float]]]) -> dict[str, list[float]]:
    return {kind: np.mean(list(rows.values()), 0).round(4).tolist() for kind, rows in table.items()}


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    begin = shipped_network if options.plain else widened
    network = begin(options.start).to(memory_format=torch.channels_last)
    looks = Looks()
    rng = np.random.default_rng(options.seed)
    loss_of = Loss(looks, rng, options)
    others = {"discriminator": (loss_of.discriminator, loss_of.optimiser)}
    run = Run(options.out, options.minutes, network, parameter_groups(network, options.rate, options.rate), others)
    if run.steps:
        loss_of.rng = rng = np.random.default_rng((options.seed, run.steps))
    shots = Shots(options.data, LENGTHS[-1][1], options.crop, options.native)
    shots.refresh()
    judged = judged_shots(options.data)
    painter = faithful.lightly(network, looks.light)
    run.report(shots=[len(shots.old), len(shots.native)], measures=[*MEASURES, "octaves"], options=str(options))

    def look(name: str, of: nn.Module | None, frames: int) -> None:
        painter = of and faithful.lightly(of.to(memory_format=torch.channels_last), looks.light)
        table = judge(painter, judged, looks, frames, JUDGED_SETTINGS)
        run.report(who=name, means=means(table), judged=table, frames=frames)

    if not run.steps and not options.unjudged:
        look("shipped", shipped_network(), JUDGED_FRAMES)
        look("start", begin(options.start), JUDGED_FRAMES)
    run.restart_clock()
    averaged = copy.deepcopy(network)
    next_log, next_save, next_look, found = run.spent + LOG_EVERY, run.spent + SAVE_EVERY, run.spent + 5.0, []
    while run.tick():
        length = next(n for share, n in LENGTHS if run.spent / run.minutes <= share)
        chain = shots.draw(rng, options.batch, length)
        loss, terms = loss_of(faithful.paint(painter, chain), chain, heard=run.steps >= ALONE)
        run.step(loss)
        found.append(terms | {"discriminator": loss_of.teach()})
        if run.spent >= next_log:
            names = sorted({name for terms in found for name in terms})
            run.report(terms={n: round(float(np.mean([t[n] for t in found if n in t])), 4) for n in names})
            next_log, found = run.spent + LOG_EVERY, []
        if run.spent >= next_save:
            run.save()
            run.export(options.out / "average.safetensors")
            next_save = run.spent + SAVE_EVERY
        if run.spent >= next_look:
            averaged.load_state_dict(run.average)
            look("natural", averaged, JUDGED_FRAMES)
            next_look = run.spent + options.judge_every
    run.save()
    run.export(options.out / "average.safetensors")
    averaged.load_state_dict(run.average)
    look("natural", averaged, JUDGED_FRAMES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--start", type=Path, required=True, help="weights of either shape")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--native", type=float, default=0.4, help="share of chains at native resolution")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--fidelity", type=float, default=FIDELITY)
    parser.add_argument("--steadiness", type=float, default=STEADINESS)
    parser.add_argument("--features", type=float, default=1.0)
    parser.add_argument("--adversary", type=float, default=ADVERSARY)
    parser.add_argument("--excess", type=float, default=EXCESS)
    parser.add_argument("--octaves", type=float, default=OCTAVES)
    parser.add_argument("--hold-back", type=float, default=0.0, help="share of the terms of looks, 0 to below 1")
    parser.add_argument("--plain", action="store_true", help="the shipped shape")
    parser.add_argument("--judge-every", type=float, default=9.0, help="minutes")
    parser.add_argument("--unjudged", action="store_true", help="leave out judging at the start")
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
