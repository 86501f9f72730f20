"""What other packages build on: crash-safe files, signals, cores, memory, clocks, and the machine."""
