"""Files as phones, cameras, screen recorders, broadcasters and the web make them, encoded and decoded.

Each kind of file is made by a separate ffmpeg (imageio-ffmpeg), which is the reference as well: its decodings of the
result and of the original are compared.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from conftest import synthesise

import sdvideo
from sdvideo.frames import Frame, Picture, StreamInfo
from sdvideo.media.output import open_sink
from sdvideo.media.source import open_source


@dataclass(frozen=True)
class Kind:
    """How a file is made, and what is expected of the result.

    out: ffmpeg's options for the output. copy: input options of a second pass, which only copies. tags: matrix,
    primaries, transfer (H.273) and full range, if the file has them. says: parts of the expected warnings. sounds: how
    many audio tracks are kept. even: pictures follow each other at the rate, whatever times FFmpeg derives.
    """

    suffix: str
    out: str
    copy: str = ""
    size: tuple[int, int] = (96, 64)
    rate: str = "25"
    seconds: float = 0.6
    hertz: int = 48000
    delay: float = 0
    sounds: int = 1
    tags: tuple[int, int, int, bool] | None = None
    says: tuple[str, ...] = ()
    even: bool = False


X264 = "-c:v libx264 -preset veryfast -qp 4 -pix_fmt yuv420p "
X265 = "-c:v libx265 -preset ultrafast -x265-params qp=4:log-level=1 "
VP9 = "-c:v libvpx-vp9 -crf 4 -b:v 0 -cpu-used 8 "
MPEG2 = "-c:v mpeg2video -qscale:v 1 -bf 2 "
TEN, HLG, PQ = "10-bit input is converted to 8 bit", "HDR (HLG) input", "HDR (PQ) input"
WOVEN, CLEAR = "interlaced input is treated", "transparency is left out"


def tagged(pixels: str, matrix: str, primaries: str, transfer: str, span: str = "tv") -> str:
    """A filter that converts to this format and sets its tags."""
    said = f"colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range={span}"
    return f"-vf scale=out_color_matrix={matrix}:out_range={span},format={pixels},setparams={said} "


BT709 = (1, 1, 1, False)
KINDS = {
    # phones
    "phone-hevc-hlg-rotated": Kind(
        "mov",
        tagged("yuv420p10le", "bt2020nc", "bt2020", "arib-std-b67") + X265 + "-tag:v hvc1 -c:a aac",
        copy="-display_rotation:v:0 90",
        rate="30000/1001",
        tags=(9, 9, 18, False),
        says=(TEN, HLG),
    ),
    "phone-full-range-upside-down": Kind(
        "mp4",
        tagged("yuvj420p", "smpte170m", "bt470bg", "smpte170m", "pc") + "-c:v libx264 -qp 4 -bf 0 -c:a aac",
        copy="-display_rotation:v:0 180",
        rate="30",
        tags=(6, 5, 6, True),
    ),
    "phone-vfr": Kind(
        "mp4",
        "-vf setpts=PTS+0.3*(N-3*floor(N/3))/25/TB -fps_mode vfr -enc_time_base 1/90000 " + X264 + "-bf 0 -c:a aac",
    ),
    "phone-trimmed": Kind("mp4", X264 + "-bf 2 -g 100 -c:a aac", copy="-ss 0.3", seconds=1.2),
    "phone-3gp": Kind(
        "3gp",
        "-c:v h263 -qscale:v 1 -c:a libopencore_amrnb -ar 8000 -b:a 12.2k",
        size=(128, 96),
        sounds=0,
        says=("audio track amr_nb is left out: it cannot be copied into MP4 or Matroska; convert it to AAC",),
    ),
    # cameras and editors
    "camera-b-frames": Kind(
        "mp4",
        tagged("yuv420p", "bt709", "bt709", "bt709") + "-c:v libx264 -bf 3 -b_strategy 0 -qp 4 -c:a aac",
        rate="30000/1001",
        tags=BT709,
    ),
    "camera-mjpeg-pcm": Kind("avi", "-c:v mjpeg -qscale:v 1 -pix_fmt yuvj422p -c:a pcm_s16le", rate="30"),
    "camera-mjpeg-stereo-pcm": Kind("avi", "-c:v mjpeg -qscale:v 1 -pix_fmt yuvj422p -c:a pcm_s16le -ac 2", rate="30"),
    "camera-422-ten-bit": Kind(
        "mp4",
        tagged("yuv422p10le", "bt709", "bt709", "bt709") + "-c:v libx264 -qp 4 -c:a pcm_s16be",
        rate="50",
        tags=BT709,
        says=(TEN,),
    ),
    "camera-dv": Kind("dv", "-c:v dvvideo -pix_fmt yuv420p -ac 2", size=(720, 576), seconds=0.2, says=(WOVEN,)),
    "editor-prores-422": Kind(
        "mov",
        tagged("yuv422p10le", "bt709", "bt709", "bt709") + "-c:v prores_ks -profile:v 3 -c:a pcm_s24le",
        rate="24000/1001",
        tags=BT709,
        says=(TEN,),
    ),
    "editor-prores-alpha": Kind(
        "mov",
        "-vf format=yuva444p10le -c:v prores_ks -profile:v 4444 -alpha_bits 16 -c:a pcm_s16be",
        says=("-bit input is converted to 8 bit", CLEAR),
    ),
    "editor-cineform": Kind("mov", "-c:v cfhd -quality film1 -pix_fmt yuv422p10le -c:a pcm_s16le", says=(TEN,)),
    "editor-dnxhr": Kind(
        "mov", "-c:v dnxhd -profile:v dnxhr_hq -pix_fmt yuv422p -c:a pcm_s16le", size=(256, 120), seconds=0.4
    ),
    "editor-mxf": Kind("mxf", "-pix_fmt yuv422p " + MPEG2 + "-c:a pcm_s16le"),
    "editor-animation-argb": Kind("mov", "-c:v qtrle -pix_fmt argb -c:a pcm_s16be", says=(CLEAR,)),
    "anamorphic": Kind("mp4", "-vf setsar=64/45 " + X264 + "-c:a aac"),
    # screens
    "screen-rgb-flac": Kind("mkv", "-c:v libx264rgb -qp 0 -pix_fmt bgr24 -c:a flac", rate="60"),
    "screen-stereo-pcm": Kind("mkv", X264 + "-bf 0 -c:a pcm_s16le -ac 2"),
    "screen-444-eac3": Kind("mkv", X265 + "-pix_fmt yuv444p -c:a eac3"),
    "screen-gbr-utvideo": Kind("avi", "-c:v utvideo -pix_fmt gbrp -c:a pcm_s16le"),
    "screen-rgb555": Kind("avi", "-c:v rawvideo -pix_fmt rgb555le -c:a pcm_s16le"),
    "screen-gif": Kind(
        "gif", "-an -vf split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=none", sounds=0
    ),
    # films, broadcasts and discs
    "film-sound-first": Kind("mp4", "-map 1 -map 0 " + X264 + "-bf 3 -b_strategy 0 -c:a aac"),
    "film-mkv-ac3": Kind("mkv", X264 + "-bf 2 -c:a ac3", rate="24000/1001"),
    "film-dts": Kind("mkv", X264 + "-c:a dca -strict -2"),
    "tv-mpeg2-interlaced": Kind(
        "ts",
        "-vf interlace=scan=tff " + MPEG2 + "-flags +ildct+ilme -c:a mp2 -aspect 16:9",
        size=(96, 80),
        rate="50",
        says=(WOVEN,),
    ),
    # FFmpeg takes times less than a minute before the overflow of the 33-bit clock for negative times.
    "tv-near-the-clock's-end": Kind("ts", MPEG2 + "-c:a ac3 -output_ts_offset 95400"),
    "tv-h264-sound-late": Kind("ts", X264 + "-bf 2 -c:a aac", delay=0.25),
    "disc-vob": Kind("vob", MPEG2 + "-c:a ac3", rate="30000/1001"),
    "disc-m2ts": Kind(
        "m2ts",
        X264 + "-bf 2 -c:a pcm_bluray",
        rate="24000/1001",
        sounds=0,
        says=("audio track pcm_bluray is left out",),
    ),
    "disc-mpg": Kind("mpg", MPEG2 + "-c:a mp2"),
    # the web
    "web-vp9-opus": Kind("webm", "-pix_fmt yuv420p " + VP9 + "-c:a libopus", rate="30"),
    "web-vp9-444-odd": Kind(
        "webm", "-pix_fmt yuv444p " + VP9 + "-c:a libvorbis", size=(95, 63), says=("95x63 becomes 96x64",)
    ),
    "web-vp9-alpha": Kind("webm", "-vf format=yuva420p " + VP9 + "-auto-alt-ref 0 -c:a libopus", says=(CLEAR,)),
    "web-recorder-vp8": Kind("webm", "-pix_fmt yuv420p -c:v libvpx -crf 4 -b:v 2M -c:a libopus -live 1"),
    "web-av1-pq": Kind(
        "mp4",
        tagged("yuv420p10le", "bt2020nc", "bt2020", "smpte2084") + "-c:v libsvtav1 -preset 10 -crf 5 -c:a libopus",
        rate="60",
        seconds=0.4,
        tags=(9, 9, 16, False),
        says=(TEN, PQ),
    ),
    "web-fragmented": Kind("mp4", X264 + "-bf 2 -c:a aac -movflags frag_keyframe+empty_moov"),
    "web-flv": Kind("flv", X264 + "-bf 2 -c:a aac", hertz=44100),
    "web-flv1-mp3": Kind("flv", "-c:v flv -qscale:v 1 -c:a libmp3lame", hertz=44100),
    "web-theora": Kind("ogv", "-c:v libtheora -qscale:v 10 -c:a libvorbis"),
    # old and odd ones
    "avi-xvid-mp3": Kind("avi", "-c:v mpeg4 -vtag XVID -qscale:v 1 -bf 2 -c:a libmp3lame"),
    "avi-h264-b-frames": Kind("avi", X264 + "-bf 2 -c:a ac3", even=True),
    "wmv": Kind(
        "wmv", "-c:v wmv2 -qscale:v 1 -c:a wmav2", hertz=44100, sounds=0, says=("audio track wmav2 is left out",)
    ),
    "grey-h264-alac": Kind("mp4", "-c:v libx264 -qp 4 -pix_fmt gray -c:a alac"),
    "grey-ten-bit": Kind("mkv", "-c:v ffv1 -pix_fmt gray10le -c:a pcm_f32le", says=(TEN,)),
    "grey-av1": Kind("mkv", "-c:v libaom-av1 -cpu-used 8 -crf 4 -pix_fmt gray -c:a libopus"),
    "bt470bg": Kind(
        "mp4", tagged("yuv420p", "bt470bg", "bt470bg", "bt470bg") + X264 + "-c:a aac", tags=(5, 5, 5, False)
    ),
    "sixteen-bit": Kind("nut", "-c:v ffv1 -pix_fmt yuv420p16le -c:a pcm_s32le", says=("16-bit input is converted",)),
    "vvc": Kind("mp4", "-c:v libvvenc -qp 10 -pix_fmt yuv420p10le -c:a aac", says=(TEN,)),
    # clocks
    "starts-at-ten-hours-mkv": Kind("mkv", X264 + "-c:a aac -output_ts_offset 36000"),
    "starts-at-ten-hours-mp4": Kind("mp4", X264 + "-c:a aac -output_ts_offset 36000"),
    "sound-late": Kind("mp4", X264 + "-c:a aac", delay=0.25),
    "sound-early": Kind("mkv", X264 + "-c:a aac", delay=-0.2),
    "no-edit-list": Kind("mp4", X264 + "-bf 2 -c:a aac -use_editlist 0"),
    "negative-offsets": Kind("mp4", X264 + "-bf 2 -c:a aac -movflags negative_cts_offsets"),
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Pictures this small are not faster with threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- made and decoded by ffmpeg -----------------------------------------------------------------------------


def ffmpeg(*arguments: object) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def pictures_of(size: tuple[int, int] = (96, 64), rate: str = "25", seconds: float = 0.6) -> tuple[str, ...]:
    """Input options: a rotating gradient."""
    colours = "n=3:c0=0x903020:c1=0xd0c8b0:c2=0x3060a0"
    place = f"x0=0:y0=0:x1={size[0] - 1}:y1={size[1] - 1}:seed=7:speed=0.02"
    return "-f", "lavfi", "-i", f"gradients=s={size[0]}x{size[1]}:r={rate}:d={seconds}:{colours}:{place}"


def sound_of(seconds: float = 0.6, hertz: int = 48000) -> tuple[str, ...]:
    """Input options: one ping, loudest 0.31 s after the start."""
    ping = f"0.5*sin(880*2*PI*t)*exp(-40*abs(t-{min(0.31, seconds / 2)}))"
    return "-f", "lavfi", "-i", f"aevalsrc=exprs={ping}:sample_rate={hertz}:duration={seconds}"


def make(kind: Kind, folder: Path) -> Path:
    path = folder / f"made.{kind.suffix}"
    sound = () if "-an" in kind.out.split() else ("-itsoffset", kind.delay, *sound_of(kind.seconds, kind.hertz))
    ffmpeg(*pictures_of(kind.size, kind.rate, kind.seconds), *sound, *shlex.split(kind.out), path)
    if not kind.copy:
        return path
    copied = path.with_stem("copied")
    ffmpeg(*shlex.split(kind.copy), "-i", path, "-map", 0, "-c", "copy", copied)
    return copied


def shown(path: Path, width: int, height: int) -> np.ndarray:
    """The pictures as a player shows them: upright RGB, int [N, H, W, 3]."""
    exact = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
    raw = ("-fps_mode", "passthrough", "-vf", exact, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(ffmpeg("-i", path, "-map", "0:v:0", *raw), np.uint8).reshape(-1, height, width, 3).astype(int)


def squares(pictures: np.ndarray) -> np.ndarray:
    """Means of 4x4 pixels, without incomplete blocks: they show colours rather than noise."""
    count, height, width, channels = pictures.shape
    whole = pictures[:, : height // 4 * 4, : width // 4 * 4]
    return whole.reshape(count, height // 4, 4, width // 4, 4, channels).mean((2, 4))


@dataclass(frozen=True)
class Seen:
    """The content of a file as FFmpeg decodes it. Times in seconds; pings: when each track is loudest."""

    times: list[Fraction]
    end: Fraction
    pings: list[float]
    tags: tuple[int, int, int, bool]
    sar: Fraction
    begin: float


def see(path: Path) -> Seen:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        step = 1 / (stream.average_rate or Fraction(25))
        times = [i * step if f.pts is None else f.pts * stream.time_base for i, f in enumerate(frames)]
        last, sar = frames[-1], stream.sample_aspect_ratio or Fraction(1)
        end = times[-1] + (last.duration * stream.time_base if last.duration else step)
        full = last.color_range == 2 or last.format.name.startswith("yuvj")
        tags = int(last.colorspace), int(last.color_primaries), int(last.color_trc), full
        begin = (container.start_time or 0) / 1e6
        count = len(container.streams.audio)
    return Seen(times, end, [ping(path, track) for track in range(count)], tags, sar, begin)


def ping(path: Path, track: int) -> float:
    """The time of the loudest sample of a track, in seconds."""
    loudest, when = -1.0, 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=track):
            samples = frame.to_ndarray().astype(float)
            samples = samples[0] if frame.format.is_planar else samples[0, :: len(frame.layout.channels)]
            at = int(np.abs(samples).argmax())
            if abs(samples[at]) > loudest:
                loudest, when = abs(samples[at]), float(frame.pts * frame.time_base) + at / frame.sample_rate
    return when


def check(kind: Kind, folder: Path) -> None:
    """Encode, decode to .mp4 and .mkv: times, lip-sync, colours, tags and pixel aspect are kept."""
    source, coded, targets = make(kind, folder), folder / "coded.sdv", [folder / "back.mp4", folder / "back.mkv"]
    sdvideo.encode(source, coded, quality=100, preset="fast")
    with sdvideo.open(coded) as video:
        info = video.info
    before, pictures = see(source), shown(source, info.width, info.height)
    times = before.times
    if kind.even:
        times = [before.times[0] + i / Fraction(kind.rate) for i in range(len(times))]
    length = times[-1] + before.end - before.times[-1] - times[0]
    half = 1 / Fraction(kind.rate) / 2
    for target in targets:
        sdvideo.decode(coded, target, lossless=True)
        after = see(target)
        assert len(after.times) == len(times)
        gaps = [abs((a - after.times[0]) - (b - times[0])) for a, b in zip(after.times, times, strict=True)]
        assert max(gaps) <= (0 if target.suffix == ".mp4" else Fraction(1, 1000)), "every picture at its time"
        assert abs(after.end - after.times[0] - length) <= half, "as long as it was"
        assert len(after.pings) == kind.sounds
        for a, b in zip(after.pings, before.pings, strict=bool(kind.sounds)):
            assert abs((a - float(after.times[0])) - (b - float(times[0]))) <= 0.001, "lips and sound together"
        assert -0.03 < after.begin < 0.1, "players start at once"
        if kind.tags:
            assert after.tags == kind.tags
        turned = info.rotation % 180 != 0
        assert after.sar == (1 / before.sar if turned else before.sar)
        width, height = (side + side % 2 for side in (info.width, info.height))
        errors = squares(shown(target, width, height)[:, : info.height, : info.width] - pictures)
        assert np.abs(errors).mean((0, 1, 2)).max() <= 2, "colours within two levels"


# --- every kind of file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_round_trip(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind = KINDS[name]
    check(kind, tmp_path)
    lines = {record.getMessage() for record in caplog.records if record.name == "sdvideo"}
    for words in kind.says:
        assert any(words in line for line in lines), words
    assert len(lines) == len(kind.says), lines


# --- streams beside the video -------------------------------------------------------------------------------

WORDS = "1\n00:00:00,100 --> 00:00:00,250\nHello\n\n2\n00:00:00,300 --> 00:00:00,500\n<i>there</i>\n"
SCRIPT = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Odd Font,20

[Events]
Format: Layer, Start, End, Style, Text
Dialogue: 0,0:00:00.10,0:00:00.50,Default,Hello
"""
CHAPTERS = """;FFMETADATA1
title=Film
[CHAPTER]
TIMEBASE=1/1000
START=0
END=300
title=One
[CHAPTER]
TIMEBASE=1/1000
START=300
END=600
title=Two
"""


def image_subtitle(path: Path) -> None:
    """Presentation graphics as on a Blu-ray disc: a white 16x8 box on a screen of 96x64, shown and removed twice."""
    window = bytes.fromhex("01 00 0014 001e 0010 0008")
    palette = bytes.fromhex("00 00 01 c8 80 80 ff")
    row = bytes([1]) * 16 + bytes(2)
    box = bytes.fromhex("0000 00 c0 000094 0010 0008") + 8 * row
    data = b""
    for number, (ticks, shown) in enumerate(((9000, True), (45000, False), (60000, True), (80000, False))):
        screen = bytes.fromhex("0060 0040 10") + bytes([0, number, 0x80, 0, 0, shown])
        place = bytes.fromhex("0000 00 00 0014 001e") if shown else b""
        parts = [(0x16, screen + place), (0x17, window), (0x14, palette), (0x15, box), (0x80, b"")]
        for kind, payload in parts if shown else [parts[0], parts[1], parts[-1]]:
            head = ticks.to_bytes(4, "big") + bytes(4) + bytes([kind]) + len(payload).to_bytes(2, "big")
            data += b"PG" + head + payload
    path.write_bytes(data)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """Input options by name: everything a film may hold beside its pictures."""
    for name, text in (("words.srt", WORDS), ("script.ass", SCRIPT), ("chapters.txt", CHAPTERS)):
        (tmp_path / name).write_text(text)
    image_subtitle(tmp_path / "images.sup")
    ffmpeg("-f", "lavfi", "-i", "color=red:size=40x40", "-frames:v", 1, tmp_path / "cover.png")
    files = ("words.srt", "script.ass", "images.sup", "chapters.txt", "cover.png")
    return {name.split(".")[0]: ("-i", tmp_path / name) for name in files} | {
        "pictures": pictures_of(),
        "sound": sound_of(),
    }


def samples_of(path: Path) -> int:
    """Bytes of the first audio track, decoded as s16."""
    return len(ffmpeg("-i", path, "-map", "0:a:0", "-f", "s16le", "-"))


def streams_of(path: Path) -> list[tuple[str, str, str, int]]:
    """The audio and subtitle streams of a file: type, codec, language ("und" for none), number of packets."""
    with av.open(str(path)) as container:
        streams = [*container.streams.audio, *container.streams.subtitles]
        counts = {stream.index: 0 for stream in streams}
        for packet in container.demux(*streams):
            if packet.size:
                counts[packet.stream_index] += 1
        return [
            (s.type, s.codec.canonical_name, s.metadata.get("language", "und"), counts[s.index])
            for s in sorted(streams, key=lambda stream: stream.index)
        ]


def copy_through(source: Path, *targets: Path) -> StreamInfo:
    """Copy a file through a source and a sink; the codec has no part in the streams beside the video."""
    for target in targets:
        with open_source(source) as video, open_sink(target, video.info, track_files=video.track_files()) as sink:
            for frame in video.frames():
                sink.write(frame)
    return video.info


def test_film_with_everything(inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "odd.ttf").write_bytes(b"a font, if one believes its name")
    source = tmp_path / "film.mkv"
    order = ("pictures", "sound", "sound", "words", "script", "images", "chapters")
    languages = zip(("a:0", "a:1", "s:0", "s:1", "s:2"), ("eng", "fra", "eng", "jpn", "deu"))
    ffmpeg(
        *(option for name in order for option in inputs[name]),
        *(option for i in range(6) for option in ("-map", i)),
        *shlex.split("-map_metadata 6 -map_chapters 6 -c:a:0 ac3 -c:a:1 libopus -c:s copy " + X264),
        *(option for stream, said in languages for option in (f"-metadata:s:{stream}", f"language={said}")),
        *("-attach", tmp_path / "odd.ttf", "-metadata:s:t", "mimetype=font/ttf"),
        source,
    )
    info = copy_through(source, tmp_path / "back.mkv")
    assert streams_of(tmp_path / "back.mkv") == streams_of(source)
    assert [codec for _, codec, _, _ in streams_of(source)] == ["ac3", "opus", "subrip", "ass", "hdmv_pgs_subtitle"]
    assert [(c.start * c.time_base, c.title) for c in info.chapters] == [(0, "One"), (Fraction(3, 10), "Two")]
    assert info.metadata["title"] == "Film"
    assert "an .sdv cannot hold them: attached file odd.ttf; keep the original" in caplog.text
    caplog.clear()
    copy_through(source, tmp_path / "back.mp4")
    assert streams_of(tmp_path / "back.mp4") == streams_of(source)[:2]
    for codec in ("subrip (eng)", "ass (jpn)", "hdmv_pgs_subtitle (deu)"):
        assert f"subtitle track {codec} does not fit into mp4 and is left out; an .mkv may hold it" in caplog.text


@pytest.mark.parametrize(
    ("before", "options", "name", "subtitles", "in_mp4"),
    [
        ("-fix_sub_duration", "-c:v libx264 -c:a ac3 -c:s dvbsub", "broadcast.ts", 4, False),
        ("-fix_sub_duration", "-c:v mpeg2video -c:a ac3 -c:s dvdsub -f vob", "disc.vob", 2, True),
        ("", "-c:v mpeg2video -c:a ac3 -c:s dvdsub", "ripped.mkv", 2, True),
    ],
)
def test_image_subtitles(inputs, tmp_path: Path, before, options, name, subtitles, in_mp4) -> None:
    """Subtitles of broadcasts and discs have no duration; those of the last file have an infinite one."""
    source = tmp_path / name
    pictures = shlex.split("-f lavfi -i testsrc2=s=96x64:r=25:d=1.5")
    media = (*pictures, *sound_of(1.5), *before.split(), *inputs["images"])
    ffmpeg(*media, *shlex.split(f"-map 0 -map 1 -map 2 -pix_fmt yuv420p {options}"), source)
    found = streams_of(source)
    assert [(kind, count) for kind, _, _, count in found if kind == "subtitle"] == [("subtitle", subtitles)]
    copy_through(source, tmp_path / "back.mkv", tmp_path / "back.mp4")
    assert streams_of(tmp_path / "back.mkv") == found
    assert streams_of(tmp_path / "back.mp4") == (found if in_mp4 else found[:1])


def test_shop_film(inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "shop.mp4"
    ffmpeg(
        *(option for name in ("pictures", "sound", "words", "cover", "chapters") for option in inputs[name]),
        *shlex.split("-map 0 -map 1 -map 2 -map 3 -map_metadata 4 -map_chapters 4 -c:a aac -c:s mov_text"),
        *shlex.split("-c:v:0 libx264 -pix_fmt:v:0 yuv420p -c:v:1 copy -disposition:v:1 attached_pic"),
        source,
    )
    copy_through(source, tmp_path / "back.mp4", tmp_path / "back.mov")
    assert caplog.text.count("left out") == caplog.text.count("cover art; keep the original") == 2
    assert [codec for _, codec, _, _ in streams_of(source)] == ["aac", "mov_text"]
    for suffix in (".mp4", ".mov"):
        assert streams_of(tmp_path / f"back{suffix}") == streams_of(source)
        with open_source(tmp_path / f"back{suffix}") as video:
            assert [chapter.title for chapter in video.info.chapters] == ["One", "Two"]
    copy_through(source, tmp_path / "back.mkv")
    assert "mov_text does not fit into matroska and is left out; an .mp4 may hold it" in caplog.text


def test_web_film_with_captions(inputs, tmp_path: Path) -> None:
    source = tmp_path / "web.webm"
    options = "-pix_fmt yuv420p " + VP9 + "-c:a libopus -c:s webvtt"
    ffmpeg(*inputs["pictures"], *inputs["sound"], *inputs["words"], *shlex.split(options), source)
    copy_through(source, tmp_path / "back.mkv")
    assert streams_of(tmp_path / "back.mkv") == streams_of(source)
    assert streams_of(source)[1][:2] == ("subtitle", "webvtt")


def test_chapters_move_with_the_start(inputs, tmp_path: Path) -> None:
    source, chapters = tmp_path / "late.mkv", tmp_path / "chapters.txt"
    chapters.write_text(CHAPTERS.replace("=0\n", "=100000\n").replace("=300\n", "=100300\n").replace("600", "100600"))
    late = "-map 0 -map_chapters 1 -output_ts_offset 100 -c:v ffv1 -pix_fmt yuv420p"
    ffmpeg(*inputs["pictures"], *inputs["chapters"], *shlex.split(late), source)
    with open_source(source) as video:
        assert next(video.frames()).pts == 0
        assert [c.start * c.time_base for c in video.info.chapters] == [0, Fraction(3, 10)]


def test_a_second_video_is_named_in_a_warning(inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "two.mkv"
    ffmpeg(*inputs["pictures"], *inputs["pictures"], *shlex.split("-map 0 -map 1 -c:v ffv1 -pix_fmt yuv420p"), source)
    copy_through(source, tmp_path / "back.mkv")
    assert "1 further video streams are left out: an .sdv holds one" in caplog.text


@pytest.mark.parametrize("suffix", ["mov", "mxf"])
def test_timecode_is_kept(inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    source, target = tmp_path / f"source.{suffix}", tmp_path / "back.mov"
    ffmpeg(*inputs["pictures"], *shlex.split("-pix_fmt yuv422p " + MPEG2 + "-timecode 01:02:03:04"), source)
    info = copy_through(source, target)
    assert info.metadata["timecode"] == "01:02:03:04" and not caplog.records
    with av.open(str(target)) as container:
        assert [stream.metadata["timecode"] for stream in container.streams.data] == ["01:02:03:04"]


@pytest.mark.parametrize(
    ("timecode", "rate", "kept"),
    [
        ("01:02:03:04", 25, True),
        ("01:02:03;04", Fraction(30000, 1001), True),
        ("01:02:03;04", 25, False),
        ("01:02:03:04", 60000, False),
        ("half past nine", 25, False),
        ("", 25, False),
    ],
)
def test_an_invalid_timecode_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, timecode: str, rate: Fraction, kept: bool
) -> None:
    info = StreamInfo(96, 64, Fraction(1, 90000), rate=Fraction(rate), metadata={"TimeCode": timecode})
    with open_sink(tmp_path / "out.mp4", info) as sink:
        sink.write(Frame(0, 3600, Picture(*synthesise(96, 64, 1)[0])))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.data) == kept
    assert ("is left out: it does not fit" in caplog.text) == (not kept)


# --- single cases -------------------------------------------------------------------------------------------


def test_the_rate_of_dv_is_not_its_clock_rate(tmp_path: Path) -> None:
    with open_source(make(KINDS["camera-dv"], tmp_path)) as video:
        assert video.info.rate == 25


def test_sound_hidden_by_an_edit_list_stays_hidden_in_matroska(tmp_path: Path) -> None:
    source = make(KINDS["phone-trimmed"], tmp_path)
    copy_through(source, tmp_path / "back.mkv")
    with av.open(str(source)) as container:
        hidden = sum(packet.is_discard for packet in container.demux(audio=0))
    assert hidden > 10
    with av.open(str(tmp_path / "back.mkv")) as container:
        first = next(container.decode(audio=0))
        assert -2 * 1024 / 48000 < first.time <= 0


def test_packet_sizes_of_a_file_that_starts_late(tmp_path: Path) -> None:
    with open_source(make(KINDS["tv-near-the-clock's-end"], tmp_path)) as video:
        packets = video.packets()
        assert [frame.pts in packets for frame in video.frames()] == [True] * 15


def test_times_of_a_pipe_count_from_its_beginning(tmp_path: Path) -> None:
    source, coded = make(KINDS["tv-near-the-clock's-end"], tmp_path), tmp_path / "coded.sdv"
    with source.open("rb") as stream:
        command = (sys.executable, "-m", "sdvideo", "encode", "-", "-o", str(coded), "--preset", "fast")
        assert subprocess.run(command, stdin=stream, capture_output=True).returncode == 0
    sdvideo.decode(coded, tmp_path / "back.mp4")
    before, after = see(source), see(tmp_path / "back.mp4")
    assert after.begin == 0 and len(after.times) == 15
    assert abs((after.pings[0] - after.times[0]) - (before.pings[0] - before.times[0])) <= 0.001


def test_sound_packets_with_equal_times(inputs, tmp_path: Path) -> None:
    """Matroska counts milliseconds, and MP4 requires increasing times."""
    ffmpeg(*inputs["pictures"], *inputs["sound"], *shlex.split(X264 + "-c:a aac"), tmp_path / "part.mp4")
    parts = "".join(f"file 'part.mp4'\ninpoint {a}\noutpoint {b}\n" for a, b in ((0, 0.25), (0.3, 0.55)))
    (tmp_path / "parts.txt").write_text(parts)
    source = tmp_path / "joined.mkv"
    ffmpeg("-f", "concat", "-safe", 0, "-i", tmp_path / "parts.txt", "-c", "copy", source)
    with av.open(str(source)) as container:
        times = [packet.dts for packet in container.demux(audio=0) if packet.size]
    assert len(set(times)) < len(times)
    copy_through(source, tmp_path / "back.mp4", tmp_path / "back.mov")
    for name in ("back.mp4", "back.mov"):
        assert streams_of(tmp_path / name)[0][3] == len(times)


def test_sound_packets_without_duration(inputs, tmp_path: Path) -> None:
    source = tmp_path / "made.avi"
    ffmpeg(*inputs["pictures"], *inputs["sound"], *shlex.split("-c:v mjpeg -c:a flac"), source)
    copy_through(source, tmp_path / "back.mp4", tmp_path / "back.mkv")
    assert samples_of(tmp_path / "back.mp4") == samples_of(tmp_path / "back.mkv") == samples_of(source)


@pytest.mark.parametrize(("form", "codec"), [("mp4", "mov_text"), ("mkv", "srt")])
def test_subtitles_that_begin_before_the_video(inputs, tmp_path: Path, form: str, codec: str) -> None:
    """The first of two subtitles ends before the pictures begin, or is shown in part."""
    for late, expected in ((0.16, [(0, 0.09), (0.14, 0.34)]), (0.28, [(0.02, 0.22)])):
        source, back = tmp_path / f"{late}.{form}", tmp_path / f"{late}.back.{form}"
        options = shlex.split(X264 + f"-bf 0 -c:s {codec}")
        ffmpeg("-itsoffset", late, *inputs["pictures"], *inputs["words"], *options, source)
        copy_through(source, back)
        with av.open(str(back)) as container:
            found = [
                (float(packet.pts * packet.time_base), float((packet.pts + packet.duration) * packet.time_base))
                for packet in container.demux(subtitles=0)
                if packet.size > 2 and packet.duration
            ]
        assert np.allclose(found, expected, atol=0.002), found
