"""Small synthetic clips, made with PyAV when a test first asks for them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a busy one is slow, not wrong
settings.load_profile("any machine")

Planes = tuple[np.ndarray, np.ndarray, np.ndarray]


def needs(module: str) -> None:
    """Skip a test for want of a package; under CI the extra "test" must have brought it."""
    if find_spec(module) is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{module} is missing, which the extra test should bring")
        pytest.skip(f"{module} is not installed")


@dataclass(frozen=True)
class Clip:
    """A file and what reading it must give; planes is None where the samples change on the way in."""

    path: Path
    width: int
    height: int
    times: tuple[Fraction, ...]
    planes: tuple[Planes, ...] | None
    end: Fraction
    full_range: bool = False
    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    sar: Fraction = Fraction(1)
    rotation: int = 0
    tracks: tuple[tuple[str, str, str], ...] = ()
    chapters: tuple[tuple[Fraction, Fraction, str], ...] = ()
    title: str = ""
    cut: int | None = None

    @property
    def frames(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Recipe:
    """How `write_clip` stores a clip."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    time_base: Fraction = Fraction(1, 12800)
    ticks: tuple[int, ...] = ()
    last_duration: int = 512
    audio: tuple[tuple[str, str], ...] = ()
    subtitle: str = ""
    chapters: tuple[tuple[Fraction, Fraction, str], ...] = ()


# --- pictures -----------------------------------------------------------------------------------------------


def synthesise(width: int, height: int, count: int, *, seed: int = 0, speed: float = 1.5) -> list[Planes]:
    """Smooth noise that pans, with a brighter disc crossing it; 8-bit 4:2:0 planes in limited range."""
    rng = np.random.default_rng(seed)
    size = max(width, height) + 128
    octaves = [(1.0, 24), (2.5, 12), (8.0, 6)]
    texture = sum(weight * _smooth_noise(rng, size, sigma) for sigma, weight in octaves)
    tints = [_smooth_noise(rng, size, 8.0) * 18 for _ in range(2)]
    pictures = []
    for i in range(count):
        shift = np.float32([[1, 0, -8 - speed * i], [0, 1, -8 - speed * i / 3]])
        y = 115 + cv2.warpAffine(texture, shift, (width, height))
        disc = np.zeros((height, width), np.uint8)
        centre = int(width * (0.2 + 0.03 * i)), int(height * (0.6 - 0.01 * i))
        cv2.circle(disc, centre, height // 6, 1, -1)
        y += 60.0 * disc
        u, v = (128 + cv2.warpAffine(tint, shift, (width, height))[::2, ::2] for tint in tints)
        v = v + 30.0 * disc[::2, ::2]
        pictures.append(tuple(np.clip(np.round(plane), 16, 235).astype(np.uint8) for plane in (y, u, v)))
    return pictures


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    noise = cv2.GaussianBlur(rng.standard_normal((size, size)).astype(np.float32), (0, 0), sigma)
    return noise / noise.std()


# --- files --------------------------------------------------------------------------------------------------


def write_clip(path: Path, pictures: list[Planes], recipe: Recipe, **tags: object) -> None:
    """Store planes (and sines beside them) as recipe says; tags are set on the video stream's encoder."""
    height, width = pictures[0][0].shape
    options = {"qp": "0", "preset": "veryfast"} if recipe.codec == "libx264" else {}
    scale = {"movie_timescale": str(recipe.time_base.denominator)} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", container_options=scale) as container:
        stream = container.add_stream(recipe.codec, rate=25, options=options)
        encoder = stream.codec_context
        encoder.width, encoder.height, encoder.pix_fmt = width, height, recipe.pix_fmt
        encoder.time_base = stream.time_base = recipe.time_base
        encoder.max_b_frames = 0
        encoder.flags |= av.codec.context.Flags.frame_duration
        rotation = tags.pop("rotation", 0)
        container.metadata["title"] = str(tags.pop("title", ""))
        for name, value in tags.items():
            setattr(encoder, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        sounds = [container.add_stream(codec, rate=48000, layout="mono") for codec, _ in recipe.audio]
        for sound, (_, language) in zip(sounds, recipe.audio, strict=True):
            sound.metadata["language"] = language
        titles = _add_subtitle(container, path, recipe.subtitle)
        container.set_chapters(
            [
                {
                    "id": i,
                    "start": int(a * 1000),
                    "end": int(b * 1000),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": text},
                }
                for i, (a, b, text) in enumerate(recipe.chapters, 1)
            ]
        )
        for frame in _video_frames(pictures, recipe):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        seconds = (recipe.ticks[-1] - recipe.ticks[0] + recipe.last_duration) * recipe.time_base
        for i, sound in enumerate(sounds):
            for frame in _sine(sound, 220.0 * (i + 1), float(seconds)):
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
        container.mux(titles)


def _video_frames(pictures: list[Planes], recipe: Recipe) -> Iterator[av.VideoFrame]:
    ends = (*recipe.ticks[1:], recipe.ticks[-1] + recipe.last_duration)
    height, width = pictures[0][0].shape
    for planes, pts, end in zip(pictures, recipe.ticks, ends, strict=True):
        frame = av.VideoFrame(width, height, recipe.pix_fmt)
        for target, plane in zip(frame.planes, planes, strict=True):
            _fill(target, plane, frame.format)
        frame.pts, frame.duration, frame.time_base = pts, end - pts, recipe.time_base
        yield frame


def _fill(target: av.video.plane.VideoPlane, plane: np.ndarray, format: av.VideoFormat) -> None:
    """Store an 8-bit 4:2:0 plane, spread to the format's bit depth and chroma size."""
    if format.components[0].bits > 8:
        plane = plane.astype(np.uint16) << (format.components[0].bits - 8)
    if plane.shape != (target.height, target.width):
        plane = plane.repeat(2, 0).repeat(2, 1)[: target.height, : target.width]
    lines = np.frombuffer(target, plane.dtype).reshape(target.height, -1)
    lines[:, : target.width] = plane


def _sine(stream: av.AudioStream, hertz: float, seconds: float) -> Iterator[av.AudioFrame]:
    count = int(seconds * 48000)
    wave = (8000 * np.sin(2 * np.pi * hertz * np.arange(count) / 48000)).astype(np.int16)
    resampler = av.AudioResampler(stream.format, "mono", 48000, frame_size=stream.frame_size or 1024)
    frame = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
    frame.sample_rate, frame.pts = 48000, 0
    yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _add_subtitle(container: av.container.OutputContainer, path: Path, language: str) -> list[av.Packet]:
    if not language:
        return []
    text = path.with_suffix(".srt")
    text.write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n\n2\n00:00:00,320 --> 00:00:00,500\nthere\n\n")
    with av.open(str(text)) as source:
        stream = container.add_stream_from_template(source.streams.subtitles[0])
        stream.metadata["language"] = language
        packets = [packet for packet in source.demux() if packet.size]
    for packet in packets:
        packet.stream = stream
    return packets


# --- the clips ----------------------------------------------------------------------------------------------

CFR = tuple(range(0, 16 * 512, 512))


def _clip(path: Path, pictures: list[Planes], recipe: Recipe, **expected: object) -> Clip:
    height, width = pictures[0][0].shape
    times = tuple(tick * recipe.time_base for tick in recipe.ticks)
    fields = {
        "width": width,
        "height": height,
        "times": times,
        "planes": tuple(pictures),
        "end": times[-1] + recipe.last_duration * recipe.time_base,
        "chapters": recipe.chapters,
    }
    return Clip(path, **{**fields, **expected})


def _cfr(folder: Path) -> Clip:
    path, pictures = folder / "cfr.mp4", synthesise(96, 64, 16)
    recipe = Recipe(ticks=CFR, audio=(("aac", "eng"),))
    colours = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 1}
    write_clip(path, pictures, recipe, title="A small clip", **colours)
    return _clip(
        path,
        pictures,
        recipe,
        title="A small clip",
        tracks=(("audio", "aac", "eng"),),
        matrix=1,
        primaries=1,
        transfer=1,
    )


def _vfr(folder: Path) -> Clip:
    path, pictures = folder / "vfr.mp4", synthesise(128, 72, 12, seed=1)
    recipe = Recipe(
        time_base=Fraction(1, 90000),
        ticks=(0, 3000, 6003, 7500, 15000, 15001, 24000, 30030, 33033, 60000, 63003, 66006),
        last_duration=4501,
        audio=(("aac", "deu"),),
    )
    write_clip(path, pictures, recipe)
    return _clip(path, pictures, recipe, tracks=(("audio", "aac", "deu"),))


def _late(folder: Path) -> Clip:
    path, pictures = folder / "late.mp4", synthesise(96, 64, 12, seed=2)
    recipe = Recipe(
        time_base=Fraction(1, 30000),
        ticks=tuple(1001 * i for i in range(3, 15)),
        last_duration=1001,
        audio=(("aac", "eng"),),
    )
    write_clip(path, pictures, recipe)
    return _clip(path, pictures, recipe, tracks=(("audio", "aac", "eng"),))


def _odd(folder: Path) -> Clip:
    path, pictures = folder / "odd.mkv", synthesise(65, 47, 12, seed=3)
    recipe = Recipe(codec="ffv1", time_base=Fraction(1, 1000), ticks=tuple(range(0, 480, 40)), last_duration=40)
    write_clip(path, pictures, recipe)
    return _clip(path, pictures, recipe)


def _odd444(folder: Path) -> Clip:
    path, pictures = folder / "odd444.mp4", synthesise(65, 47, 12, seed=3)
    recipe = Recipe(pix_fmt="yuv444p", ticks=CFR[:12])
    write_clip(path, pictures, recipe)
    return _clip(path, pictures, recipe, planes=None)


def _rotated(folder: Path) -> Clip:
    path, pictures = folder / "rotated.mp4", synthesise(96, 64, 12, seed=4)
    recipe = Recipe(ticks=CFR[:12])
    write_clip(path, pictures, recipe, rotation=90, sample_aspect_ratio=Fraction(4, 3))
    upright = tuple(tuple(np.rot90(plane) for plane in planes) for planes in pictures)
    return _clip(path, pictures, recipe, planes=upright, width=64, height=96, rotation=90, sar=Fraction(3, 4))


def _ten_bit(folder: Path) -> Clip:
    path, pictures = folder / "ten_bit.mkv", synthesise(96, 64, 12, seed=5)
    recipe = Recipe(
        codec="ffv1",
        pix_fmt="yuv420p10le",
        time_base=Fraction(1, 1000),
        ticks=tuple(range(0, 480, 40)),
        last_duration=40,
    )
    colours = {"color_range": 1, "colorspace": 9, "color_primaries": 9, "color_trc": 16}
    write_clip(path, pictures, recipe, **colours)
    return _clip(path, pictures, recipe, planes=None, matrix=9, primaries=9, transfer=16)


def _silent(folder: Path) -> Clip:
    path, pictures = folder / "silent.mp4", synthesise(96, 64, 24, seed=6)
    recipe = Recipe(ticks=tuple(range(0, 24 * 512, 512)))
    write_clip(path, pictures, recipe, sample_aspect_ratio=Fraction(16, 11))
    return _clip(path, pictures, recipe, sar=Fraction(16, 11))


def _two_audio(folder: Path) -> Clip:
    path, pictures = folder / "two_audio.mp4", synthesise(96, 64, 16, seed=7)
    recipe = Recipe(ticks=CFR, audio=(("aac", "eng"), ("libmp3lame", "fra")))
    write_clip(path, pictures, recipe)
    return _clip(path, pictures, recipe, tracks=(("audio", "aac", "eng"), ("audio", "mp3", "fra")))


def _rich(folder: Path) -> Clip:
    path, pictures = folder / "rich.mkv", synthesise(96, 64, 16, seed=8)
    recipe = Recipe(
        time_base=Fraction(1, 1000),
        ticks=tuple(range(0, 640, 40)),
        last_duration=40,
        audio=(("libopus", "eng"),),
        subtitle="fra",
        chapters=((Fraction(0), Fraction(3, 10), "Start"), (Fraction(3, 10), Fraction(64, 100), "Rest")),
    )
    write_clip(path, pictures, recipe, title="Rich")
    return _clip(path, pictures, recipe, title="Rich", tracks=(("audio", "opus", "eng"), ("subtitle", "subrip", "fra")))


def _full_range(folder: Path) -> Clip:
    path, pictures = folder / "full_range.mp4", synthesise(96, 64, 12, seed=9)
    recipe = Recipe(ticks=CFR[:12])
    write_clip(path, pictures, recipe, color_range=2, colorspace=6, color_primaries=6, color_trc=6)
    return _clip(path, pictures, recipe, full_range=True, matrix=6, primaries=6, transfer=6)


def _still(folder: Path) -> Clip:
    path, pictures = folder / "still.mp4", synthesise(96, 64, 1, seed=10) * 16
    recipe = Recipe(ticks=CFR)
    write_clip(path, pictures, recipe)
    return _clip(path, pictures, recipe)


def _cut(folder: Path) -> Clip:
    path, pictures = folder / "cut.mp4", synthesise(96, 64, 10, seed=11) + synthesise(96, 64, 10, seed=12)
    recipe = Recipe(ticks=tuple(range(0, 20 * 512, 512)))
    write_clip(path, pictures, recipe)
    return _clip(path, pictures, recipe, cut=10)


BUILDERS: dict[str, Callable[[Path], Clip]] = {
    "cfr": _cfr,
    "vfr": _vfr,
    "late": _late,
    "odd": _odd,
    "odd444": _odd444,
    "rotated": _rotated,
    "ten_bit": _ten_bit,
    "silent": _silent,
    "two_audio": _two_audio,
    "rich": _rich,
    "full_range": _full_range,
    "still": _still,
    "cut": _cut,
}


class Clips(Mapping[str, Clip]):
    """The clips by name, each written when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Clip] = {}

    def __getitem__(self, name: str) -> Clip:
        if name not in self._made:
            self._made[name] = BUILDERS[name](self._folder)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(BUILDERS)

    def __len__(self) -> int:
        return len(BUILDERS)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """All synthetic clips: clips["vfr"].path; the names are the keys of BUILDERS."""
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(params=sorted(BUILDERS))
def clip(request: pytest.FixtureRequest, clips: Clips) -> Clip:
    """Each synthetic clip in turn."""
    return clips[request.param]


@pytest.fixture(scope="session")
def shared_clips() -> list[Path]:
    """Real clips, where the checkout has a folder of them beside it."""
    found = sorted((Path(__file__).resolve().parents[2] / "shared" / "clips").glob("*.mp4"))
    if not found:
        pytest.skip("no real clips beside the checkout")
    return found


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged so far as a warning or worse, a line a message."""
    caplog.set_level(logging.WARNING, "sdvideo")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks and pictures this small are slower on several threads, much slower where others want the cores too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_dc(**config):
    """An AutoencoderDC of diffusers with random weights: 8 channels, 32 pixels per latent."""
    from diffusers import AutoencoderDC

    kinds, scales = ("ResBlock",) * 5 + ("EfficientViTBlock",), ((),) * 5 + ((5,),)
    return AutoencoderDC(
        latent_channels=8,
        attention_head_dim=4,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=(8,) * 6,
        decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        **config,
    )
