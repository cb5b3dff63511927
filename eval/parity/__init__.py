"""Hold the backends against recorded outputs of the published code, or against each other."""
