"""The network that paints decoded pictures at full size, and what runs it."""
