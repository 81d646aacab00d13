"""The version of this package, a literal, so that building imports nothing."""

__version__ = "0.1.0"
