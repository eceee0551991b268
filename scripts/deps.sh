#!/usr/bin/env bash
# Installs what this machine lacks to build, run and test mlxctl, beyond Go and Python.
#   deps.sh run     for `make demo`: a Python that can make environments
#   deps.sh test    for `make test`: also a C compiler (race detector), tmux (a real terminal for the TUI) and ps
# On a Mac everything comes with the command line tools or Homebrew; on Debian and Ubuntu it is apt's.
set -euo pipefail
want=${1:?deps.sh run|test}

python=""
for p in python3.13 python3.12 python3.11 python3; do
  if command -v "$p" >/dev/null && "$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then python=$p; break; fi
done

missing=()
if [ -z "$python" ]; then
  missing+=(python3 python3-venv)
elif ! command -v uv >/dev/null && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=(python3-venv)
fi
if [ "$want" = test ]; then
  command -v cc >/dev/null || command -v gcc >/dev/null || missing+=(gcc libc6-dev)
  command -v tmux >/dev/null || missing+=(tmux)
  command -v ps >/dev/null || missing+=(procps)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(uname -s)" = Darwin ]; then
  command -v brew >/dev/null || { echo "deps: ${missing[*]} missing; install Homebrew, then: brew install python tmux" >&2; exit 1; }
  for m in "${missing[@]}"; do case $m in python3*) brew install -q python@3.12 ;; tmux) brew install -q tmux ;; *) xcode-select --install ;; esac; done
  exit 0
fi
command -v apt-get >/dev/null || { echo "deps: please install: ${missing[*]}" >&2; exit 1; }
sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
echo "deps: installing ${missing[*]}" >&2
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
if [ -z "$python" ] && ! python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
  echo "deps: mlx-lm needs Python 3.11 to 3.13, and this system's is $(python3 -V 2>&1); please install one of those" >&2
  exit 1
fi
