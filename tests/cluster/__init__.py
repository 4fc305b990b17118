"""A real Pacemaker that runs the fence agent against simulated drives."""
