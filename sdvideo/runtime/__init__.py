"""What the program needs of the machine: threads, files, signals, memory, devices."""
