"""Reads and writes pictures and animations through Pillow: upright, opaque, in known colours.

    with PictureSource("photo.jpg") as source:
        (frame,) = source.frames()
    write_picture("photo.png", frame.picture, source.info, "png")

A still is full-range BT.601, as in JPEG, which keeps all 256 levels of each colour. An RGB profile that is not sRGB is
kept (`StreamInfo.icc`), and the colours are not converted; those of CMYK, grey and Lab become sRGB. An animation is an
ordinary video: limited range, sRGB, with the time of each of its frames.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import accumulate, chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from sdvideo.container.header import MAX_AREA, MAX_PROFILE, MAX_SIDE
from sdvideo.errors import SdvError, SourceError
from sdvideo.frames import Colour, Frame, Picture, StreamInfo
from sdvideo.media.colour import from_rgb, to_rgb, usual_matrix
from sdvideo.media.losses import lost

from .heif import HeifFile, NotUnderstood, is_heif
from .heif_decoder import decode_heif, left_out, pillow_reads
from .webp import whole_webp

# No other reader of Pillow is tried: some start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")
# Ticks per second. GIF counts in 1/100 s, WebP and AVIF in 1/1000 s; 1/90000 s holds the usual fractions of an APNG.
_CLOCKS = {"GIF": 100, "WEBP": 1000, "AVIF": 1000, "PNG": 90_000}
# A frame that lasts 1/100 s or less is shown as long as browsers show it.
_SHORTEST, _INSTEAD = Fraction(10, 1000), Fraction(100, 1000)
_STILL = Colour(full_range=True, matrix=6)
_STILL_TIME_BASE = Fraction(1, 25)  # a still has no times, but every video has a time base

# By EXIF orientation. Pillow's ImageOps.exif_transpose also rewrites the EXIF data, and then fails on some that can be
# read, such as text tags that hold numbers.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_SAME_LEVELS = 2  # by which the colours of two profiles may differ and still be taken for the same
# Colour spaces that a profile may have, by the mode of a picture; a grey one may have an RGB profile, too.
_GREY = ("GRAY", "RGB ")
_SPACES = {"L": _GREY, "I": _GREY, "1": _GREY, "CMYK": ("CMYK",), "LAB": ("Lab ",)}


class Unread(SourceError):
    """Pillow does not read this kind of picture; FFmpeg may."""


class PictureSource:
    """A picture or an animation being read; a context manager with the interface of `source.Source`.

    Raises SourceError if the file is not a picture, is damaged, or is larger than the format allows.
    """

    seekable = True
    track_forms: tuple[str, ...] = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._name = os.fspath(path)
        self._size = os.path.getsize(path)
        self._started = self._warned = False
        with _translated(self._name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about damage and size; both are reported or refused here
            self._image = _open(path)
            try:
                self._read()
            except BaseException:
                self.close()
                raise

    def _read(self) -> None:
        image = self._image
        _check_size(image.size)
        numbers, ends = self._numbers_and_ends()
        self._numbers = numbers
        image.seek(numbers[0])
        for line in _losses(image):
            lost("%s", line)
        profile = _sound_profile(image)
        icc = b"" if profile is None or ends else _profile_to_carry(image, profile)
        self._profile = None if icc else profile
        self._first = self._rgb(numbers[0])
        clock = _CLOCKS[image.format or ""] if ends else 0
        ticks = [round(end * clock) for end in ends]
        self._times = list(zip([0, *ticks], ticks)) if ends else [(0, 0)]
        self.info = StreamInfo(
            width=self._first.width,
            height=self._first.height,
            time_base=Fraction(1, clock) if ends else _STILL_TIME_BASE,
            rate=Fraction(len(ends) / ends[-1]).limit_denominator(1_000_000) if ends else None,
            colour=Colour(False, usual_matrix(self._first.height)) if ends else image.info.get("colour", _STILL),
            icc=icc,
        )

    def __enter__(self) -> PictureSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._image.close()

    def frames(self) -> Iterator[Frame]:
        """The upright pictures in order; only once. Raises SourceError for a damaged one, or a second call."""
        if self._started:
            raise SourceError(f"{self._name}: the pictures can be read only once, open the source again")
        self._started = True
        images = chain((self._first,), map(self._rgb, self._numbers[1:]))
        for start, end in self._times:
            with _translated(self._name):
                picture = from_rgb(np.asarray(next(images)), self.info.colour)
            yield Frame(start, end - start, picture)

    def track_files(self) -> list[Path]:
        return []

    def count_frames(self) -> int:
        return len(self._times)

    def packets(self) -> dict[int, tuple[int, bool]]:
        """Bytes and key flag, by pts: all bytes with the first picture, since those of the others are unknown."""
        return {0: (self._size, True)}

    def _numbers_and_ends(self) -> tuple[range, list[Fraction]]:
        """Pillow's numbers of the frames, and the end of each in seconds; [] for a still."""
        image = self._image
        count = self._count()
        if image.format not in _CLOCKS:
            if count > 1 and image.format != "MPO":  # its further pictures are views of the first, for other devices
                lost("%d further pages are left out", count - 1)
            return range(1), []
        first = int(getattr(image, "default_image", False) and count > 1)  # a picture for viewers without animation
        numbers = range(first, count)
        if len(numbers) == 1:
            return numbers, []
        ends = list(accumulate(self._durations(numbers)))
        return range(first, first + len(ends)), ends if len(ends) > 1 else []

    def _count(self) -> int:
        """The number of frames that can be found; of a GIF that was cut short, those before the cut."""
        try:
            return getattr(self._image, "n_frames", 1)
        except (IndexError, EOFError, OSError, SyntaxError, ValueError, struct.error) as error:
            count = 1
            with suppress(IndexError, EOFError, OSError, SyntaxError, ValueError, struct.error):
                while True:
                    self._image.seek(count)
                    count += 1
            lost("%s: ends early, after %d frames: %s", self._name, count, error)
            return count

    def _durations(self, numbers: range) -> Iterator[Fraction]:
        """Seconds that each frame is shown, up to where the file is damaged; known only after decoding."""
        for number in numbers:
            try:
                self._image.seek(number)
                self._image.load()
            except (OSError, EOFError, ValueError, SyntaxError) as error:
                if number == numbers[0]:
                    raise
                done = number - numbers[0]
                lost("%s: ends early, after %d of %d frames: %s", self._name, done, len(numbers), error)
                return
            seconds = Fraction(self._image.info.get("duration", 0) / 1000).limit_denominator(65535)
            yield seconds if seconds > _SHORTEST else _INSTEAD

    def _rgb(self, number: int) -> Image.Image:
        """A frame, upright and opaque, in the colours of info."""
        self._image.seek(number)
        self._image.load()
        image = _eight_bits(_upright(self._image))
        if image.has_transparency_data:
            image, through = _over_white(image)
            if through and not self._warned:
                self._warned = True
                lost("transparent parts are put on white")
        if self._profile is not None:
            return _to_srgb(image, self._profile)
        return image.convert("RGB")


def write_picture(
    file: str | os.PathLike[str] | BinaryIO, picture: Picture, info: StreamInfo, form: str, lossless: bool = False
) -> None:
    """Write one picture as "png", "jpeg" or "webp", with the colour profile of info.

    lossless: for WebP; PNG always is, JPEG cannot be. Raises OSError or ValueError if Pillow cannot write it.
    """
    # Visually the same as the decoded picture, whose chroma has half the size anyway.
    lossy = {"quality": 95, "subsampling": "4:2:0"} if form == "jpeg" else {"quality": 95}
    options = {} if form == "png" else {"lossless": True} if lossless else lossy
    Image.fromarray(to_rgb(picture, info.colour)).save(file, form, icc_profile=info.icc or None, **options)


# --- errors -------------------------------------------------------------------------------------------------


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        raise type(error)(f"{name}: {error}") from error
    except (SdvError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Unread(f"{name}: begins like a picture, but cannot be read as one") from error
    except Image.DecompressionBombError as error:
        raise SourceError(f"{name}: {_TOO_LARGE}") from error
    except Exception as error:  # on damaged files Pillow's readers raise errors of any kind
        raise SourceError(f"{name}: {getattr(error, 'strerror', None) or error or type(error).__name__}") from error


_TOO_LARGE = f"a picture may have {MAX_SIDE:,} pixels a side and {MAX_AREA:,} in all; make it smaller first"


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_AREA:
        raise SourceError(f"has {width}x{height} pixels; {_TOO_LARGE}")


# --- opening ------------------------------------------------------------------------------------------------


def _open(path: str | os.PathLike[str]) -> Image.Image:
    """The picture or animation, for Pillow to load, or decoded already."""
    with open(path, "rb") as file:
        if is_heif(file.read(12)):
            return _open_heif(path, file)
        file.seek(0)
        if (whole := whole_webp(file)) is not None:
            lost("%s: ends early: the frame that is cut is left out", os.fspath(path))
            return Image.open(io.BytesIO(whole), formats=_FORMATS)
    return Image.open(path, formats=_FORMATS)


def _open_heif(path: str | os.PathLike[str], file: BinaryIO) -> Image.Image:
    """By Pillow if it shows the picture as it is meant; else by FFmpeg, else by pi-heif, if that is installed."""
    try:
        heif = HeifFile(file)
        _check_size(heif.size)
        image = _avif(path) if pillow_reads(heif) else None
        image = decode_heif(heif) if image is None else image
    except NotUnderstood as error:
        try:
            import pi_heif
        except ImportError:
            raise NotUnderstood(f'{error}; try again after pip install "sdvideo[heif]"') from error
        image = pi_heif.open_heif(path).to_pillow()
        image.info.pop("exif", None)  # it is turned upright already
        return image
    if others := left_out(heif):
        lost("left out, an .sdv cannot hold them: %s; keep the original for them", ", ".join(others))
    return image


def _avif(path: str | os.PathLike[str]) -> Image.Image | None:
    with suppress(UnidentifiedImageError):  # some that break a rule of the format can be decoded all the same
        return Image.open(path, formats=_FORMATS)
    return None


# --- pictures of all kinds ----------------------------------------------------------------------------------


def _upright(image: Image.Image) -> Image.Image:
    """The picture, turned as its EXIF data says."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # a picture can be shown without valid EXIF data
        lost("its EXIF data is damaged, so it is not turned: %s", error)
        turn = None
    return image if turn is None else image.transpose(turn)


def _losses(image: Image.Image) -> list[str]:
    """What this picture, which is not loaded yet, loses as 8-bit RGB: lines for the log, often none."""
    if image.mode in ("I", "F"):
        raise Unread("has samples of 32 bits, whose white level is not known; convert it first")
    lines = []
    if (
        ";16" in f"{image.mode} {getattr(image, 'tile', '')}"
    ):  # Pillow gives 8 bits; only its description of how to read them tells
        lines.append("16-bit input is converted to 8 bit")
    if image.mode == "CMYK" and "icc_profile" not in image.info:
        lines.append("CMYK without an ICC profile: its colours are a guess")
    return lines


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey -> "L"; Pillow itself would clip values above 255."""
    if not image.mode.startswith("I;16"):
        return image
    grey = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))


def _over_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture on white, and whether any white shows; grey stays grey."""
    layers = image.convert("RGBA")
    through = layers.getchannel("A").getextrema() != (255, 255)
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layers)
    return flat.convert("L" if image.mode in ("L", "LA", "La") else "RGB"), through


# --- colour profiles ----------------------------------------------------------------------------------------


def _sound_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The picture's ICC profile, if it has one that is not sRGB. A profile that cannot be used is left out."""
    icc = image.info.get("icc_profile")
    if not icc:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space
        if space not in _SPACES.get(image.mode.split(";")[0].rstrip("Aa"), ("RGB ",)):
            raise ValueError(f"it describes {space.strip()} colours")
        levels = _on_cube(profile)
        srgb = space == "RGB " and np.abs(levels - _on_cube(_SRGB)).max() <= _SAME_LEVELS
        return None if srgb else profile
    except Exception as error:
        lost("its ICC profile is left out: %s", error)
        return None


def _on_cube(profile: ImageCms.ImageCmsProfile) -> np.ndarray:
    """What a profile maps a grid of colours to, in sRGB: there are too many sRGB profiles to recognise them by name."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    return np.asarray(_to_srgb(Image.fromarray(cube), profile)).astype(int)


def _profile_to_carry(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> bytes:
    """The profile to keep with a still; b"" if its colours become sRGB instead."""
    icc: bytes = image.info.get("icc_profile", b"")
    if profile.profile.xcolor_space != "RGB ":
        return b""
    if len(icc) > MAX_PROFILE:
        lost("its ICC profile has %d bytes, too many: the colours become sRGB instead", len(icc))
        return b""
    return icc


def _to_srgb(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    space = profile.profile.xcolor_space
    mode = {"GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}.get(space, "RGB")
    converted = ImageCms.profileToProfile(
        image if image.mode == mode else image.convert(mode),
        profile,
        _SRGB,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # it is only if the conversion is done in place
    return converted
