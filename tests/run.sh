#!/usr/bin/env bash
# The whole suite, the same for people and CI. Arguments go to pytest: `bash tests/run.sh -k scheduler`, `--long`.
# Two processes share the tests; those marked `alone`, which measure time or fill the machine, run one by one after them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. deploy/setup_venv.sh

current="setting up"
report() {
  local code=$?
  ((code == 0)) || echo "FAILED: $current (exit code $code)" >&2
}
trap report EXIT

step() {
  current=$1
  shift
  printf '\n== %s\n' "$current"
  "$@"
}

# The tests of networks make namespaces with it; where it is missing they are skipped and say so.
install_iproute() {
  if ! command -v ip >/dev/null && command -v apt-get >/dev/null && ((EUID == 0)); then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends iproute2
  fi
}

# The page's tests drive a real browser.
install_chromium() {
  if command -v chromium chromium-browser google-chrome >/dev/null; then
    return
  fi
  if command -v apt-get >/dev/null && ((EUID == 0)); then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium
  else
    echo "The tests of the status page need a browser: install Debian's package \`chromium\`, or Google Chrome." >&2
  fi
}

step "environment" setup_venv dev
step "browser" install_chromium
step "network tools" install_iproute
export PATH="$PWD/.venv/bin:$PATH"

step "format" ruff format --check .
step "lint" ruff check .
step "types" mypy
step "import layers" lint-imports
step "generated code" python proto/generate.py --check

INTERRUPTED=2 NO_TESTS=5 # pytest's exit codes
outcomes=() worst=$NO_TESTS

# run_tests NAME ARGUMENTS...: go on after failures, so that one run shows them all.
run_tests() {
  local name=$1 code=0
  shift
  step "$name" python -m pytest "$@" || code=$?
  ((code != INTERRUPTED)) || exit "$code"
  case $code in
    0) outcomes+=("$name: passed") ;;
    "$NO_TESTS") outcomes+=("$name: none selected") ;;
    *) outcomes+=("$name: FAILED (exit code $code)") ;;
  esac
  ((code == NO_TESTS || (code == 0 && worst != NO_TESTS))) || worst=$code
}

export OMP_WAIT_POLICY=passive # threads that wait leave the core to the other process
run_tests "tests, on two processes" --part together -n 2 --dist loadfile --no-loadscope-reorder "$@"
unset OMP_WAIT_POLICY
run_tests "tests, one by one" --part alone "$@" -n 0
printf '\n== summary\n'
printf '%s\n' "${outcomes[@]}"
current="tests"
((worst == 0)) || exit "$worst"
printf '\nAll passed.\n'
