#!/usr/bin/env bash
# Set up and run the main job on the built-in model and data, some minutes: `bash scripts/demo.sh`
# Flags go to `python -m eval`, such as --seeds 5 or --tune-on mlx; `bash scripts/demo.sh --help` lists them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup torch
exec .venv/bin/python -m eval "$@"
