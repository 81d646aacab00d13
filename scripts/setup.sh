# Sourced by try.sh and test.sh, which set $root: makes $root/.venv hold sdvideo and the tested versions of what
# it needs. A second call finds the stamp and returns at once.
#
#     setup ""        the package
#     setup test      the package and the extra "test"
#
# PYTHON=/path/to/python3.12 chooses the interpreter the environment is made with.
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu spares Linux without a GPU the CUDA packages.

fail() {
    echo "sdvideo: $*" >&2
    exit 1
}

recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        # Whoever names an interpreter wants that one or an error.
        recent "$PYTHON" || fail "PYTHON=$PYTHON does not run, or is older than Python 3.10"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "needs Python 3.10 or newer; python3 here: $(python3 --version 2>&1 || true)." \
        "Install one, or name it: PYTHON=/path/to/python3.12 sh $0"
}

setup() {
    extra=$1
    venv=$root/.venv
    # Moved folders break an environment and its entry points, so the place is part of what is stamped.
    wanted=$({ echo "$root" && cat "$root/pyproject.toml" "$root/constraints.txt"; } | cksum)
    stamp=$venv/sdvideo-ready${extra:+-$extra}
    if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi

    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv"
        echo "Making $venv with $("$python" --version)" >&2
        "$python" -m venv --clear "$venv" || fail "$python -m venv failed: see above"
    fi

    echo "Installing sdvideo and what it needs: some minutes and 1.5 GB the first time (more with CUDA)" >&2
    # Editable, so that a changed source file is what runs next.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$root/constraints.txt" --editable "$root${extra:+[$extra]}" ||
        fail "pip could not install everything: see above"
    # OpenCV's usual wheel wants libGL, which a server may lack; its headless twin has the same functions.
    if ! "$venv/bin/python" -c 'import cv2' >/dev/null 2>&1; then
        echo "OpenCV does not load here (libGL missing?): taking its headless build" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall \
            --constraint "$root/constraints.txt" opencv-python-headless
        "$venv/bin/python" -c 'import cv2' || fail "OpenCV does not load: see above"
    fi
    rm -f "$venv"/sdvideo-ready*  # stamps of other extras speak of other versions now
    echo "$wanted" >"$stamp"
    [ -z "$extra" ] || echo "$wanted" >"$venv/sdvideo-ready"  # an extra includes the package itself
}

# For the test of the report's page: Chromium and its driver, where they are missing and Debian's packages can be
# installed. Elsewhere, or when that fails, the test says that it is skipped.
setup_browser() {
    if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
        return
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || ! command -v timeout >/dev/null; then
        return
    fi
    echo "Installing Chromium for the test of the report's page" >&2
    {
        timeout 120 apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq --no-install-recommends \
                chromium chromium-driver
    } </dev/null >/dev/null 2>&1 || echo "Chromium could not be installed: its test is skipped" >&2
}
