"""Video, sound and pictures of other formats in and out, through FFmpeg (PyAV) and Pillow."""
