"""What one run of the bench found, and the measures by which codecs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from curves import Points
from ours import DEFAULT_PRESET, Ours
from peers import Peer
from stills import Format, OurFormat


@dataclass(frozen=True)
class Measure:
    """One measure of quality.

    least: how much of it two curves must share to be compared. scale: from what results.json has to what is compared.
    """

    name: str
    title: str
    axis: str
    least: float
    scale: Callable[[float], float] = float
    better: str = "higher"


def similarity_decibel(value: float) -> float:
    return -10 * math.log10(max(1 - value, 1e-10))


MEASURES = (
    Measure("ms_ssim", "MS-SSIM", "MS-SSIM, −10 log10(1 − x), dB", 0.5, similarity_decibel),
    Measure("vmaf", "VMAF", "VMAF, 0 to 100", 2),
    Measure("vmaf_neg", "VMAF-NEG", "VMAF-NEG, 0 to 100", 2),
    Measure("xpsnr", "XPSNR", "XPSNR of luma, dB", 0.5),
    Measure("psnr_y", "PSNR-Y", "PSNR of luma, dB", 0.5),
    Measure("mcf", "MCF", "MCF, motion-compensated flicker PSNR, dB", 0.5),
)
PHI = Measure("phi", "φ", "φ, share of the error that flickers", 0, better="lower")


@dataclass
class Findings:
    """points: by clip and codec, in the order of the ladder, holes among them. runs: of the speed part, likewise.

    pictures: by picture and format. clips: by name, what Clip.about says.
    """

    clips: dict[str, dict]
    codecs: list[Ours | Peer]
    formats: list[Format | OurFormat]
    frames: int
    short: int
    machine: str
    points: dict[tuple[str, str], list[dict]] = field(default_factory=dict)
    runs: dict[tuple[str, str], list[dict]] = field(default_factory=dict)
    pictures: dict[str, dict[str, list[dict]]] = field(default_factory=dict)

    @property
    def ours(self) -> list[Ours]:
        return [codec for codec in self.codecs if isinstance(codec, Ours)]

    @property
    def defaults(self) -> list[Ours]:
        """Ours with the default preset, one for each base."""
        return [codec for codec in self.ours if codec.preset == DEFAULT_PRESET]

    @property
    def peers(self) -> list[Peer]:
        return [codec for codec in self.codecs if isinstance(codec, Peer)]

    @property
    def rivals(self) -> dict[str, list[Peer]]:
        """By title: each peer, and after a peer's half size both sizes at once."""
        rivals, names = {}, {peer.name: peer for peer in self.peers}
        for peer in self.peers:
            rivals[peer.title] = [peer]
            full = names.get(peer.name.removesuffix("-half"))
            if peer.half and full is not None:
                rivals[f"{full.title}, either size"] = [full, peer]
        return rivals

    def curve(self, clip: str, codec: Ours | Peer, measure: Measure) -> Points:
        """(bits per pixel, value) of the points that have one. The ends of a scale tell nothing: they are clipped."""
        rows = self.points.get((clip, codec.name), [])
        values = [(row["bpp"], row[measure.name]) for row in rows if row.get(measure.name) is not None]
        return [(bpp, measure.scale(value)) for bpp, value in values if 0 < value < 100]

    def holes(self) -> list[str]:
        return [
            f"{clip}, {codec.title}, {row['value']:g}: {row['hole']}"
            for clip in self.clips
            for codec in self.codecs
            for row in self.points.get((clip, codec.name), [])
            if "hole" in row
        ]
