"""What a vendor does not say of a drive, measured on one that is set aside: `nvmefence qualify`, nothing else."""
