"""What the training scripts of the wider network share: the shots, and a run that can be interrupted.

Shots are the arrays of prepare_base.py. Files whose name starts with "judge_" are held back. Crops at their native
resolution (files with "train3" in their name) are drawn by a share of their own, since there are fewer of them.
Files may still be arriving while a run goes on.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import train_restore as faithful

_KEPT = 0.998  # of the averaged weights at each step, once there are many
_WARM_STEPS = 100  # until the full rate
_LOWEST_PACE = 0.01  # of the rate, at the end


class Shots:
    """The training shots, old (scaled down) and native."""

    def __init__(self, folder: Path, shortest: int, crop: int, native_share: float):
        self._folder, self._shortest, self._crop, self._native_share = folder, shortest, crop, native_share
        self._seen: set[Path] = set()
        self.old: list[faithful.Shot] = []
        self.native: list[faithful.Shot] = []

    def refresh(self) -> None:
        """Load what has arrived since the last time."""
        for path in sorted(set(self._folder.glob("train*.npz")) - self._seen):
            self._seen.add(path)
            shot = faithful.Shot(path, "cpu")
            if shot.frames >= self._shortest and min(shot.height, shot.width) >= self._crop:
                (self.native if path.name.startswith("train3") else self.old).append(shot)

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> faithful.Chain:
        """Random crops of random chains, each mirrored or not."""
        chains = []
        for _ in range(batch):
            shots = self.native if self.native and rng.random() < self._native_share else self.old
            chains.append(faithful.draw(shots, rng, 1, self._crop, length))
        names = [field.name for field in fields(faithful.Chain)]
        return faithful.Chain(*(torch.cat([getattr(chain, name) for chain in chains]) for name in names))


def judged_shots(folder: Path) -> dict[str, list[faithful.Shot]]:
    """The held-back shots, of both kinds."""
    paths = sorted(folder.glob("judge_*.npz"))
    kinds = {"old": [], "native": []}
    for path in paths:
        kinds["native" if "train3" in path.name else "old"].append(faithful.Shot(path, "cpu"))
    return kinds


class Run:
    """Network, optimisers, averaged weights and clock of a run; all of it survives an interruption.

    groups: parameter groups of the network for Adam, each with its "rate". others: modules with an optimiser of their
    own, by name, as a discriminator has. The clock counts the time the run itself went on.
    """

    def __init__(
        self,
        out: Path,
        minutes: float,
        network: nn.Module,
        groups: list[dict],
        others: dict[str, tuple[nn.Module, torch.optim.Optimizer]] | None = None,
    ):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.minutes, self.network, self.others = out, minutes, network, others or {}
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.steps, self.spent = 0, 0.0
        if self._checkpoint.exists():
            self._resume()
        self._began = time.monotonic() - 60 * self.spent

    def restart_clock(self) -> None:
        """Leave out of the run's time what went before its first step."""
        self._began = time.monotonic() - 60 * self.spent

    @property
    def _checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average, self.steps, self.spent = state["average"], state["steps"], state["spent"]
        self.optimiser.load_state_dict(state["optimiser"])
        for name, (module, optimiser) in self.others.items():
            module.load_state_dict(state["others"][name][0])
            optimiser.load_state_dict(state["others"][name][1])

    def save(self) -> None:
        """Write under another name first, so that there is a whole checkpoint at any time."""
        state = {"network": self.network.state_dict(), "average": self.average, "steps": self.steps}
        state |= {"spent": self.spent, "optimiser": self.optimiser.state_dict()}
        state["others"] = {name: [m.state_dict(), o.state_dict()] for name, (m, o) in self.others.items()}
        new = self._checkpoint.with_suffix(".new")
        torch.save(state, new)
        new.replace(self._checkpoint)

    def tick(self) -> bool:
        """Look at the clock and set the pace; False when the time is up."""
        self.spent = (time.monotonic() - self._began) / 60
        pace = 0.5 * (1 + math.cos(math.pi * min(1, self.spent / self.minutes)))
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * min(1, (self.steps + 1) / _WARM_STEPS) * max(_LOWEST_PACE, pace)
        return self.spent < self.minutes

    def step(self, loss: torch.Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        size = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
        if torch.isfinite(size):  # one bad step must not spoil the weights
            self.optimiser.step()
        self.steps += 1
        keep = min(_KEPT, self.steps / (self.steps + 20))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)

    def report(self, **row) -> None:
        line = json.dumps({"minutes": round(self.spent, 2), "steps": self.steps} | row)
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a") as log:
            print(line, file=log)

    def export(self, path: Path) -> None:
        """The averaged weights, in half precision."""
        halves = {name: value.half().contiguous() for name, value in self.average.items()}
        new = path.with_suffix(".new")
        safetensors.torch.save_file(halves, new)
        new.replace(path)


def parameter_groups(network: nn.Module, trunk_rate: float, branch_rate: float) -> list[dict]:
    """A fresh branch learns faster than a trained trunk."""
    branch = [value for name, value in network.named_parameters() if name.startswith("branch.")]
    trunk = [value for name, value in network.named_parameters() if not name.startswith("branch.")]
    groups = [{"params": trunk, "rate": trunk_rate, "lr": trunk_rate}]
    return groups + ([{"params": branch, "rate": branch_rate, "lr": branch_rate}] if branch else [])
