#!/bin/sh
# sh scripts/test.sh [PYTEST OPTIONS]: install sdvideo and the test tools into .venv, then run all tests.
# Only the quick ones: sh scripts/test.sh -m "not slow"
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/scripts/setup.sh"
setup test
setup_browser

cd "$root"
exec .venv/bin/python -m pytest "$@"
