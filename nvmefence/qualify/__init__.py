"""What a vendor does not say of a drive, measured on one set aside for it: `nvmefence qualify`, and nothing else."""
