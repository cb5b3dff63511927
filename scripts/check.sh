#!/usr/bin/env bash
# Set up and run format, lint, types, dependencies, workflows and tests: `bash scripts/check.sh [pytest arguments]`
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup torch,ingest,heif,serve,dev

# The report page is tested in a real browser. Debian's is used where it can be installed, else playwright's own.
browser() { command -v chromium || command -v google-chrome || ls -d "/Applications/Google Chrome.app" 2>/dev/null; }
if ! browser >/dev/null; then
  echo "installing a browser for the page tests"
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1 || true
  else
    .venv/bin/python -m playwright install chromium >/dev/null 2>&1 || true
  fi
  browser >/dev/null || echo "no browser could be installed: the page tests will be skipped"
fi

.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/deptry mlx_phi3v data eval
# Scripts and tests may also use the extras bench and dev.
.venv/bin/deptry scripts scripts/{bench,cuda,measure,tiny} tests --ignore DEP002,DEP004 --extend-exclude tests/recorded
.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
.venv/bin/python -m pytest -q --doctest-modules mlx_phi3v data eval
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
