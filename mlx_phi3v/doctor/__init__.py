"""Find out whether this machine's results can be trusted: `python -m mlx_phi3v.doctor`."""
