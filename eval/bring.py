"""The earlier name of `eval.import_run`, so that `python -m eval.bring` works."""

from .import_run import console

if __name__ == "__main__":
    console()
