"""One point of a ladder: bits, and all measures of what comes out against the prepared source."""

from __future__ import annotations

import math
import signal
import statistics
import tempfile
from itertools import zip_longest
from pathlib import Path

import cv2

from material import Hole, Material
from ours import Ours
from peers import Peer
from sdvideo.metrics.fidelity import psnr, structural_similarity
from sdvideo.metrics.flicker import flicker, mean_flicker
from sdvideo.metrics.vmaf import VmafMeter


def one_thread_each() -> None:
    """For a worker that runs beside others."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends it without a word, the run has one
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def measure_point(material: Material, codec: Ours | Peer, value: float) -> dict:
    """What results.json holds of it; of a point that the codec cannot do the reason, as "hole"."""
    with tempfile.TemporaryDirectory(dir=material.folder) as folder:
        try:
            coded, bits = codec.encode(material, value, Path(folder))
            measures = compare(material, codec, coded)
        except Hole as hole:
            return {"hole": str(hole)}
    return {"bits": bits, "bpp": bits / (material.width * material.height * material.frames), **measures}


def compare(material: Material, codec: Ours | Peer, coded: Path) -> dict[str, float | None]:
    """Means over the frames. Raises Hole if there are not as many as in the source."""
    planes, similarities, flickers, before = [], [], [], None
    count = 0
    with VmafMeter(material.info, threads=1) as scorer:
        rows = zip_longest(material.pictures(), material.motions(), codec.decode(material, coded))
        for original, motion, shown in rows:
            if original is not None and shown is not None:
                scorer.add(original, shown)
                planes.append(psnr(original, shown)[1])
                similarities.append(structural_similarity(original.y, shown.y)[1])
                # At a cut there is no motion to follow.
                if motion is not None and not motion.cut:
                    flickers.append(flicker(motion, before[0].y, original.y, before[1].y, shown.y))
                before = original, shown
            count += shown is not None
        if count != material.frames:
            raise Hole(f"{count} of {material.frames} frames came out")
        scores = scorer.finish()
    seen = [found for found in flickers if found is not None]
    steadiness = mean_flicker(seen) if seen else None
    found = {
        "psnr_y": statistics.fmean(planes),
        "ms_ssim": statistics.fmean(similarities),
        **{name: statistics.fmean(values) for name, values in scores.items()},
        "mcf": steadiness.mcf if steadiness else math.nan,
        "phi": steadiness.phi if steadiness else math.nan,
        "r_w": steadiness.r_w if steadiness else math.nan,
    }
    return {name: None if math.isnan(value) else value for name, value in found.items()}
