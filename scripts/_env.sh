# Sourced by the scripts beside it: makes .venv hold this checkout and the extras asked for.
#   need_env test,dev     afterwards $PY is the environment's python
# Quick when nothing changed: a stamp file per set of extras holds the digest of pyproject.toml.

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    echo "No Python 3.11 or newer found. Install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

need_env() {
    local extras=$1 base stamp digest
    PY="$PWD/.venv/bin/python"
    stamp=".venv/.installed-${extras//,/-}"
    digest="$(cksum <pyproject.toml) $PWD"
    if [ -x "$PY" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$digest" ]; then
        compile_once
        return 0
    fi
    mkdir -p .cache
    if command -v flock >/dev/null 2>&1; then # two scripts started at once: one installs, one waits
        exec 9>.cache/env.lock
        flock 9
    fi
    base=$(find_python) || return 1
    echo "Setting up .venv (once) ..." >&2
    if ! [ -x "$PY" ] || ! "$PY" -c '' 2>/dev/null; then
        rm -rf .venv
        # Debian ships venv without ensurepip: the outer pip then installs into the environment.
        "$base" -m venv .venv >/dev/null 2>&1 || { rm -rf .venv && "$base" -m venv --without-pip .venv; }
    fi
    local pip=("$PY" -m pip)
    "$PY" -m pip --version >/dev/null 2>&1 || pip=("$base" -m pip --python "$PY")
    "${pip[@]}" install --quiet --disable-pip-version-check --editable ".[$extras]" || return 1
    printf '%s' "$digest" >"$stamp"
    exec 9>&-
    compile_once
}

# Where Python is told to keep no compiled modules, each of the hundreds of processes that the tests start would compile
# all of the package for itself. What cannot be compiled is told by whoever imports it.
compile_once() {
    [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || "$PY" -m compileall -q routilux_mp tests bench || true
}
