# Sourced by demo.sh and check.sh: create or reuse .venv and install into it. Runs on macOS (bash 3.2) and Linux.
# Usage: setup EXTRAS   (for example: setup torch,dev)

setup() {
  local extras="$1" python="" candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      python="$candidate"
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "error: Python 3.11 or newer is needed: brew install python@3.12, or apt-get install python3 python3-venv" >&2
    return 1
  fi
  [ -x .venv/bin/python ] || { echo "creating .venv with $($python --version)"; "$python" -m venv .venv || return 1; }
  # Installed once per state of these files.
  local stamp=".venv/.installed-$extras"
  if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ requirements.lock -nt "$stamp" ]; then
    echo "installing packages (some minutes, torch is the largest)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[$extras]" || return 1
    touch "$stamp"
  fi
}
