"""The `model_file` of a checkpoint folder: the Python file with which mlx-vlm and LM Studio run the model as we do."""
