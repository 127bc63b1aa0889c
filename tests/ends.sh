#!/usr/bin/env bash
# Runs the suite at both ends of the versions that diffjax takes, each in a virtual environment of its own.
#
#   tests/ends.sh [oldest|newest|both] [pytest options]
#
# oldest: constraints/oldest.txt (jax 0.7.2) on Python 3.11; newest: the newest of everything on Python 3.12. The Pythons are
# python3.11 and python3.12 on the PATH, or $PYTHON311 and $PYTHON312. Prints one line for each end; fails if one failed.
# With KEEP=folder the environments and the logs stay there, and are used again.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

case "${1:-both}" in
    oldest | newest) ends=("$1") && shift ;;
    both) ends=(oldest newest) && shift || true ;;
    -*) ends=(oldest newest) ;;
    *) echo "Got the end '$1', expected oldest, newest or both (then options of pytest)." >&2 && exit 2 ;;
esac

folder=${KEEP:-$(mktemp -d)}
mkdir -p "$folder"
[ -n "${KEEP:-}" ] || trap 'rm -rf "$folder"' EXIT

oldest=(-c "$root/constraints/oldest.txt")
newest=(--upgrade --upgrade-strategy eager)

run() { # end, Python, pip options...; pytest options in $options
    local end=$1 python=$2 venv=$folder/$1 log=$folder/$1.log
    shift 2
    command -v "$python" > /dev/null || { echo "$end: no $python on the PATH; set \$PYTHON311 or \$PYTHON312." >&2 && return 1; }
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    # One resolution for all, so that a pin that cannot be kept fails here and by name.
    if ! "$venv/bin/pip" install --quiet "$@" -e "$root[test]" > "$log" 2>&1; then
        echo "$end: the versions do not install together: $(grep -m 1 ERROR "$log"); see $log" && cat "$log" >&2
        return 1
    fi
    local versions status=0
    versions=$("$venv/bin/python" -c 'import sys, importlib.metadata as m; print("Python", sys.version.split()[0], *(f"{p} {m.version(p)}" for p in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")))')
    (cd "$root" && JAX_PLATFORMS=cpu "$venv/bin/python" -m pytest -q "${options[@]}") >> "$log" 2>&1 || status=$?
    [ "$status" = 0 ] || tail -n 60 "$log" >&2
    echo "$end ($versions): $(tail -n 1 "$log")"
    return "$status"
}

options=("$@")
failed=0
for end in "${ends[@]}"; do
    case $end in
        oldest) run oldest "${PYTHON311:-python3.11}" "${oldest[@]}" || failed=1 ;;
        newest) run newest "${PYTHON312:-python3.12}" "${newest[@]}" || failed=1 ;;
    esac
done
exit "$failed"
