"""Near Node Flash: its Kubernetes resources as a source of the host map, and as a place to report fences to."""
