"""Reports on two videos: pairing their frames, measuring them, and the HTML page."""
