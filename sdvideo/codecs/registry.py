"""The codecs by name. A row says where a codec is; it is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sdvideo.errors import FormatError, SettingError

if TYPE_CHECKING:
    from sdvideo.container.header import Header
    from sdvideo.settings import EncodeSettings

    from .interface import Codec

# "module:object". If the user names no codec, the first one that takes the model is chosen.
_ROWS = {
    "av1": "sdvideo.codecs.av1.codec:CODEC",
    "none": "sdvideo.codecs.latent.codec:CODEC",
}


def register(name: str, place: str) -> None:
    """Add a codec. place: "module:object", the object being a Codec whose name is `name`."""
    _ROWS[name] = place


def names() -> tuple[str, ...]:
    """All names, in the order in which codecs are chosen."""
    return tuple(_ROWS)


def codec_named(name: str) -> Codec:
    """The codec of a name. Raises SettingError if there is none."""
    if name not in _ROWS:
        raise SettingError(f"base is {name!r}; it can be {', '.join(_ROWS)}")
    module, _, attribute = _ROWS[name].partition(":")
    codec: Codec = getattr(import_module(module), attribute)
    return codec


def codec_for_settings(settings: EncodeSettings) -> Codec:
    """The codec that settings ask for. Raises SettingError if they do not fit together."""
    if settings.base is not None:
        codec = codec_named(settings.base)
    else:
        codec = next(codec for codec in map(codec_named, _ROWS) if codec.takes_model(settings.model))
    codec.check_settings(settings)
    return codec


def codec_for_header(header: Header) -> Codec:
    """The codec that a file was made with. Raises FormatError if this version does not have it, or cannot use it."""
    if header.base not in _ROWS:
        known = ", ".join(_ROWS)
        raise FormatError(f'header: base is "{header.base}", must be one of those this version knows: {known}')
    codec = codec_named(header.base)
    codec.check_header(header)
    return codec
