"""Codec "av1": a small picture of every frame, coded by SVT-AV1 and restored at full size by a network."""
