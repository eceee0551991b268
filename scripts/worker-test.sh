#!/usr/bin/env bash
# Checks the Python worker: format, lint, types, tests; then, without arguments, what touches mlx-lm once more on the oldest
# release of it that is supported. Arguments go to pytest, for example: -k stop
# The environments lie in .tools, made once for these locks and this Python; after that nothing is fetched.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
worker=$root/mlxbridge/worker

python=""
for p in python3.13 python3.12 python3.11 python3; do
  if command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then python=$p; break; fi
done
[ -n "$python" ] || { echo "worker-test: no Python 3.11 to 3.13; scripts/deps.sh test installs one" >&2; exit 1; }

export PYTHONNOUSERSITE=1
unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIREMENT VIRTUAL_ENV
key_of() {
  "$python" - "$@" <<'PY'
import hashlib, pathlib, platform, sys
parts = [platform.python_version(), platform.system(), platform.machine(), sys.executable, *(pathlib.Path(f).read_text() for f in sys.argv[1:])]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16])
PY
}

# remove_others PREFIX KEEP: environments of the same kind, made for other locks.
remove_others() {
  local old
  for old in "$root/.tools/$1"-*; do
    [[ ${old##*/} =~ ^$1-[0-9a-f]{16}$ ]] && [ "$old" != "$2" ] && rm -rf "$old"
  done
  return 0
}

key=$(key_of "$worker"/requirements.lock "$worker"/requirements-dev.lock)
venv=$root/.tools/worker-venv-$key
if [ ! -e "$venv/.complete" ]; then
  echo "worker-test: installing the worker's environment, once: about 100 MB" >&2
  rm -rf "$venv"
  mkdir -p "$root/.tools"
  if command -v uv >/dev/null; then
    uv venv -q --no-project --no-config --python "$python" "$venv"
    uv pip sync -q --require-hashes --only-binary :all: --compile-bytecode --python "$venv/bin/python" \
      "$worker"/requirements.lock "$worker"/requirements-dev.lock
  else
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -q --require-hashes --only-binary :all: --no-input --disable-pip-version-check \
      -r "$worker"/requirements.lock -r "$worker"/requirements-dev.lock
  fi
  touch "$venv/.complete"
  remove_others worker-venv "$venv"
fi
# One name that does not change, for other tools.
ln -sfn "$(basename "$venv")" "$root/.tools/worker-venv"

cd "$worker"
if [ "$(uname -s)" != Darwin ]; then
  # Without a GPU: no C++ compiler at run time, and small products lose to threads.
  export MLX_DISABLE_COMPILE=1 OPENBLAS_NUM_THREADS=1
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
bin=$venv/bin
"$bin/ruff" format --check -q .
"$bin/ruff" check -q .
"$bin/mypy"
"$bin/python" -m pytest "$@"
[ $# -eq 0 ] || exit 0

# The second environment holds that release alone, and finds all else in the first.
compat=$root/.tools/worker-venv-compat-$(key_of "$worker"/requirements.lock "$worker"/requirements-dev.lock "$worker"/requirements-compat.lock)
if [ ! -e "$compat/.complete" ]; then
  rm -rf "$compat"
  "$python" -m venv --without-pip "$compat"
  if command -v uv >/dev/null; then
    uv pip install -q --no-config --require-hashes --no-deps --only-binary :all: --compile-bytecode --python "$compat/bin/python" \
      -r "$worker"/requirements-compat.lock
  else
    "$bin/python" -m pip --python "$compat/bin/python" install -q --require-hashes --no-deps --only-binary :all: --no-input \
      --disable-pip-version-check -r "$worker"/requirements-compat.lock
  fi
  packages='import sysconfig; print(sysconfig.get_path("purelib"))'
  (cd "$venv" && bin/python -c "$packages") >"$("$compat/bin/python" -c "$packages")/rest.pth"
  touch "$compat/.complete"
  remove_others worker-venv-compat "$compat"
fi
# The first run multiplied with the BLAS of the wheel; this one does with a fast one, where there is one.
library=$("$compat/bin/python" -m bench.blas)
LD_PRELOAD=${library}${LD_PRELOAD:+:$LD_PRELOAD} "$compat/bin/python" -m pytest \
  tests/test_cancel.py tests/test_churn.py tests/test_engine.py tests/test_faults.py tests/test_long_prompts.py tests/test_model.py \
  tests/test_plain.py tests/test_plain_load.py tests/test_prefix.py tests/test_prefix_engine.py tests/test_prompts.py \
  tests/test_sampling.py tests/test_worker.py
