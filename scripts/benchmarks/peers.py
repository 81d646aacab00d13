"""The codecs sdvideo is compared with, as command lines of the ffmpeg that imageio-ffmpeg brings.

They are fed raw frames without a tag, and nothing is ever told a colour space, so that no code value is converted on
the way: from 8 to 10 bit ffmpeg multiplies by 4, and 10 bit come back here by rounding. At half size both directions
are ffmpeg's Lanczos.

Where quality is measured each encoder has one thread: in x264 and x265 threads that work on several frames at once
change the bits for the worse, so this is each at its best, and the same on every machine. The message in which x264
and x265 write down their settings (about 700 bytes a video, more than some of these videos) is left out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import av
import numpy as np

from material import Hole, Material
from sdvideo.frames import Picture
from sdvideo.metrics.vmaf import find_ffmpeg

_LANCZOS = "flags=lanczos+accurate_rnd+bitexact+full_chroma_inp"


@dataclass(frozen=True)
class Peer:
    """One encoder with its ladder.

    knob: the option that ladder's values go to. single: options that keep it to one thread. half: is it coded at half
    size and brought back? deep: is it coded in 10 bit?
    """

    name: str
    title: str
    options: tuple[str, ...]
    knob: str
    ladder: tuple[int, ...]
    single: tuple[str, ...]
    half: bool = False
    deep: bool = False

    @property
    def version(self) -> str:
        return ffmpeg_version()

    def settings(self, value: float) -> str:
        """All that decides about the bits beside the frames, in words."""
        size = "half size" if self.half else "full size"
        return " ".join((*self.options, self.knob, f"{value:g}", *self.single, size))

    def encode_command(self, material: Material, value: float, target: Path, single: bool) -> list[str]:
        form = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{material.width}x{material.height}"]
        source = [*form, "-r", str(material.rate), "-i", str(material.raw)]
        # Sizes of 4:2:0 have to be even at half size too.
        half = f"scale={material.width // 4 * 2}:{material.height // 4 * 2}:{_LANCZOS}"
        scale = ["-vf", half] if self.half else []
        depth = ["-pix_fmt", "yuv420p10le"] if self.deep else []
        threads = [*self.single, "-filter_threads", "1"] if single else []
        coding = [*self.options, self.knob, f"{value:g}", *depth, *threads]
        return [_ffmpeg(), "-v", "error", "-y", *source, *scale, *coding, str(target)]

    def decode_command(self, material: Material, coded: Path, target: str, single: bool) -> list[str]:
        """To raw frames at full size; target: "-" for standard output, or "null" for nowhere."""
        back = f"scale={material.width}:{material.height}:{_LANCZOS}"
        scale = ["-vf", back] if self.half else []
        out = ["-f", "null", "-"] if target == "null" else ["-f", "rawvideo", target]
        threads = ["-threads", "1"] if single else []
        # Frames as they are in the file, none repeated or left out for the sake of a clock.
        return [_ffmpeg(), "-v", "error", *threads, "-i", str(coded), *scale, "-fps_mode", "passthrough", *out]

    def encode(self, material: Material, value: float, folder: Path) -> tuple[Path, int]:
        """The coded file, and the bits of its video packets. Raises Hole if it does not hold every frame."""
        coded = folder / "coded.mp4"
        command = self.encode_command(material, value, coded, single=True)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["without a word"]
            raise Hole(f"the encoder failed: {lines[0]}")
        with av.open(str(coded)) as container:
            if not container.streams.video:
                raise Hole("the encoder wrote no video")
            sizes = [packet.size for packet in container.demux(video=0) if packet.size]
        return coded, 8 * sum(sizes)

    def decode(self, material: Material, coded: Path) -> Iterator[Picture]:
        """Its pictures, 8 bit and full size."""
        samples = np.dtype("<u2" if self.deep else "u1")
        command = self.decode_command(material, coded, "-", single=True)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            while len(data := process.stdout.read(material.picture_size * samples.itemsize)):
                frame = np.frombuffer(data, samples)
                if self.deep:
                    frame = np.minimum((frame + 2) >> 2, 255).astype(np.uint8)
                yield material.picture(frame)
        if process.returncode:
            raise Hole(f"the decoder failed with {process.returncode}")


_X264 = Peer(
    "x264",
    "x264 medium",
    ("-c:v", "libx264", "-preset", "medium", "-bsf:v", "filter_units=remove_types=6"),
    "-crf",
    (28, 32, 36, 40, 44, 48),
    ("-threads", "1"),
)
_X265 = Peer(
    "x265",
    "x265 medium",
    ("-c:v", "libx265", "-preset", "medium"),
    "-crf",
    (28, 32, 36, 40, 44, 48),
    ("-x265-params", "info=0:log-level=error:pools=1:frame-threads=1"),
)
_AV1 = Peer(
    "av1",
    "SVT-AV1 preset 6",
    ("-c:v", "libsvtav1", "-preset", "6"),
    "-crf",
    (30, 37, 44, 51, 57, 63),
    ("-svtav1-params", "lp=1"),
)
_VVC = Peer(
    "vvc",
    "VVenC faster",
    ("-c:v", "libvvenc", "-preset", "faster", "-qpa", "1"),
    "-qp",
    (30, 35, 39, 43, 47, 52),
    ("-threads", "1"),
    deep=True,
)


def _halved(peer: Peer) -> Peer:
    return replace(peer, name=f"{peer.name}-half", title=f"{peer.title}, half", half=True)


PEERS = (_X264, _halved(_X264), _X265, _halved(_X265), _AV1, _halved(_AV1), _VVC)


@cache
def _ffmpeg() -> str:
    found = find_ffmpeg()
    if found is None:
        raise SystemExit("the other codecs need an ffmpeg that has them: pip install imageio-ffmpeg")
    return found


@cache
def ffmpeg_version() -> str:
    said = subprocess.run([_ffmpeg(), "-version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return "ffmpeg " + said.split()[2].split("-")[0]
