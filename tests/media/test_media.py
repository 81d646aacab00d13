"""Reading and writing videos keeps samples, times, colours, and the streams beside the video."""

from __future__ import annotations

import io
import itertools
import logging
import os
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from conftest import Clip, Recipe, synthesise, write_clip

from sdvideo.errors import SinkError, SourceError
from sdvideo.frames import Colour, Frame, Picture, StreamInfo
from sdvideo.media import colour
from sdvideo.media.output import open_sink
from sdvideo.media.source import Source, open_source


def planes_of(picture: Picture) -> tuple[np.ndarray, ...]:
    return picture.y, picture.u, picture.v


def same(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def times_of(source: Source, frames: list[Frame]) -> list[Fraction]:
    return [frame.pts * source.info.time_base for frame in frames]


def end_of(source: Source, frames: list[Frame]) -> Fraction:
    return (frames[-1].pts + frames[-1].duration) * source.info.time_base


def copy_video(source_path: Path, sink_path: Path, **settings: object) -> None:
    with (
        open_source(source_path) as source,
        open_sink(sink_path, source.info, track_files=source.track_files(), lossless=True, **settings) as sink,
    ):
        for frame in source.frames():
            sink.write(frame)


def packets_of(path: Path) -> list[list[tuple]]:
    """Per audio and subtitle stream: (bytes, pts in seconds) of every packet."""
    with av.open(str(path)) as container:
        streams = [*container.streams.audio, *container.streams.subtitles]
        found = {stream.index: [] for stream in streams}
        for packet in container.demux(*streams) if streams else ():
            if packet.size:
                found[packet.stream_index].append((bytes(packet), packet.pts * packet.time_base))
    return list(found.values())


def sound_of(path: Path) -> list[tuple[int, float]]:
    """Per audio stream: number of decoded samples, and the time of the first."""
    sounds = []
    with av.open(str(path)) as container:
        count = len(container.streams.audio)
    for i in range(count):
        with av.open(str(path)) as container:
            frames = list(container.decode(audio=i))
            sounds.append((sum(frame.samples for frame in frames), frames[0].time))
    return sounds


# --- reading ------------------------------------------------------------------------------------------------


def test_source_describes_and_reads_the_clip(clip: Clip) -> None:
    with open_source(clip.path) as source:
        info, frames = source.info, list(source.frames())
        assert (info.width, info.height, info.sar, info.rotation) == (
            clip.width,
            clip.height,
            clip.sar,
            clip.rotation,
        )
        assert info.colour == Colour(clip.full_range, clip.matrix, clip.primaries, clip.transfer)
        assert info.frames in (None, clip.frames) and source.count_frames() == clip.frames == len(frames)
        assert times_of(source, frames) == list(clip.times)
        assert end_of(source, frames) == clip.end
        assert tuple((t.kind, t.codec, t.language) for t in info.tracks) == clip.tracks
        assert info.metadata.get("title", "") == clip.title
    for frame in frames:
        picture = frame.picture
        assert picture.y.shape == (clip.height, clip.width)
        assert picture.u.shape == picture.v.shape == ((clip.height + 1) // 2, (clip.width + 1) // 2)
        assert all(p.dtype == np.uint8 and p.flags.c_contiguous for p in planes_of(picture))
    if clip.planes:
        assert all(same(planes_of(f.picture), p) for f, p in zip(frames, clip.planes, strict=True))


@pytest.mark.parametrize("name", ["odd444", "ten_bit"])
def test_conversion_keeps_luma_and_nearly_keeps_chroma(clips: dict[str, Clip], name: str) -> None:
    size, seed = ((65, 47), 3) if name == "odd444" else ((96, 64), 5)
    expected = synthesise(*size, 1, seed=seed)[0]
    with open_source(clips[name].path) as source:
        picture = next(source.frames()).picture
    assert np.array_equal(picture.y, expected[0])
    assert np.abs(picture.u.astype(int) - expected[1]).mean() < 2.5
    assert np.abs(picture.v.astype(int) - expected[2]).mean() < 2.5


def test_ten_bit_and_hdr_are_warned_about_once(clips: dict[str, Clip], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sdvideo"), open_source(clips["ten_bit"].path) as source:
        list(source.frames())
    assert caplog.text.count("10-bit input is converted to 8 bit") == 1
    assert caplog.text.count("HDR (PQ)") == 1


def test_track_files_are_deleted_with_the_source(clips: dict[str, Clip]) -> None:
    with open_source(clips["rich"].path) as source:
        files = source.track_files()
        assert [file.suffix for file in files] == [".mkv"] and files[0].is_file()
        assert source.track_files() == files
    assert not any(file.exists() for file in files)


def test_pictures_are_read_once(clips: dict[str, Clip]) -> None:
    with open_source(clips["silent"].path) as source:
        list(source.frames())
        with pytest.raises(SourceError, match="only once"):
            next(source.frames())


@pytest.mark.parametrize("name", ["rich", "cfr"])
def test_pipe(clips: dict[str, Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = clips[name].path
    if name == "cfr":  # an MP4 with its index at the start
        copy_video(path, tmp_path / "front.mp4")
        path = tmp_path / "front.mp4"
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(path.read_bytes())

    threading.Thread(target=feed, daemon=True).start()
    with open(reading, "rb") as pipe:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=pipe))
        with open_source("-") as source:
            assert not source.seekable and source.info.frames is None and source.count_frames() is None
            with pytest.raises(SourceError, match="after its last picture"):
                source.track_files()
            frames = list(source.frames())
            files = source.track_files()
            assert [packets for file in files for packets in packets_of(file)] == packets_of(path)
    assert times_of(source, frames) == list(clips[name].times)


def test_missing_times_are_derived_from_the_rate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "raw.h264"
    write_clip(path, synthesise(96, 64, 6), Recipe(ticks=tuple(range(0, 6 * 512, 512))))
    with open_source(path) as source:
        frames = list(source.frames())
        gaps = {b - a for a, b in itertools.pairwise(times_of(source, frames))}
    assert len(frames) == 6 and len(gaps) == 1 and gaps.pop() > 0
    assert caplog.text.count("spaced by the average frame rate") == 1


# --- bad inputs ---------------------------------------------------------------------------------------------


def assert_one_line(error: pytest.ExceptionInfo, word: str) -> None:
    assert word in str(error.value) and "\n" not in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        open_source(tmp_path / "none.mp4")
    assert_one_line(error, "No such file")


@pytest.mark.parametrize("content", [b"", b"just some words\n" * 300, bytes(range(256)) * 40])
@pytest.mark.parametrize("name", ["bad.mp4", "bad.txt", "bad"])
def test_not_a_video(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as error:
        open_source(tmp_path / name)
    assert_one_line(error, name)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        open_source(tmp_path)
    assert_one_line(error, tmp_path.name)


def test_sound_alone(tmp_path: Path, clips: dict[str, Clip]) -> None:
    path = tmp_path / "sound.m4a"
    with open_source(clips["cfr"].path) as source:
        path.write_bytes(source.track_files()[0].read_bytes())
    with pytest.raises(SourceError, match="no video stream"):
        open_source(path)


def test_cut_short(tmp_path: Path, clips: dict[str, Clip]) -> None:
    whole = clips["rich"].path.read_bytes()
    path = tmp_path / "short.mkv"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with open_source(path) as source:
        assert 0 < len(list(source.frames())) < clips["rich"].frames
        source.track_files()
    (tmp_path / "short.mp4").write_bytes(clips["cfr"].path.read_bytes()[:3000])
    with pytest.raises(SourceError):
        open_source(tmp_path / "short.mp4")


def test_fewer_pictures_than_the_index_promises(
    tmp_path: Path, clips: dict[str, Clip], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "begun.mp4"  # an interrupted download: the index is at the start
    with (
        av.open(str(clips["silent"].path)) as whole,
        av.open(str(path), "w", options={"movflags": "faststart"}) as begun,
    ):
        stream = begun.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.size:
                packet.stream = stream
                begun.mux(packet)
    with av.open(str(path)) as begun:
        ends = [packet.pos + packet.size for packet in begun.demux(video=0) if packet.size]
    count = len(ends)
    for kept, warned in ((count, False), (6, True)):
        path.write_bytes(path.read_bytes()[: ends[kept - 1]])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "sdvideo"), open_source(path) as source:
            assert len(list(source.frames())) == kept
        line = f"begun.mp4: the pictures end at {kept / 25:.1f} of {count / 25:.1f} s, the rest is missing"
        assert (line in caplog.text) == warned


def damage(path: Path, target: Path, wanted: range) -> None:
    """Copy a file with the payload of some video packets overwritten."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for i, packet in enumerate(container.demux(video=0)):
            if i in wanted:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    target.write_bytes(data)


def test_damaged_pictures_are_skipped(tmp_path: Path, clips: dict[str, Clip], caplog: pytest.LogCaptureFixture) -> None:
    damage(clips["silent"].path, tmp_path / "hurt.mp4", range(5, 7))
    with caplog.at_level(logging.WARNING, "sdvideo"), open_source(tmp_path / "hurt.mp4") as source:
        assert 20 <= len(list(source.frames())) <= 24
    assert "damaged pictures" in caplog.text


def test_a_video_without_any_whole_picture_is_refused(tmp_path: Path, clips: dict[str, Clip]) -> None:
    damage(clips["silent"].path, tmp_path / "dead.mp4", range(24))
    with pytest.raises(SourceError, match="no decodable picture"):
        open_source(tmp_path / "dead.mp4")


# --- round trips --------------------------------------------------------------------------------------------


def test_lossless_round_trip_through_mp4(clip: Clip, tmp_path: Path) -> None:
    target = tmp_path / "copy.mp4"
    copy_video(clip.path, target)
    with open_source(clip.path) as before, open_source(target) as after:
        old, new = list(before.frames()), list(after.frames())
        assert times_of(after, new) == times_of(before, old) == list(clip.times)
        assert end_of(after, new) == clip.end
        assert after.info.time_base == before.info.time_base
        assert (after.info.colour, after.info.sar) == (before.info.colour, before.info.sar)
        assert after.info.rotation == 0 and after.info.rate == before.info.rate
        assert after.info.metadata.get("title", "") == clip.title
        # MP4 cannot hold SubRip; everything else is kept.
        assert [(t.kind, t.codec, t.language) for t in after.info.tracks] == [
            track for track in clip.tracks if track[1] != "subrip"
        ]
        width, height = before.info.width, before.info.height
        assert (after.info.width, after.info.height) == (width + width % 2, height + height % 2)
        for a, b in zip(old, new, strict=True):
            assert same(planes_of(a.picture), (b.picture.y[:height, :width], b.picture.u, b.picture.v))
    kept = [packets for packets, track in zip(packets_of(clip.path), clip.tracks, strict=True) if track[1] != "subrip"]
    assert packets_of(target) == kept
    for (samples, start), (expected, first) in zip(sound_of(target), sound_of(clip.path), strict=True):
        # For Opus, Matroska stores how much of the last packet is cut off; FFmpeg's MP4 does not keep it.
        assert start == first and 0 <= samples - expected < (960 if clip.path.suffix == ".mkv" else 1)


def test_lossless_round_trip_through_matroska(clip: Clip, tmp_path: Path) -> None:
    target = tmp_path / "copy.mkv"
    copy_video(clip.path, target)
    with open_source(clip.path) as before, open_source(target) as after:
        old, new = list(before.frames()), list(after.frames())
        assert all(abs(a - b) <= Fraction(3, 2000) for a, b in zip(times_of(after, new), clip.times, strict=True))
        assert (after.info.colour, after.info.sar) == (before.info.colour, before.info.sar)
        assert [(t.kind, t.codec, t.language) for t in after.info.tracks] == list(clip.tracks)
        height, width = old[0].picture.y.shape
        for a, b in zip(old, new, strict=True):
            assert same(planes_of(a.picture), (b.picture.y[:height, :width], b.picture.u, b.picture.v))
    bytes_only = [[[data for data, _ in packets] for packets in packets_of(path)] for path in (clip.path, target)]
    assert bytes_only[0] == bytes_only[1]
    if clip.path.suffix == ".mkv":
        assert packets_of(clip.path) == packets_of(target) and sound_of(clip.path) == sound_of(target)


def test_round_trip_through_y4m(clip: Clip, tmp_path: Path) -> None:
    target = tmp_path / "copy.y4m"
    copy_video(clip.path, target)
    with open_source(clip.path) as before, open_source(target) as after:
        pairs = list(zip(before.frames(), after.frames(), strict=True))
        assert all(same(planes_of(a.picture), planes_of(b.picture)) for a, b in pairs)
        assert after.info.sar == before.info.sar and after.info.rate == before.info.rate
        assert after.info.colour.full_range == before.info.colour.full_range


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_chapters(clips: dict[str, Clip], tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"copy{suffix}"
    copy_video(clips["rich"].path, target)
    with open_source(target) as source:
        chapters = [(c.start * c.time_base, c.end * c.time_base, c.title) for c in source.info.chapters]
    assert chapters == list(clips["rich"].chapters)


def test_subtitles_are_kept_or_named_in_a_warning(
    clips: dict[str, Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy_video(clips["rich"].path, tmp_path / "copy.mkv")
    assert packets_of(tmp_path / "copy.mkv")[1] == packets_of(clips["rich"].path)[1]
    with caplog.at_level(logging.WARNING, "sdvideo"):
        copy_video(clips["rich"].path, tmp_path / "copy.mp4")
    assert "subtitle track subrip (fra) does not fit into mp4" in caplog.text and ".mkv" in caplog.text


@pytest.mark.parametrize("name", ["cfr", "vfr", "late", "two_audio", "rich"])
def test_output_to_a_stream_is_fragmented_and_complete(clips: dict[str, Clip], tmp_path: Path, name: str) -> None:
    clip, buffer = clips[name], io.BytesIO()
    with (
        open_source(clip.path) as source,
        open_sink(buffer, source.info, track_files=source.track_files(), lossless=True) as sink,
    ):
        old = list(source.frames())
        for frame in old:
            sink.write(frame)
    target = tmp_path / "piped.mp4"
    target.write_bytes(buffer.getvalue())
    assert b"moof" in buffer.getvalue()
    with open_source(target) as source:
        new = list(source.frames())
        assert times_of(source, new) == list(clip.times)
    assert all(same(planes_of(a.picture), planes_of(b.picture)) for a, b in zip(old, new, strict=True))
    assert [[data for data, _ in packets] for packets in packets_of(target)] == [
        [data for data, _ in packets]
        for packets, track in zip(packets_of(clip.path), clip.tracks, strict=True)
        if track[1] != "subrip"
    ]


def test_lossy_output_is_close(clips: dict[str, Clip], tmp_path: Path) -> None:
    target = tmp_path / "lossy.mp4"
    with open_source(clips["cfr"].path) as source, open_sink(target, source.info, crf=20) as sink:
        old = list(source.frames())
        for frame in old:
            sink.write(frame)
    with open_source(target) as source:
        new = list(source.frames())
    errors = [np.mean((a.picture.y - b.picture.y.astype(float)) ** 2) for a, b in zip(old, new, strict=True)]
    assert 0 < max(errors) < 40


def test_real_clips(shared_clips: list[Path], tmp_path: Path) -> None:
    for path in shared_clips:
        target = tmp_path / path.name
        with open_source(path) as source:
            with open_sink(target, source.info, track_files=source.track_files(), lossless=True) as sink:
                old = list(itertools.islice(source.frames(), 10))
                for frame in old:
                    sink.write(frame)
            times = times_of(source, old)
        with open_source(target) as after:
            new = list(after.frames())
            assert times_of(after, new) == times
            assert after.info.colour == source.info.colour
        assert all(same(planes_of(a.picture), planes_of(b.picture)) for a, b in zip(old, new, strict=True))
        assert packets_of(target) == packets_of(path)
        assert sound_of(target) == sound_of(path)


# --- bad outputs --------------------------------------------------------------------------------------------

INFO = StreamInfo(width=96, height=64, time_base=Fraction(1, 25), rate=Fraction(25))


def frame_at(pts: int, width: int = 96) -> Frame:
    return Frame(pts, 1, Picture(*synthesise(width, 64, 1)[0]))


def test_invalid_settings_and_track_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"Invalid|out of range"):
        open_sink(tmp_path / "out.mp4", INFO, crf=-2)
    (tmp_path / "tracks.mp4").write_bytes(b"nothing")
    with pytest.raises(SinkError, match="tracks cannot be read"):
        open_sink(tmp_path / "out.mp4", INFO, track_files=[tmp_path / "tracks.mp4"])


def test_unknown_suffix() -> None:
    with pytest.raises(SinkError, match=r"\.avi.*\.mp4"):
        open_sink("out.avi", INFO)


def test_the_format_overrides_the_suffix(tmp_path: Path) -> None:
    with open_sink(tmp_path / "out.part", INFO, format="mkv") as sink:
        sink.write(frame_at(0))
    with av.open(str(tmp_path / "out.part")) as container:
        assert "matroska" in container.format.name


def test_output_into_a_missing_folder(tmp_path: Path) -> None:
    for name in ("out.mp4", "out.y4m"):
        with pytest.raises(SinkError, match="No such file"):
            open_sink(tmp_path / "none" / name, INFO)


@pytest.mark.parametrize("name", ["out.mp4", "out.y4m"])
def test_wrong_frames(tmp_path: Path, name: str) -> None:
    with pytest.raises(SinkError, match="98x64"), open_sink(tmp_path / name, INFO) as sink:
        sink.write(frame_at(0, width=98))
    with (
        pytest.raises(SinkError, match="pts 3 does not come after 3"),
        open_sink(tmp_path / name, INFO) as sink,
    ):
        sink.write(frame_at(3))
        sink.write(frame_at(3))
    with pytest.raises(SinkError, match="no picture"), open_sink(tmp_path / name, INFO):
        pass


@pytest.mark.parametrize("format", ["mp4", "y4m"])
def test_closed_pipe(format: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (
        open(writing, "wb", buffering=0) as pipe,
        pytest.raises(SinkError, match=r"[Bb]roken pipe"),
        open_sink(pipe, INFO, format=format) as sink,
    ):
        for pts in range(600):
            sink.write(frame_at(pts))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("format", ["mp4", "mkv", "y4m"])
def test_full_disk(format: str) -> None:
    with pytest.raises(SinkError, match="No space left"), open_sink("/dev/full", INFO, format=format) as sink:
        for pts in range(30):
            sink.write(frame_at(pts))


def test_very_fine_time_base(tmp_path: Path) -> None:
    info = StreamInfo(width=96, height=64, time_base=Fraction(1, 1_000_000_000), rate=Fraction(25))
    with open_sink(tmp_path / "fine.mp4", info) as sink:
        for i in range(3):
            sink.write(Frame(i * 5_000_000_123, 40_000_000, frame_at(0).picture))
    with open_source(tmp_path / "fine.mp4") as source:
        times = times_of(source, list(source.frames()))
    assert all(abs(time - Fraction(i * 5_000_000_123, 10**9)) <= Fraction(1, 10**6) for i, time in enumerate(times))


# --- colour -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "meaning", "rgb"),
    [
        ((63, 102, 240), Colour(False, 1), (255, 0, 0)),
        ((81, 90, 240), Colour(False, 6), (255, 0, 0)),
        ((81, 90, 240), Colour(False, 2), (255, 0, 0)),
        ((76, 85, 255), Colour(True, 6), (254, 0, 0)),
        ((16, 128, 128), Colour(False, 1), (0, 0, 0)),
        ((235, 128, 128), Colour(False, 9), (255, 255, 255)),
        ((128, 128, 128), Colour(True, 1), (128, 128, 128)),
    ],
)
def test_known_colours(values: tuple[int, ...], meaning: Colour, rgb: tuple[int, ...]) -> None:
    sizes = (33, 21), (17, 11), (17, 11)
    picture = Picture(*(np.full(size, value, np.uint8) for size, value in zip(sizes, values, strict=True)))
    shown = colour.to_rgb(picture, meaning)
    assert shown.shape == (33, 21, 3) and np.abs(shown.astype(int) - rgb).max() <= 1
    back = colour.from_rgb(shown, meaning)
    for plane, value, size in zip(planes_of(back), values, sizes, strict=True):
        assert plane.shape == size and np.abs(plane.astype(int) - value).max() <= 1


def test_rgb_round_trip_of_a_natural_picture() -> None:
    picture = Picture(*synthesise(96, 64, 1)[0])
    for meaning in (Colour(False, 1), Colour(True, 6), Colour(False, 9)):
        back = colour.from_rgb(colour.to_rgb(picture, meaning), meaning)
        assert np.abs(back.y.astype(float) - picture.y).mean() < 1.0


@pytest.mark.parametrize(("name", "matrix"), [("rgb24", 6), ("bgra", 6), ("gbrp", 6), ("gray", 2), ("gray10le", 2)])
def test_other_pixel_formats(name: str, matrix: int) -> None:
    grey = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (34, 1))
    frame = av.VideoFrame.from_ndarray(np.dstack([grey] * 3), "rgb24").reformat(format=name)
    picture, meaning = colour.to_picture(frame), colour.read_colour(frame)
    assert meaning.matrix == matrix and meaning.full_range == name.startswith("gray")
    assert np.abs(colour.to_rgb(picture, meaning).astype(int) - grey[..., None]).max() <= 2


@pytest.mark.parametrize("name", ["yuvj444p", "yuvj422p", "yuv422p", "nv12", "yuv444p10le", "yuva420p"])
def test_yuv_formats_keep_luma(name: str) -> None:
    y, u, v = synthesise(66, 48, 1)[0]
    frame = colour.to_frame(Picture(y, u, v), Colour(full_range="j" in name))
    code_range = 2 if "j" in name else 1
    frame = frame.reformat(format=name, src_color_range=code_range, dst_color_range=code_range, threads=1)
    picture = colour.to_picture(frame)
    assert np.array_equal(picture.y, y)
    assert np.abs(picture.u.astype(int) - u).mean() < 1
    assert colour.read_colour(frame).full_range == ("j" in name)


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True)])
def test_orientation(tmp_path: Path, degrees: int, flips: tuple[bool, bool]) -> None:
    y = np.arange(64 * 96, dtype=np.uint16).reshape(64, 96) % 199
    picture = Picture(y.astype(np.uint8), *(np.full((32, 48), 128, np.uint8) for _ in range(2)))
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.set_display_rotation(degrees, hflip=flips[0], vflip=flips[1])
        container.mux(stream.encode(colour.to_frame(picture, Colour())))
        container.mux(stream.encode(None))
    expected = np.rot90(picture.y, degrees // 90)
    with open_source(path) as source:
        shown = next(source.frames()).picture.y
    # The flips apply to the rotated picture.
    expected = expected[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
    assert np.array_equal(shown, expected)
