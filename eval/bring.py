"""The name that `eval.import_run` had before: `python -m eval.bring` goes on working."""

from .import_run import console

if __name__ == "__main__":
    console()
