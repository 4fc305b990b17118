"""NVMe itself: commands, data structures, status codes, the submission queue, the emulated subsystem."""
