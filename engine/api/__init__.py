"""The HTTP interface: other servers' dialects in, `GenerationRequest`s out, and their answers back."""
