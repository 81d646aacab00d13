"""Codec "av1": a small picture of every frame, coded by SVT-AV1 and painted at full size by a network."""
