"""The built-in sample catalogue: drawn products."""
