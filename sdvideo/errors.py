"""Everything sdvideo raises on purpose.

* SdvError                 exit 1
  * SourceError            the input video cannot be opened or decoded (exit 1)
  * SinkError              the output cannot be written (exit 1)
    * OutputExists         it is there already (exit 4)
  * SettingError           a setting has a value outside its range (exit 2)
  * ModelError             the latent model is missing, unknown or another one than the file names (exit 1)
  * FormatError            the file is not an .sdv, or one this version cannot read (exit 3)
    * DamagedError         the file was an .sdv once: cut short, or bytes changed (exit 3)

Errors of the libraries underneath are translated where they are caught, with `raise ... from`.
"""


class SdvError(Exception):
    """Base of all errors of this package; its text is one line, fit to be shown to the user."""

    exit_code = 1


class SourceError(SdvError):
    """The input video cannot be opened, or has no pictures."""


class SinkError(SdvError):
    """The output cannot be written."""


class OutputExists(SinkError):
    """The output file is there already and was not asked to be overwritten."""

    exit_code = 4


class SettingError(SdvError, ValueError):
    """A setting lies outside its range."""

    exit_code = 2


class ModelError(SdvError):
    """The latent model is missing, unknown, unfit, or not the one the file was made with."""


class FormatError(SdvError):
    """The bytes are not an .sdv file that this version can read."""

    exit_code = 3


class DamagedError(FormatError):
    """The file was an .sdv once, but is cut short or has changed bytes."""
