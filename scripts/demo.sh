#!/usr/bin/env bash
# Set up and run the main job on the built-in model and data: `bash scripts/demo.sh`
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup torch
exec .venv/bin/python -m eval "$@"
