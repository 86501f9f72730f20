"""What the rest stands on: files that survive a crash, signals, cores, memory, clocks, and the machine."""
