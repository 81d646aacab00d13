"""The codecs, one folder each, behind one interface."""
