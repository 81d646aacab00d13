"""What files say of their streams and PyAV does not show."""
