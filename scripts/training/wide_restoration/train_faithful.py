"""Train the wider restoration network for fidelity, from the shipped weights.

    python prepare_base.py data FOLDER [FOLDER ...]
    python train_faithful.py data --out run --minutes 60            start, or go on where it was
    python train_faithful.py data --out run --minutes 60 --plain    the shipped shape, for comparison

The loss is that of train_restore.py. Held-back shots are judged every few minutes, and the shipped network once, at the
start: the log has PSNR-Y, MS-SSIM and MCF by scale and crf, and what was gained on the shipped network on the average.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_restore as faithful
from course import Run, Shots, judged_shots, parameter_groups
from sdvideo.restoration.network import RestorationNetwork
from sdvideo.weights import RESTORATION
from wide_network import widened

LENGTHS = ((0.15, 3), (0.7, 5), (1.0, 8))  # up to this share of the run, chains of so many frames
SAVE_EVERY, LOG_EVERY = 4.0, 2.0  # minutes
JUDGED_FRAMES = 6
MEASURES = ("psnr_y", "ms_ssim", "mcf")
Table = dict[str, dict[str, dict[str, float]]]


def shipped_network(path: Path = RESTORATION) -> RestorationNetwork:
    """A network of the shipped shape, with the weights of a file."""
    network = RestorationNetwork()
    network.load_state_dict({k: v.float() for k, v in safetensors.torch.load_file(path).items()})
    return network


@torch.no_grad()
def judge(network: Callable[..., torch.Tensor], judged: dict[str, list[faithful.Shot]], frames: int) -> Table:
    """Means over the shots of each kind, by scale and crf."""
    table: Table = {}
    for kind, shots in judged.items():
        rows: dict[str, list] = {}
        for shot in shots:
            for variant, (crf, scale) in enumerate(shot.base):
                chain = shot.whole(variant, frames)
                y = torch.stack([y for y, _ in faithful.paint(network, chain, rounded=True)], 1)
                rows.setdefault(f"{scale:.2f}@{crf:g}", []).append(faithful.measures(y, chain))
        table[kind] = {
            name: dict(zip(MEASURES, np.mean(found, 0).round(5).tolist())) for name, found in sorted(rows.items())
        }
    return table


def gains(table: Table, before: Table) -> dict[str, list[float]]:
    """Of each kind of shots, gained on `before`: PSNR-Y, MS-SSIM and MCF in dB, means over scales and crfs."""

    def decibels(row: dict[str, float]) -> list[float]:
        return [row["psnr_y"], -10 * math.log10(1 - row["ms_ssim"]), row["mcf"]]

    result = {}
    for kind, rows in table.items():
        differences = [np.subtract(decibels(row), decibels(before[kind][name])) for name, row in rows.items()]
        result[kind] = np.mean(differences, 0).round(4).tolist()
    return result


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    network = shipped_network() if options.plain else widened(RESTORATION)
    network = network.to(memory_format=torch.channels_last)
    run = Run(options.out, options.minutes, network, parameter_groups(network, options.rate, options.branch_rate))
    rng = np.random.default_rng((options.seed, run.steps))
    shots = Shots(options.data, LENGTHS[-1][1], options.crop, options.native)
    shots.refresh()
    judged = judged_shots(options.data)
    light = torch.autocast("cpu", torch.bfloat16)
    painter, similarity = faithful.lightly(network, light), faithful.Similarity("cpu")

    def judged_now(of: nn.Module, frames: int) -> Table:
        return judge(faithful.lightly(of.to(memory_format=torch.channels_last), light), judged, frames)

    held = {kind: len(of) for kind, of in judged.items()}
    run.report(shots=[len(shots.old), len(shots.native)], held_back=held, macs=network.macs(), options=str(options))
    before = judged_now(shipped_network(), JUDGED_FRAMES)
    run.report(shipped=before, frames=JUDGED_FRAMES)
    run.restart_clock()

    averaged = copy.deepcopy(network)

    def look(frames: int, against: Table) -> None:
        run.save()
        averaged.load_state_dict(run.average)
        table = judged_now(averaged, frames)
        run.report(gained=gains(table, against), judged=table, frames=frames)

    next_log, next_save, next_look, losses = run.spent + LOG_EVERY, run.spent + SAVE_EVERY, run.spent + 3.0, []
    while run.tick():
        length = next(n for share, n in LENGTHS if run.spent / run.minutes <= share)
        chain = shots.draw(rng, max(1, round(options.batch * 5 / max(5, length))), length)
        loss = faithful.loss_of(painter, similarity, chain)
        run.step(loss)
        losses.append(loss.detach())
        if run.spent >= next_log:
            run.report(loss=round(float(torch.stack(losses).mean()), 4), shots=[len(shots.old), len(shots.native)])
            next_log, losses = run.spent + LOG_EVERY, []
        if run.spent >= next_save:
            run.save()
            shots.refresh()
            next_save = run.spent + SAVE_EVERY
        if run.spent >= next_look:
            look(JUDGED_FRAMES, before)
            next_look = run.spent + options.judge_every
    run.save()
    run.export(options.out / "average.safetensors")
    look(JUDGED_FRAMES, before)
    if options.whole:
        before = judged_now(shipped_network(), 1000)
        run.report(shipped=before, frames=1000)
        look(1000, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--plain", action="store_true", help="the shipped shape")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--native", type=float, default=0.4, help="share of chains at native resolution")
    parser.add_argument("--rate", type=float, default=7e-4, help="of the trunk")
    parser.add_argument("--branch-rate", type=float, default=1.5e-3)
    parser.add_argument("--judge-every", type=float, default=8.0, help="minutes")
    parser.add_argument("--whole", action="store_true", help="judge whole shots at the end, too")
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
