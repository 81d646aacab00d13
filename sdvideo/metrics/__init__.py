"""The measures of a report: how close a decoded video is to its source, and how steady it is.

To add a measure, compute it in a module of this folder (see `meter.py` for the interface) and add a row to MEASURES.
The report's summary, its JSON, CSV and page, and what the command line prints follow from the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this module is light to import; the meters need OpenCV
    from sdvideo.frames import StreamInfo

    from .meter import Meter


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of each frame.

    name: its JSON key and CSV column. title: its name for people. unit: "" if it has none. better: "higher", "lower" or
    "one" (best at 1). meter: "module:object", where the object, called with the StreamInfo of the source, returns the
    Meter that computes it, or None if that is not possible here. meaning: one sentence for the page.
    """

    name: str
    title: str
    unit: str
    better: str
    meter: str
    meaning: str


_FIDELITY = "sdvideo.metrics.fidelity:FidelityMeter"
_VMAF = "sdvideo.metrics.vmaf:vmaf_meter"
_FLICKER = "sdvideo.metrics.flicker:FlickerMeter"

# fmt: off
MEASURES = (
    Measure("psnr", "PSNR", "dB", "higher", _FIDELITY,
            "How small the error of luma and chroma together is. Above about 40 dB, few viewers see it."),
    Measure("psnr_y", "PSNR Y", "dB", "higher", _FIDELITY,
            "How small the error of luma is, which eyes see best."),
    Measure("psnr_u", "PSNR U", "dB", "higher", _FIDELITY,
            "How small the error of the blue–yellow colour difference is."),
    Measure("psnr_v", "PSNR V", "dB", "higher", _FIDELITY,
            "How small the error of the red–green colour difference is."),
    Measure("ssim", "SSIM", "", "higher", _FIDELITY,
            "How much of the structure (edges, texture, contrast) is preserved. 1 is all of it."),
    Measure("ms_ssim", "MS-SSIM", "", "higher", _FIDELITY,
            "SSIM at five scales, from fine to coarse. It agrees better with viewers than SSIM does."),
    Measure("vmaf", "VMAF", "", "higher", _VMAF,
            "How viewers would rate the picture, from 0 to 100, predicted by a model trained on such ratings."),
    Measure("vmaf_neg", "VMAF NEG", "", "higher", _VMAF,
            "VMAF without credit for sharpening and added contrast."),
    Measure("xpsnr", "XPSNR Y", "dB", "higher", _VMAF,
            "PSNR that weights errors by how visible they are in their place."),
    Measure("mcf", "MCF", "dB", "higher", _FLICKER,
            "How little the error changes while it moves with the content: visible flicker. 100 dB is none."),
    Measure("phi", "φ", "", "lower", _FLICKER,
            "The share of the error that flickers: 0 is fixed to the content, 1 is new noise in every frame, "
            "2 alternates."),
    Measure("r_w", "R_w", "", "one", _FLICKER,
            "Change along the motion, relative to that of the source. Above 1 is shimmer, below 1 smoothing."),
    Measure("delta_l", "ΔL", "grey levels", "lower", _FLICKER,
            "How much the mean brightness jumps from frame to frame where that of the source does not."),
    Measure("coverage", "Coverage", "", "higher", _FLICKER,
            "The share of the picture whose motion could be followed. The stability measures cover only this share."),
)
# fmt: on


def new_meters(info: StreamInfo) -> Iterator[Meter]:
    """The meters of all measures that can be taken here, each once. info: of the source."""
    for place in dict.fromkeys(measure.meter for measure in MEASURES):
        module, _, name = place.partition(":")
        meter: Meter | None = getattr(import_module(module), name)(info)
        if meter is not None:
            yield meter
