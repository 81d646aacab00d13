"""Print SHA-256 of everything the codec produces, to show that a refactoring changed no byte.

    python scripts/fingerprint.py > before.json        # before the change
    python scripts/fingerprint.py --compare before.json    # after it: exit code 1 and the names of what differs

Covered: .sdv files for every base, preset, quantizer, scale and rate-control mode, for clips and stills; what they
decode to, as raw .y4m or PNG; the H.264 of an MP4 and of `preview`; the numbers of a report; `latents`.

The hashes hold for one machine and one set of library versions only: the prefilter runs in bfloat16 or float32 by
processor, and encoders change their output between releases. So both runs belong on one machine, one after the other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

import sdvideo

SAMPLE = Path(__file__).parents[1] / "samples" / "walk.mp4"
FRAMES = 20

CLIP_SETTINGS = {
    **{f"av1-{preset}": {"preset": preset} for preset in ("fast", "balanced", "best")},
    **{f"av1-q{quality}": {"quality": quality, "preset": "fast"} for quality in (10, 30, 85)},
    **{f"av1-scale-{scale.replace('/', '-')}": {"scale": scale} for scale in ("1", "2/3", "1/2")},
    "av1-size": {"size": 6000},
    "av1-bitrate": {"bitrate": 60_000, "preset": "fast"},
    "av1-groups": {"keyint": 7, "quality": 25},
    "av1-groups-alone": {"keyint": 7, "quality": 25, "workers": 0},
    **{f"none-{preset}": {"base": "none", "preset": preset} for preset in ("fast", "balanced", "best")},
    **{f"none-q{quality}": {"base": "none", "quality": quality} for quality in (20, 40, 85)},
    "none-size": {"base": "none", "size": 9000},
    "none-groups": {"base": "none", "keyint": 6},
    "tiny": {"model": "tiny"},
    "tiny-best": {"model": "tiny", "preset": "best", "keyint": 8},
    "tiny-scale": {"model": "tiny", "scale": "2/3"},
    "tiny-8bit": {"model": "tiny", "quantizer": "8bit"},
    "tiny-palette": {"model": "tiny", "quantizer": "palette", "keyint": 8},
}
STILL_SETTINGS = {
    **{f"av1-{preset}": {"preset": preset} for preset in ("fast", "balanced", "best")},
    "av1-q20": {"quality": 20},
    "av1-q90": {"quality": 90},
    "none": {"base": "none"},
    "tiny-palette": {"model": "tiny", "quantizer": "palette"},
}


def fingerprints(folder: Path) -> Iterator[tuple[str, str]]:
    """Names and hashes of all outputs. folder: an empty one, for the files that are made on the way."""
    clip, still = folder / "clip.mkv", folder / "still.png"
    make_inputs(clip, still)
    for name, settings in CLIP_SETTINGS.items():
        yield from of_one(folder, f"clip {name}", clip, ".y4m", settings)
    for name, settings in STILL_SETTINGS.items():
        yield from of_one(folder, f"still {name}", still, ".png", settings)
    yield from of_one(folder, "sample", SAMPLE, ".mp4", {"preset": "fast"})


def of_one(folder: Path, name: str, source: Path, suffix: str, settings: dict) -> Iterator[tuple[str, str]]:
    coded, shown = folder / "coded.sdv", folder / f"shown{suffix}"
    sdvideo.encode(source, coded, overwrite=True, **settings)
    yield f"{name}: .sdv", sha256(coded.read_bytes())
    sdvideo.decode(coded, shown, overwrite=True)
    yield f"{name}: decoded", sha256(shown.read_bytes())
    report = json.loads(as_json(folder, source, coded))
    yield f"{name}: report", sha256(json.dumps([report["summary"], report["frames"]]).encode())
    with sdvideo.open(coded) as video:
        if settings.get("model") == "tiny":
            yield f"{name}: latents", sha256(np.ascontiguousarray(video.latents()).tobytes())
        if video.base == "av1":
            sdvideo.preview(coded, folder / "base.mp4", overwrite=True)
            yield f"{name}: preview", sha256((folder / "base.mp4").read_bytes())
    if sdvideo.verify(coded):
        raise SystemExit(f"{name}: verify found damage")


def as_json(folder: Path, source: Path, coded: Path) -> str:
    path = folder / "report.json"
    sdvideo.report(source, coded, json=path)
    return path.read_text()


def make_inputs(clip: Path, still: Path) -> None:
    """The first frames of the sample at 320 pixels width, lossless, and the first one as a picture."""
    with av.open(str(SAMPLE)) as source, av.open(str(clip), "w") as sink:
        rate = source.streams.video[0].average_rate
        stream = sink.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if number == FRAMES:
                break
            small = frame.reformat(320, 180, "yuv420p")
            if not number:
                frame.reformat(480, 270, "rgb24").to_image().save(still)
            small.pts, small.time_base = number, Fraction(1) / rate
            sink.mux(stream.encode(small))
        sink.mux(stream.encode(None))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, help="what an earlier run printed")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, digest in fingerprints(Path(folder)):
            found[name] = digest
            print(f"{len(found):4} {name}", file=sys.stderr)
    if args.compare is None:
        print(json.dumps(found, indent=1))
        return
    before = json.loads(args.compare.read_text())
    differing = [name for name in before | found if before.get(name) != found.get(name)]
    print("\n".join(differing) or f"all {len(found)} hashes are the same")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
