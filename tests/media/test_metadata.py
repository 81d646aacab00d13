"""What describes a video comes back in MP4 and Matroska, or is named."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from files import TONE, X264, ffmpeg, pattern, refused

import sdvideo

QUICKTIME = {
    "com.apple.quicktime.location.ISO6709": "+48.2082+016.3738+190.000/",
    "com.apple.quicktime.make": "Apple",
    "com.apple.quicktime.model": "iPhone 15 Pro",
    "com.apple.quicktime.creationdate": "2024-05-01T12:34:56+0200",
}
TAGS = {"title": "A day", "artist": "Somebody", "genre": "Home", "comment": "long " * 2000}


def tagged(path: Path, tags: dict[str, str]) -> Path:
    flags = ("-movflags", "use_metadata_tags") if path.suffix in (".mp4", ".mov") else ()
    options = [part for key, value in tags.items() for part in ("-metadata", f"{key}={value}")]
    stream = ("-metadata:s:v", "language=deu", "-metadata:s:v", "title=Left camera")
    ffmpeg(*pattern(0.4), *TONE, "-t", 0.4, *X264, "-c:a", "aac", *options, *stream, *flags, path)
    return path


@pytest.mark.parametrize("source", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("target", ["mp4", "mkv"])
def test_tags_come_back(tmp_path: Path, said, source: str, target: str) -> None:
    tags = TAGS | QUICKTIME
    path = tagged(tmp_path / f"a.{source}", tags)
    sdvideo.encode(path, tmp_path / "a.sdv", preset="fast")
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / f"back.{target}")
    with av.open(str(path)) as before, av.open(str(tmp_path / f"back.{target}")) as after:
        kept, given = ({key.lower(): value for key, value in one.metadata.items()} for one in (after, before))
        assert {key: kept.get(key) for key in lower(tags)} == {key: given[key] for key in lower(tags)}
        video = after.streams.video[0]
        language = before.streams.video[0].metadata.get("language", "und")
        assert video.metadata.get("language", "und") == language and (source == "mov" or language == "deu")
        if (source, target) == ("mkv", "mkv"):
            assert video.metadata["title"] == "Left camera"
    assert not said()


def lower(tags: dict[str, str]) -> set[str]:
    return {key.lower() for key in tags}


def test_plain_tags_stay_in_the_boxes_that_every_player_reads(tmp_path: Path) -> None:
    ffmpeg(*pattern(0.4), *X264, "-metadata", "title=A day", tmp_path / "a.mp4")
    sdvideo.encode(tmp_path / "a.mp4", tmp_path / "a.sdv", preset="fast")
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "back.mp4")
    data = (tmp_path / "back.mp4").read_bytes()
    assert b"\xa9nam" in data and b"mdta" not in data


def test_a_video_that_is_not_to_be_chosen_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    ffmpeg(*pattern(0.4), *X264, "-disposition:v", 0, "-default_mode", "passthrough", path)
    sdvideo.encode(path, tmp_path / "a.sdv", preset="fast")
    sdvideo.decode(tmp_path / "a.sdv", tmp_path / "back.mkv")
    for one in (path, tmp_path / "back.mkv"):
        with av.open(str(one)) as container:
            assert not container.streams.video[0].disposition & av.stream.Disposition.default


def test_metadata_that_is_too_long_is_named(tmp_path: Path, said) -> None:
    path = tmp_path / "a.mkv"
    write = av.open(str(path), "w")
    with write as container:
        container.metadata["comment"] = "x" * 70_000
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(96, 64, "yuv420p")))
        container.mux(stream.encode(None))
    sdvideo.encode(path, tmp_path / "a.sdv", preset="fast")
    assert [line.lower() for line in said()] == ["metadata is left out because it is too long: comment"]
    assert "too long" in refused(path, tmp_path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_preview_has_the_colours_of_the_video(tmp_path: Path, suffix: str) -> None:
    tags = "setparams=color_primaries=bt2020:color_trc=bt709:colorspace=bt2020nc:range=pc"
    ffmpeg(*pattern(0.4), "-vf", f"format=yuv420p,{tags}", *X264[:-2], tmp_path / "a.mp4")
    sdvideo.encode(tmp_path / "a.mp4", tmp_path / "a.sdv", preset="fast")
    sdvideo.preview(tmp_path / "a.sdv", tmp_path / f"b.{suffix}")
    with av.open(str(tmp_path / f"b.{suffix}")) as container:
        frame = next(container.decode(video=0))
        assert (frame.color_primaries, frame.color_trc, frame.colorspace) == (9, 1, 9) and frame.color_range == 2
