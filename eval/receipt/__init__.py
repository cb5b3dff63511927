"""What a fused, converted or quantised model costs on held-out rows, against what it was made of: `receipt.json`."""
