"""The network that restores decoded pictures at full size, and what runs it."""
