"""What the user may choose, checked in one place."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

from .errors import SettingError

PRESETS = ("fast", "balanced", "best")
DEVICES = ("auto", "cpu", "cuda")
BASES = ("av1", "none")
SCALES = ("1", "2/3", "1/2")
QUANTIZERS = ("uniform", "8bit", "palette")
DEFAULT_MODEL = "embedded"
DEFAULT_QUALITY = 50.0
# Is told of frames done, frames in all or None, bytes of video so far (0 where none are made), and average frames per
# second of the video or None.
Progress = Callable[[int, "int | None", int, "Fraction | None"], None]
DENOISE_STEPS = 66  # of the schedule whose last ones clean latents; Bühlmann's


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How to encode.

    quality: 0..100, or None when bitrate or size steers. bitrate: bits per second of video; size: bytes of the whole
    file. keyint: the most frames a group may have, 1 = every frame stands alone; if not given, with an AV1
    base 161, or as many as there is room for in 400 MB, and 64 with base none. preset: how long to search.
    model: "embedded", a folder or a Hub id, owner/name or owner/name@revision. base: "av1" or "none" (latent deltas and
    coded block motion); if not given, "av1" with the embedded model, and "none" with others, which have no other way.
    device: see DEVICES. scale: of the pictures that are coded, one of SCALES; if not given, what suits the quality,
    with base av1 each group; "1" with models other than the embedded one.
    quantizer: how the latents of models other than the embedded one become integers: "uniform" by quality, bitrate or
    size; "8bit" and "palette" know no such choice. workers: groups of an AV1 base that are prepared side by side
    while one is coded; the file is the same for any number; 0 takes least memory; if not given, one less than there
    are cores, but not none of one core, and as far as there is room for their pictures.
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

    def __post_init__(self):
        for name, kind in (
            ("quality", number),
            ("bitrate", number),
            ("size", number),
            ("keyint", whole),
            ("workers", whole),
        ):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, kind(name, value))
        if not isinstance(self.model, str | os.PathLike) or not os.fspath(self.model):
            raise SettingError(f"model is {self.model!r}; it is a name or a folder")
        object.__setattr__(self, "model", os.fspath(self.model))
        given = [name for name in ("quality", "bitrate", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise SettingError(f"{' and '.join(given)} exclude each other: give one")
        if not given and self.quantizer == "uniform":
            object.__setattr__(self, "quality", DEFAULT_QUALITY)
        if self.base is None:
            object.__setattr__(self, "base", "av1" if self.model == DEFAULT_MODEL else "none")
        _within("quality", self.quality, 0, 100)
        _within("bitrate", self.bitrate, 100, 1e10)
        _within("size", self.size, 500, 1e13)
        _within("keyint", self.keyint, 1, 65535)
        _within("workers", self.workers, 0, 64)
        for name, choices in (("preset", PRESETS), ("base", BASES), ("device", DEVICES), ("quantizer", QUANTIZERS)):
            check_choice(name, getattr(self, name), choices)
        if self.scale is not None:
            check_choice("scale", self.scale, SCALES)
        if self.base == "av1" and self.model != DEFAULT_MODEL:
            raise SettingError(f"model {self.model} has no part in base av1; it needs base none")
        if self.quantizer != "uniform":
            if self.model == DEFAULT_MODEL:
                raise SettingError(f"quantizer {self.quantizer} is for latents of diffusers models: name one as model")
            if given:
                raise SettingError(f"{given[0]} has no meaning with quantizer {self.quantizer}, which has but one")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises SettingError for what is no choice."""
    if value not in choices:
        raise SettingError(f"{name} is {value!r}; it can be {', '.join(choices)}")


def number(name: str, value: Any) -> float:
    """Any number as one of Python's. Raises SettingError for what is none."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    raise SettingError(f"{name} is {value!r}; it is a number")


def whole(name: str, value: Any) -> int:
    """The same for whole numbers."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise SettingError(f"{name} is {value!r}; it is a whole number")


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise SettingError(f"{name} is {value:g}; it can be {low:g} to {high:g}")


_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


def parse_amount(text: str) -> float:
    """'60k' -> 60000.0, '2M' -> 2000000.0: decimal units, as in bits per second and bytes."""
    number, unit = text.strip().rstrip("bB"), ""
    if number and number[-1].lower() in _UNITS:
        number, unit = number[:-1], number[-1].lower()
    try:
        return float(number) * _UNITS[unit]
    except ValueError as error:
        raise SettingError(f"{text!r} is no amount; write 60k, 2M or a plain number") from error
