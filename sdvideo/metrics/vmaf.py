"""VMAF, VMAF-NEG and XPSNR of every frame, measured by the ffmpeg of the extra `sdvideo[vmaf]`.

    with Scorer(info) as scorer:
        for original, coded in pairs:
            scorer.add(original, coded)
        print(scorer.finish()["vmaf"])

The pictures of both videos go to ffmpeg as one raw stream, the coded one above the original in every frame, so that
the same frame number always meets the same frame number, whatever the times in the files are. Odd sizes lose their
last column or line: libvmaf reads 4:2:0 of even sizes only.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from sdvideo.errors import SdvError
from sdvideo.frames import Picture, StreamInfo

from .fidelity import BEST

SCORES = ("vmaf", "vmaf_neg", "xpsnr")

_LEAST_SIDE = 32  # pixels libvmaf needs for its four scales
_MODELS = r"version=vmaf_v0.6.1\:name=vmaf|version=vmaf_v0.6.1neg\:name=vmaf_neg"
_XPSNR_LUMA = re.compile(r"XPSNR y: *(\S+)")


def find_ffmpeg() -> str | None:
    """The ffmpeg that imageio-ffmpeg brings, None where it is not installed."""
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    return imageio_ffmpeg.get_ffmpeg_exe()


def can_score(info: StreamInfo) -> bool:
    """Is ffmpeg installed, and are the pictures large enough for it?"""
    return find_ffmpeg() is not None and min(info.height, info.width) >= _LEAST_SIDE


class Scorer:
    """Takes the frames of two videos side by side and scores them; a context manager.

    info: of the video; of its rate XPSNR depends. threads: libvmaf's. Raises SdvError where ffmpeg is not installed or
    the pictures are too small.
    """

    def __init__(self, info: StreamInfo, threads: int = 2):
        ffmpeg = find_ffmpeg()
        if ffmpeg is None:
            raise SdvError('VMAF needs an ffmpeg that has it: pip install "sdvideo[vmaf]"')
        self._height, self._width = info.height // 2 * 2, info.width // 2 * 2
        if min(self._height, self._width) < _LEAST_SIDE:
            raise SdvError(f"VMAF needs pictures of at least {_LEAST_SIDE}x{_LEAST_SIDE}")
        self._count = 0
        self._folder = tempfile.TemporaryDirectory(prefix="sdvideo-")
        # Files are named within the folder ffmpeg runs in: filter options would need their paths escaped.
        self._talk = (Path(self._folder.name) / "talk.txt").open("w+", encoding="utf-8", errors="replace")
        size = f"{self._width}x{2 * self._height}"
        source = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-r", str(info.rate or 25), "-i", "-"]
        self._process = subprocess.Popen(
            [ffmpeg, "-hide_banner", "-v", "error", *source, "-lavfi", self._graph(threads), "-f", "null", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._talk,
            cwd=self._folder.name,
        )

    def _graph(self, threads: int) -> str:
        crop = f"crop={self._width}:{self._height}:0"
        # libvmaf takes the coded video first; xpsnr weights errors by what is in its first input: the source.
        return (
            f"split[both][again];[both]{crop}:0,split[coded][coded2];[again]{crop}:{self._height},split[source][source2];"
            f"[coded][source]libvmaf=model='{_MODELS}':n_threads={threads}:log_fmt=json:log_path=vmaf.json[one];"
            "[source2][coded2]xpsnr=stats_file=xpsnr.txt,nullsink;[one]null"
        )

    def add(self, original: Picture, coded: Picture) -> None:
        """The next frame of both videos. Raises SdvError if ffmpeg has ended."""
        half = np.s_[: self._height // 2, : self._width // 2]
        try:
            for name, part in (("y", np.s_[: self._height, : self._width]), ("u", half), ("v", half)):
                for picture in (coded, original):
                    self._process.stdin.write(np.ascontiguousarray(getattr(picture, name)[part]).data)
        except OSError as error:
            raise SdvError(f"ffmpeg stopped: {self._said()}") from error
        self._count += 1

    def finish(self) -> dict[str, list[float]]:
        """A list for each of SCORES, a number per frame: VMAF 0..100, XPSNR of luma in dB, at most BEST.

        Raises SdvError if ffmpeg failed or did not score every frame.
        """
        with suppress(OSError):  # it has ended; its exit code tells how
            self._process.stdin.close()
        if self._process.wait():
            raise SdvError(f"ffmpeg failed: {self._said()}")
        folder = Path(self._folder.name)
        frames = json.loads((folder / "vmaf.json").read_text())["frames"]
        luma = _XPSNR_LUMA.findall((folder / "xpsnr.txt").read_text())[: len(frames)]
        scores = {name: [float(frame["metrics"][name]) for frame in frames] for name in SCORES[:2]}
        scores["xpsnr"] = [BEST if math.isinf(value) else min(BEST, value) for value in map(float, luma)]
        if any(len(values) != self._count for values in scores.values()):
            raise SdvError(f"ffmpeg scored {len(frames)} of {self._count} frames")
        return scores

    def _said(self) -> str:
        self._talk.seek(0)
        lines = self._talk.read().split("\n")
        return next((line for line in lines if line.strip()), "without a word")

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # what was not read yet has no reader now
            self._process.stdin.close()
        self._talk.close()
        self._folder.cleanup()
