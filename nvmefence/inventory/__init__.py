"""What is there: drives, our own controllers on them, and the map from host names to controllers."""
