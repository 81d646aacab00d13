"""Entropy coding of latents and motion: syntax, probability models, range coder."""
