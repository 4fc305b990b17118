"""The record of what was taken from a host: kept durably, so that exactly that can be given back."""
