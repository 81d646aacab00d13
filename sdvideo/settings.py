"""What the user may choose, and the checks that do not depend on the codec."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypedDict

from .errors import SettingError

if TYPE_CHECKING:
    from .frames import StreamInfo

PRESETS = ("fast", "balanced", "best")
DEVICES = ("auto", "cpu", "cuda")
SCALES = ("1", "2/3", "1/2")
QUANTIZERS = ("uniform", "8bit", "palette")
DEFAULT_MODEL = "embedded"
DEFAULT_QUALITY = 50.0
LOOKS = {"faithful": 0.0, "natural": 1.0}
DENOISE_STEPS = 66  # of the diffusion schedule whose last steps clean latents; Bühlmann's

# Called with: frames done; frames in all, or None; bytes of video so far, 0 where none are made; average frames per
# second of the video, or None.
ProgressCallback = Callable[[int, "int | None", int, "Fraction | None"], None]


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How to encode.

    quality: 0..100, or None when bitrate or size steers; 50 if none of the three is given. bitrate: bits per second of
    video. size: bytes of the whole file. keyint: the most frames of a group, 1 = every frame stands alone; if not
    given, 161 with base av1, or as many as fit into 400 MB, and 64 with base none. preset: how long to search.
    model: "embedded", a folder or a Hub id, owner/name or owner/name@revision. base: "av1" or "none" (latent deltas and
    coded block motion); if not given, "av1" with the embedded model, and "none" with others, which need it.
    device: one of DEVICES. scale: of the pictures that are coded, one of SCALES; if not given, what suits the quality,
    with base av1 for each group; "1" with models other than the embedded one.
    quantizer: how the latents of models other than the embedded one become integers: "uniform" by quality, bitrate or
    size; "8bit" and "palette" have only one quality. workers: groups of base av1 that are prepared at the same time
    while one is coded; the file is the same for any number; 0 takes least memory; if not given, one less than there
    are cores, at least 1, as far as there is memory for their pictures. look: how base av1 is painted: "faithful" or 0,
    close to the source by error, to "natural" or 1, close to how it looks.

    Raises SettingError for values outside their ranges. Whether they fit the codec is checked when that is chosen, see
    `codecs/registry.py`.
    """

    quality: float | None = None
    bitrate: float | None = None
    size: float | None = None
    keyint: int | None = None
    preset: str = "balanced"
    model: str = DEFAULT_MODEL
    base: str | None = None
    device: str = "auto"
    scale: str | None = None
    quantizer: str = "uniform"
    workers: int | None = None
    look: float = 0.0

    def __post_init__(self) -> None:
        kinds = {"quality": number, "bitrate": number, "size": number, "keyint": whole, "workers": whole}
        for name, kind in kinds.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, kind(name, value))
        if not isinstance(self.model, str | os.PathLike) or not os.fspath(self.model):
            raise SettingError(f"model is {self.model!r}; it is a name or a folder")
        object.__setattr__(self, "model", os.fspath(self.model))
        object.__setattr__(self, "look", look_of(self.look))
        given = [name for name in ("quality", "bitrate", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise SettingError(f"{' and '.join(given)} exclude each other: give one")
        if not given and self.quantizer == "uniform":
            object.__setattr__(self, "quality", DEFAULT_QUALITY)
        _within("quality", self.quality, 0, 100)
        _within("bitrate", self.bitrate, 100, 1e10)
        _within("size", self.size, 500, 1e13)
        _within("keyint", self.keyint, 1, 65535)
        _within("workers", self.workers, 0, 64)
        for name, choices in (("preset", PRESETS), ("device", DEVICES), ("quantizer", QUANTIZERS)):
            check_choice(name, getattr(self, name), choices)
        if self.scale is not None:
            check_choice("scale", self.scale, SCALES)
        if self.quantizer != "uniform" and given:
            raise SettingError(f"quantizer {self.quantizer} has only one quality: leave out {given[0]}")


class EncodeOptions(TypedDict, total=False):
    """The fields of EncodeSettings as keyword arguments, for type checkers."""

    quality: float | None
    bitrate: float | None
    size: float | None
    keyint: int | None
    preset: str
    model: str | os.PathLike[str]
    base: str | None
    device: str
    scale: str | None
    quantizer: str
    workers: int | None
    look: float | str


def bit_budget(settings: EncodeSettings, info: StreamInfo, total: int | None, overhead: int = 0) -> float | None:
    """The bits that the video may take, None at constant quality.

    total: frames of the video, None if not known. overhead: bytes of the file that are not video. Raises SettingError
    if the settings ask for a number of bits that cannot be known.
    """
    if settings.size is None and settings.bitrate is None:
        return None
    if total is None:
        raise SettingError("bitrate and size need an input that can be read twice, not a pipe; give a quality")
    if settings.bitrate is None:
        return float(((settings.size or 0) - overhead) * 8)
    if info.rate is None:
        raise SettingError("the input has no frame rate, so a bitrate means nothing; give a size")
    return float(settings.bitrate * total / info.rate)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises SettingError if the value is not one of the choices."""
    if value not in choices:
        raise SettingError(f"{name} is {value!r}; it can be {', '.join(choices)}")


def look_of(value: float | str) -> float:
    """A name of LOOKS or a number, 0 to 1 -> the number. Raises SettingError for anything else."""
    if isinstance(value, str):
        try:
            value = LOOKS[value] if value in LOOKS else float(value)
        except ValueError as error:
            raise SettingError(f"look is {value!r}; it can be {', '.join(LOOKS)} or a number from 0 to 1") from error
    _within("look", number("look", value), 0, 1)
    return float(value)


def number(name: str, value: Any) -> float:
    """Any real number as int or float. Raises SettingError for anything else."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    raise SettingError(f"{name} is {value!r}; it is a number")


def whole(name: str, value: Any) -> int:
    """Any whole number as int. Raises SettingError for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise SettingError(f"{name} is {value!r}; it is a whole number")


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise SettingError(f"{name} is {value:g}; it can be {low:g} to {high:g}")


_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def parse_amount(text: str) -> float:
    """'60k' -> 60000.0, '2M' -> 2000000.0: decimal units, as in bits per second and bytes. Raises SettingError."""
    number, unit = text.strip().rstrip("bB"), ""
    if number and number[-1].lower() in _UNITS:
        number, unit = number[:-1], number[-1].lower()
    try:
        return float(number) * _UNITS[unit]
    except ValueError as error:
        raise SettingError(f"{text!r} is no amount; write 60k, 2M or a plain number") from error
