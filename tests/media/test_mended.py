"""What is wrong with files is mended and named, and refused where nothing may be lost: damage, times, changes."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from conftest import synthesise
from files import TONE, X264, ffmpeg, pattern, read, refused, seconds_of

import sdvideo
from sdvideo.media.source import open_source

# --- damage -------------------------------------------------------------------------------------------------


def smash(path: Path, target: Path, first: int, last: int) -> None:
    """Copy a file with the payload of video packets first..last-1 zeroed."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for i, packet in enumerate(container.demux(video=0)):
            if packet.size and first <= i < last:
                at = data.index(bytes(packet))
                data[at : at + packet.size] = bytes(packet.size)
    target.write_bytes(data)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_hole_keeps_the_picture_before_it(tmp_path: Path, said, suffix: str) -> None:
    whole, hurt = tmp_path / f"whole.{suffix}", tmp_path / f"hurt.{suffix}"
    ffmpeg(*pattern(4), *TONE, *X264, "-g", 10, "-bf", 0, "-c:a", "mp3", whole)
    smash(whole, hurt, 10, 24)
    before, (source, frames) = seconds_of(*read(whole)), read(hurt)
    times = seconds_of(source, frames)
    assert times[:10] == before[:10] and times[-10:] == before[-10:] and 20 <= len(frames) <= 26
    (line,) = [line for line in said() if "damaged pictures" in line]
    assert f"{40 - len(frames)} left out, where the picture before stays" in line
    assert "damaged pictures" in refused(hurt, tmp_path)


def test_a_hole_is_no_black_in_the_decoded_video(tmp_path: Path) -> None:
    ffmpeg(*pattern(3), *X264, "-g", 10, "-bf", 0, tmp_path / "whole.mp4")
    smash(tmp_path / "whole.mp4", tmp_path / "hurt.mp4", 10, 20)
    sdvideo.encode(tmp_path / "hurt.mp4", tmp_path / "a.sdv", preset="fast")
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
        times = [frame.time for frame in frames]
    assert np.diff(times).max() == pytest.approx(1.1, abs=0.02) and min(f.to_ndarray().mean() for f in frames) > 30


CUT = {
    "mp4": (*X264, "-bf", "2", "-movflags", "faststart"),
    "mov": (*X264, "-bf", "2", "-g", "10", "-movflags", "frag_keyframe+empty_moov"),
    "mkv": (*X264, "-bf", "2"),
    "ts": (*X264, "-bf", "2"),
    "flv": (*X264, "-bf", "2"),
    "avi": ("-c:v", "mpeg4", "-bf", "2"),
    "mxf": ("-c:v", "mpeg2video", "-bf", "2", "-r", "25"),
    "ogv": ("-c:v", "libtheora"),
}


@pytest.mark.parametrize("suffix", sorted(CUT))
def test_every_whole_picture_of_a_cut_file_is_read(tmp_path: Path, said, suffix: str) -> None:
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    ffmpeg(*pattern(size="176x120"), *CUT[suffix], whole)
    data = whole.read_bytes()
    for part in (0.5, 0.57, 0.68, 0.74, 0.85):
        cut.write_bytes(data[: int(len(data) * part)])
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-nostdin", "-i", str(cut)]
        shown = subprocess.run(
            [*command, "-fps_mode", "passthrough", "-f", "framecrc", "-"], capture_output=True
        ).stdout
        expected = sum(not line.startswith(b"#") for line in shown.splitlines())
        assert len(read(cut)[1]) >= expected, (part, expected)
    assert not any("temporarily" in line for line in said())


# --- changes in mid-stream ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["h264", "ts"])
def test_other_sizes_are_scaled_to_the_first(tmp_path: Path, said, suffix: str) -> None:
    parts = []
    for width in (96, 192):
        part = tmp_path / f"{width}.{suffix}"
        ffmpeg(*pattern(0.5), "-vf", f"scale={width}:64", *X264, part)
        parts.append(part.read_bytes())
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(b"".join(parts))
    frames = read(path)[1]
    assert len(frames) == 10
    assert {(f.picture.width, f.picture.height) for f in frames} == {(96, 64)}
    apart = np.abs(frames[7].picture.y.astype(int) - frames[2].picture.y)
    assert apart.mean() < 12  # the same moment of the pattern
    assert sum("the picture size changes in mid-stream" in line for line in said()) == 1
    refused(path, tmp_path)


def test_another_range_becomes_that_of_the_first(tmp_path: Path, said) -> None:
    parts = []
    for span in ("tv", "pc"):
        part = tmp_path / f"{span}.ts"
        ffmpeg(*pattern(0.5), "-vf", f"scale=out_range={span},format=yuv420p,setparams=range={span}", *X264[:-2], part)
        parts.append(part.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    source, frames = read(path)
    assert not source.info.colour.full_range
    assert np.abs(frames[7].picture.y.astype(int) - frames[2].picture.y).mean() < 3
    assert sum("range or matrix" in line for line in said()) == 1


# --- times --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
@pytest.mark.parametrize("offsets", [(3600, 0), (0, 3600), (0, 0)])
def test_clocks_that_jump_are_put_on_one_timeline(tmp_path: Path, said, suffix: str, offsets) -> None:
    video = X264 if suffix == "ts" else ("-c:v", "mpeg2video", "-bf", "2", "-r", "25")
    parts = []
    for number, offset in enumerate(offsets):
        part = tmp_path / f"{number}.{suffix}"
        ffmpeg(*pattern(2), *TONE, *video, "-c:a", "mp2", "-output_ts_offset", offset, part)
        parts.append(part.read_bytes())
    path = tmp_path / f"both.{suffix}"
    path.write_bytes(b"".join(parts))
    source, frames = read(path)
    times = seconds_of(source, frames)
    assert times[0] < 0.6 and 3.8 < times[-1] < 4.3
    assert min(np.diff(times)) > 0.01 and max(np.diff(times)) < 0.4
    assert any("the clock jumps 1 time" in line for line in said())
    sdvideo.encode(path, tmp_path / "a.sdv", preset="fast")
    for target in ("a.mp4", "a.mkv"):
        sdvideo.decode(tmp_path / "a.sdv", tmp_path / target, overwrite=True)
        with av.open(str(tmp_path / target)) as container:
            sound = [frame.time for frame in container.decode(audio=0)]
        assert sound[0] < 0.6 and 3.8 < sound[-1] < 4.3 and max(np.diff(sound)) < 0.4
        with av.open(str(tmp_path / target)) as container:
            shown = [frame.time for frame in container.decode(video=0)]
        assert len(shown) == len(frames) and shown[0] < 0.6 and 3.8 < shown[-1] < 4.3
    assert "the clock jumps" in refused(path, tmp_path)


def test_times_of_decoding_are_put_in_order(tmp_path: Path, said) -> None:
    path = tmp_path / "a.mp4"
    ffmpeg(*pattern(2), *X264, "-bf", 3, "-b_strategy", 0, path)
    expected = [frame.picture.y.mean() for frame in read(path)[1]]
    data = path.read_bytes()
    assert data.count(b"ctts") == 1
    path.write_bytes(data.replace(b"ctts", b"free"))
    source, frames = read(path)
    assert [frame.picture.y.mean() for frame in frames] == expected
    assert np.allclose(np.diff(seconds_of(source, frames)), 0.1)
    assert said() == ["the times of the pictures are those of their decoding: they are put in order"]


def test_the_first_picture_may_have_no_time(tmp_path: Path) -> None:
    """A transport stream whose first video packet has neither time."""
    path = tmp_path / "a.ts"
    ffmpeg(*pattern(1), *TONE, *X264, "-bf", 0, "-c:a", "mp2", path)
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 188):
        head = data.find(b"\0\0\1\xe0", at, at + 188)
        if head >= 0 and data[at + 1] & 0x40:
            data[head + 7] &= 0x3F  # no time stamps
            break
    path.write_bytes(data)
    source, frames = read(path)
    times = seconds_of(source, frames)
    assert len(frames) == 10 and min(times) >= 0
    sdvideo.encode(path, tmp_path / "a.sdv", preset="fast")
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert len(shown) == 10 and min(shown) >= 0 and np.allclose(np.diff(shown), 0.1, atol=0.02)


def test_rates_that_are_the_clock_are_not_believed(tmp_path: Path) -> None:
    """As of screen recordings of browsers: milliseconds, no length of a picture."""
    pictures = synthesise(96, 64, 30)
    ticks = tuple(range(0, 30 * 33, 33))
    for suffix, rate in (("mkv", 1000),):
        path = tmp_path / f"a.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            for planes, pts in zip(pictures, ticks, strict=True):
                frame = av.VideoFrame(96, 64, "yuv420p")
                for plane, samples in zip(frame.planes, planes, strict=True):
                    lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
                    lines[:, : plane.width] = samples
                frame.pts, frame.time_base = pts, Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with open_source(path) as source:
            assert source.info.rate is not None and 25 < source.info.rate < 35


def test_hidden_pictures_do_not_count(tmp_path: Path, said) -> None:
    """An MP4 trimmed without coding again keeps pictures before its edit list begins."""
    ffmpeg(*pattern(8, "160x120"), *X264, "-g", 100, tmp_path / "long.mp4")
    ffmpeg("-ss", 5, "-i", tmp_path / "long.mp4", "-c", "copy", tmp_path / "trimmed.mp4")
    with open_source(tmp_path / "trimmed.mp4") as source:
        total = source.count_frames()
        assert total == len(list(source.frames())) < 40
    result = sdvideo.encode(tmp_path / "trimmed.mp4", tmp_path / "a.sdv", size=20_000, preset="fast")
    assert 17_000 < result.bytes < 23_000 and said() == []


# --- sound --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["flac", "truehd", "mlp"])
def test_sound_packets_shorter_than_a_tick_are_kept(tmp_path: Path, said, codec: str) -> None:
    path = tmp_path / "source.mkv"
    options = ("-frame_size", 32) if codec == "flac" else ("-strict", -2)
    ffmpeg(*pattern(2), *TONE, *X264, "-c:a", codec, *options, path)
    sdvideo.encode(path, tmp_path / "a.sdv", preset="fast")
    for target in ("a.mkv", "a.mp4") if codec == "flac" else ("a.mkv",):
        sdvideo.decode(tmp_path / "a.sdv", tmp_path / target, overwrite=True)
        assert sound_bytes(tmp_path / target) == sound_bytes(path)
        assert sound_length(tmp_path / target) == pytest.approx(sound_length(path), abs=0.01)
    assert said() == []


def sound_bytes(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux(audio=0))


def sound_length(path: Path) -> float:
    with av.open(str(path)) as container:
        *_, last = container.decode(audio=0)
        return float(last.time + last.samples / last.sample_rate)


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_truehd_goes_into_matroska(tmp_path: Path, said, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    ffmpeg(*pattern(2), *TONE, *X264, "-c:a", "truehd", "-strict", -2, path)
    sdvideo.encode(path, tmp_path / "a.sdv", preset="fast")
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "a.mkv")
    assert sound_bytes(tmp_path / "a.mkv") == sound_bytes(path)


# --- programs, captions, sound that changes -----------------------------------------------------------------


@pytest.mark.parametrize("chosen", [0, 1])
def test_sound_of_other_programs_is_left_out(tmp_path: Path, said, chosen: int) -> None:
    """The larger video, which is chosen, is in the one or the other program; its sound is AC-3."""
    sizes = ("176x120", "96x64")
    inputs = [*pattern(1, sizes[chosen]), *TONE, *pattern(1, sizes[1 - chosen]), *TONE, "-t", 1]
    maps = ["-map", 0, "-map", 1, "-map", 2, "-map", 3, *X264]
    codecs = ["-c:a:0", "ac3" if not chosen else "mp2", "-c:a:1", "mp2" if not chosen else "ac3"]
    programs = ["-program", "title=One:st=0:st=1", "-program", "title=Two:st=2:st=3"]
    ffmpeg(*inputs, *maps, *codecs, *programs, tmp_path / "a.ts")
    with open_source(tmp_path / "a.ts") as source:
        picked = 1 - chosen if source.info.width == 96 else chosen
        codec = ("ac3", "mp2")[picked] if not chosen else ("mp2", "ac3")[picked]
        assert [track.codec for track in source.info.tracks] == [codec]
    assert any("1 audio and subtitle tracks of other programs are left out" in line for line in said())


def with_captions(data: bytes) -> bytes:
    """An H.264 stream with CEA-608 captions (A/53) before every picture."""
    caption = bytes([0xB5, 0, 0x31]) + b"GA94" + bytes([3, 0x41, 0xFF, 0xFC, 0x94, 0x20, 0xFF])
    message = b"\0\0\0\1" + bytes([6, 4, len(caption)]) + caption + b"\x80"
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    return b"".join((message if part[0] & 31 in (1, 5) else b"") + b"\0\0\0\1" + part for part in parts)


def test_captions_in_the_pictures_are_named(tmp_path: Path, said) -> None:
    ffmpeg(*pattern(0.4), *X264, "-bf", 0, "-x264-params", "sei=0", tmp_path / "plain.h264")
    (tmp_path / "a.h264").write_bytes(with_captions((tmp_path / "plain.h264").read_bytes()))
    ffmpeg("-f", "h264", "-r", 10, "-i", tmp_path / "a.h264", "-c", "copy", tmp_path / "a.mp4")
    read(tmp_path / "a.mp4")
    assert sum("closed captions" in line for line in said()) == 1
    assert "closed captions" in refused(tmp_path / "a.mp4", tmp_path)


def test_uneven_times_in_a_y4m_are_told(clips, tmp_path: Path, said) -> None:
    for name, uneven in (("silent", False), ("vfr", True)):
        sdvideo.encode(clips[name].path, tmp_path / f"{name}.sdv", preset="fast")
        sdvideo.decode(tmp_path / f"{name}.sdv", tmp_path / f"{name}.y4m")
        assert any("y4m holds no times" in line for line in said()) == uneven


def test_sound_that_changes_its_layout_is_named(tmp_path: Path, said) -> None:
    parts = []
    for channels in (1, 2):
        part = tmp_path / f"{channels}.ts"
        ffmpeg(*pattern(1), *TONE, "-t", 1, *X264, "-c:a", "aac", "-ac", channels, part)
        parts.append(part.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    sdvideo.encode(tmp_path / "both.ts", tmp_path / "a.sdv", preset="fast")
    (line,) = [line for line in said() if "layout" in line]
    assert "audio track aac: its rate or layout changes in mid-stream: 1." in line
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert {frame.layout.name for frame in container.decode(audio=0)} == {"mono"}


def test_another_pixel_aspect_ratio_is_named(tmp_path: Path, said) -> None:
    parts = []
    for shape in ("16/15", "64/45"):
        part = tmp_path / f"{shape[:2]}.ts"
        ffmpeg(*pattern(0.5), "-vf", f"setsar={shape}", *X264, part)
        parts.append(part.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    source, frames = read(path)
    assert source.info.sar == Fraction(16, 15) and len(frames) == 10
    assert sum("aspect ratio of the pixels changes" in line for line in said()) == 1


def test_what_is_trimmed_stays_hidden_where_times_are_wrong(tmp_path: Path) -> None:
    """A trimmed MP4 whose times of showing are lost as well: more is hidden than the delay of a decoder."""
    ffmpeg(*pattern(8, "160x120"), *X264, "-g", 100, "-bf", 2, tmp_path / "long.mp4")
    ffmpeg("-ss", 5, "-i", tmp_path / "long.mp4", "-c", "copy", tmp_path / "trimmed.mp4")
    data = (tmp_path / "trimmed.mp4").read_bytes()
    (tmp_path / "wrong.mp4").write_bytes(data.replace(b"ctts", b"free"))
    source, frames = read(tmp_path / "wrong.mp4")
    assert len(frames) <= 32 and min(seconds_of(source, frames)) >= 0
