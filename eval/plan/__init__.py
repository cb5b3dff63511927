"""How many rows and trainings a verdict needs, before the work is done."""
