"""nvmefence: cut a host off shared NVMe drives, and prove it."""

__version__ = "0.1.0"
