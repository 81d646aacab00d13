"""Reports that compare two videos: pairing of frames, measures, the HTML page."""
