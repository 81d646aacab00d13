"""Codec "none": latents of an autoencoder, coded as deltas to a motion-compensated prediction."""
