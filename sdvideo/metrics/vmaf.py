"""VMAF, VMAF-NEG and XPSNR of every frame, measured by the ffmpeg of the extra `sdvideo[vmaf]`.

    with VmafMeter(info) as meter:
        for source, decoded in pairs:
            meter.add(source, decoded)
        print(meter.finish()["vmaf"])

The pictures of both videos go to ffmpeg as one raw stream, in which every frame holds the decoded picture above its
source. So frames are always compared by number, whatever their times are. Pictures of odd size lose their last column
or row: libvmaf reads 4:2:0 only in even sizes.
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
from sdvideo.motion.source_motion import SourceMotion

from .fidelity import MAX_DECIBEL
from .meter import Meter

SCORES = ("vmaf", "vmaf_neg", "xpsnr")

_MIN_SIDE = 32  # pixels that libvmaf needs for its four scales
_MODELS = r"version=vmaf_v0.6.1\:name=vmaf|version=vmaf_v0.6.1neg\:name=vmaf_neg"
_XPSNR_LUMA = re.compile(r"XPSNR y: *(\S+)")


def find_ffmpeg() -> str | None:
    """The path of the ffmpeg that imageio-ffmpeg brings, None if that is not installed."""
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    path: str = imageio_ffmpeg.get_ffmpeg_exe()
    return path


def vmaf_meter(info: StreamInfo) -> VmafMeter | None:
    """A meter for a video, None if ffmpeg is not installed or the pictures are too small for it."""
    if find_ffmpeg() is None or min(info.height, info.width) < _MIN_SIDE:
        return None
    return VmafMeter(info)


class VmafMeter(Meter):
    """Scores the frames of two videos.

    info: of the source; XPSNR depends on its frame rate. threads: of libvmaf. Raises SdvError if ffmpeg is not
    installed, or if a side of the pictures is below 32 pixels.
    """

    def __init__(self, info: StreamInfo, threads: int = 2) -> None:
        ffmpeg = find_ffmpeg()
        if ffmpeg is None:
            raise SdvError('VMAF needs an ffmpeg with libvmaf: pip install "sdvideo[vmaf]"')
        self._height, self._width = info.height // 2 * 2, info.width // 2 * 2
        if min(self._height, self._width) < _MIN_SIDE:
            raise SdvError(f"VMAF needs pictures of at least {_MIN_SIDE}x{_MIN_SIDE}")
        self._count = 0
        self._folder = tempfile.TemporaryDirectory(prefix="sdvideo-")
        # ffmpeg runs in this folder and names files without a path: in filter options a path would need escaping.
        self._log = (Path(self._folder.name) / "log.txt").open("w+", encoding="utf-8", errors="replace")
        size = f"{self._width}x{2 * self._height}"
        source = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-r", str(info.rate or 25), "-i", "-"]
        self._process = subprocess.Popen(
            [ffmpeg, "-hide_banner", "-v", "error", *source, "-lavfi", self._graph(threads), "-f", "null", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            cwd=self._folder.name,
        )
        assert self._process.stdin is not None
        self._input = self._process.stdin

    def _graph(self, threads: int) -> str:
        crop = f"crop={self._width}:{self._height}:0"
        # libvmaf takes the decoded video first; xpsnr weights errors by the content of its first input, the source.
        return (
            f"split[both][again];[both]{crop}:0,split[coded][coded2];[again]{crop}:{self._height},split[source][source2];"
            f"[coded][source]libvmaf=model='{_MODELS}':n_threads={threads}:log_fmt=json:log_path=vmaf.json[one];"
            "[source2][coded2]xpsnr=stats_file=xpsnr.txt,nullsink;[one]null"
        )

    def add(self, source: Picture, decoded: Picture, motion: SourceMotion | None = None) -> None:
        """Send the next frame to ffmpeg. Raises SdvError if ffmpeg has ended."""
        half = np.s_[: self._height // 2, : self._width // 2]
        try:
            for name, part in (("y", np.s_[: self._height, : self._width]), ("u", half), ("v", half)):
                for picture in (decoded, source):
                    self._input.write(np.ascontiguousarray(getattr(picture, name)[part]).data)
        except OSError as error:
            raise SdvError(f"ffmpeg stopped: {self._message()}") from error
        self._count += 1

    def finish(self) -> dict[str, list[float]]:
        """A list for each of SCORES, with a number per frame: VMAF 0..100; XPSNR of luma in dB, at most MAX_DECIBEL.

        Raises SdvError if ffmpeg failed or did not score every frame.
        """
        with suppress(OSError):  # if ffmpeg has ended, its exit code shows the failure
            self._input.close()
        if self._process.wait():
            raise SdvError(f"ffmpeg failed: {self._message()}")
        folder = Path(self._folder.name)
        frames = json.loads((folder / "vmaf.json").read_text())["frames"]
        luma = _XPSNR_LUMA.findall((folder / "xpsnr.txt").read_text())[: len(frames)]
        scores = {name: [float(frame["metrics"][name]) for frame in frames] for name in SCORES[:2]}
        scores["xpsnr"] = [MAX_DECIBEL if math.isinf(db) else min(MAX_DECIBEL, db) for db in map(float, luma)]
        if any(len(values) != self._count for values in scores.values()):
            raise SdvError(f"ffmpeg scored {len(frames)} of {self._count} frames")
        return scores

    def _message(self) -> str:
        """The first line that ffmpeg wrote about what went wrong."""
        self._log.seek(0)
        lines = self._log.read().split("\n")
        return next((line for line in lines if line.strip()), "no message")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # what is left in the buffer has no reader
            self._input.close()
        self._log.close()
        self._folder.cleanup()
