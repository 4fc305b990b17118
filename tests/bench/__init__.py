"""Measures fences in the laboratory, beside the bare minimum of commands and nvme-cli; and the way from a request
to its response here, beside a bare interpreter and a pair that polls."""
