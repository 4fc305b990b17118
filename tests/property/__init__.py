"""Properties that must hold of every input (Hypothesis)."""
