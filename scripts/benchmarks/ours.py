"""sdvideo as one of the codecs that are compared."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sdvideo
from material import Material
from sdvideo.codecs.latent.model_loading import load_model
from sdvideo.frames import Picture
from sdvideo.restoration.loading import restorer_id
from sdvideo.settings import PRESETS

DEFAULT_PRESET = "balanced"
# Qualities that reach from the fewest bits there are up to where the other codecs' ladders end.
_FULL = {"none": (0, 8, 16, 25, 35, 48), "av1": (0, 12, 24, 36, 50, 65)}
_FEW = {"none": (0, 16, 35, 48), "av1": (0, 20, 40, 65)}


@dataclass(frozen=True)
class Ours:
    """sdvideo from one base with one preset.

    sha256: of the model its files would name.
    """

    base: str
    preset: str
    sha256: str

    @property
    def name(self) -> str:
        return f"sdvideo-{self.base}-{self.preset}"

    @property
    def title(self) -> str:
        return f"sdvideo, base {self.base}, {self.preset}"

    @property
    def ladder(self) -> tuple[int, ...]:
        return (_FULL if self.preset == DEFAULT_PRESET else _FEW)[self.base]

    @property
    def version(self) -> str:
        return f"sdvideo {sdvideo.__version__} model {self.sha256[:12]}"

    def settings(self, value: float) -> str:
        return f"--base {self.base} --preset {self.preset} --quality {value:g}"

    def encode_command(self, material: Material, value: float, target: Path, single: bool) -> list[str]:
        options = ["--base", self.base, "--preset", self.preset, "--quality", f"{value:g}", "--device", "cpu"]
        return [*_COMMAND, "encode", str(material.y4m), "--output", str(target), "--yes", "--quiet", *options]

    def decode_command(self, material: Material, coded: Path, target: str, single: bool) -> list[str]:
        return [*_COMMAND, "decode", str(coded), "--output", target, "--yes", "--quiet", "--device", "cpu"]

    def encode(self, material: Material, value: float, folder: Path) -> tuple[Path, int]:
        """The .sdv, and the bits of the whole file."""
        coded = folder / "coded.sdv"
        options = {"quality": value, "preset": self.preset, "base": self.base, "device": "cpu"}
        done = sdvideo.encode(material.y4m, coded, overwrite=True, **options)
        return coded, 8 * done.bytes

    def decode(self, material: Material, coded: Path) -> Iterator[Picture]:
        with sdvideo.open(coded, device="cpu") as video:
            for frame in video:
                yield frame.picture


_COMMAND = (sys.executable, "-m", "sdvideo")


def ours(bases: list[str]) -> list[Ours]:
    found = []
    for base in bases:
        model = load_model(device="cpu").id if base == "none" else restorer_id()
        found += [Ours(base, preset, model.sha256) for preset in PRESETS]
    return found
