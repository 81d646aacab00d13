"""Frames with side data that PyAV cannot name or frees twice: they are read, and turned upright."""

from __future__ import annotations

import gc
import io
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms
from test_cli import objects, run
from test_image import assert_alike, photo

import sdvideo
from sdvideo.media.colour import to_rgb
from sdvideo.media.probing.side_data import SideDataReader
from sdvideo.media.source import open_source

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def film(path: Path, codec: str, pictures: list[bytes], pix_fmt: str) -> Path:
    """A video whose packets are these coded pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        for number, data in enumerate(pictures):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            container.mux(packet)
    return path


def pngs(count: int) -> list[bytes]:
    """PNGs with a colour profile, whose name FFmpeg stores as metadata of the side data."""
    found = []
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (96, 64), (40 * number, 100, 50)).save(file, "PNG", icc_profile=ICC)
        found.append(file.getvalue())
    return found


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", [".avi", ".mov"])
def test_exif_in_motion_jpeg(tmp_path, suffix, orientation):
    """FFmpeg has side data for EXIF, which PyAV cannot name, and turns its orientation into a display matrix."""
    exif = Image.Exif()
    exif[271], exif[274] = "a camera", orientation  # Make, Orientation
    file = io.BytesIO()
    photo(96, 64).save(file, "JPEG", exif=exif, quality=95)
    with open_source(film(tmp_path / f"film{suffix}", "mjpeg", [file.getvalue()] * 3, "yuvj420p")) as video:
        frames = list(video.frames())
    (tmp_path / "still.jpg").write_bytes(file.getvalue())
    with open_source(tmp_path / "still.jpg") as still:
        (expected,) = still.frames()
    assert len(frames) == 3
    found, wanted = (Image.fromarray(to_rgb(one.picture, still.info.colour)) for one in (frames[2], expected))
    assert_alike(found, wanted, most=4)


def test_a_batch_with_videos_of_pngs_that_have_a_profile(tmp_path):
    """PyAV would free the profile's name twice, and the process would end with a segmentation fault."""
    for name in "ab":
        film(tmp_path / f"{name}.mov", "png", pngs(4), "rgb24")
    photo().save(tmp_path / "c.png")
    found = objects(run("encode", tmp_path, "--preset", "fast", "-o", f"{tmp_path / 'out'}/", "--json"))
    assert [one["frames"] for one in found] == [4, 4, 1]


def test_reading_one_kind_of_side_data(tmp_path):
    with av.open(str(film(tmp_path / "a.mov", "png", pngs(3), "rgb24"))) as container:
        reader = SideDataReader("DISPLAYMATRIX")
        for frame in container.decode(video=0):
            assert reader.read(frame) is None
            assert np.unique(frame.to_ndarray()[:, :, 1]) == 100  # the frame itself is left as it is
            del frame
            gc.collect()
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame(96, 64, "yuv420p")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "turned.mp4")) as container:
        matrices = [reader.read(frame) for frame in container.decode(video=0)]
    assert [len(matrix) for matrix in matrices] == [36]


def test_no_other_module_touches_what_pyav_frees_twice():
    package = Path(sdvideo.__file__).parent
    users = {path.name for path in package.rglob("*.py") if re.search(r"\.side_data\b(?! import)", path.read_text())}
    assert users == {"side_data.py"}
