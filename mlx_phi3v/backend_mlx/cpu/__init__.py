"""What replaces slow operations of MLX on a CPU. Metal never enters it."""
