"""Fence agents for Pacemaker: the calling convention, and the agents that follow it."""
