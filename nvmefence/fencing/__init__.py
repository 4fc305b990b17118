"""Survey, fence, verify: what is attached to whom, cutting it, and the evidence that it is cut."""
