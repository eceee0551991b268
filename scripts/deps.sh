#!/usr/bin/env bash
# Installs what this machine lacks to build, run and test mlxctl, beyond Go and Python.
#   deps.sh run     for `make demo`: a Python that can make environments
#   deps.sh test    for `make test`: also a C compiler (race detector), tmux (a real terminal for the TUI) and ps, and for
#                   root on Linux what the lab makes hosts with; none of its services is started on this machine
# On a Mac everything comes with the command line tools or Homebrew; on Debian and Ubuntu it is apt's. There it also
# installs OpenBLAS, if it may: the CPU backend works without, but multiplies fifty times slower.
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
  if [ "$(uname -s)" = Linux ] && [ "$(id -u)" -eq 0 ]; then # nobody else can have a lab
    has() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }
    has unshare && has nsenter && has setpriv || missing+=(util-linux)
    has ip && has tc || missing+=(iproute2)
    has iptables && has ip6tables || missing+=(iptables)
    has ssh && has ssh-keygen || missing+=(openssh-client)
    has sshd || missing+=(openssh-server)
    has avahi-daemon || missing+=(avahi-daemon)
    has runsvdir || missing+=(runit)
    has sudo || missing+=(sudo)
  fi
fi

# A package beyond what is needed. Nothing fails without it.
install_fast_blas() {
  [ "$(uname -s)" = Linux ] || return 0
  local file
  for file in /usr/lib/"$(uname -m)"-linux-gnu /usr/lib64 /usr/lib /usr/local/lib; do
    compgen -G "$file/libopenblas.so.0" >/dev/null && return 0
    compgen -G "$file/openblas-*/libopenblas.so.0" >/dev/null && return 0
  done
  if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
    local apt=(env DEBIAN_FRONTEND=noninteractive timeout 180 apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10)
    [ "$(id -u)" -eq 0 ] || apt=(sudo -n "${apt[@]}")
    echo "deps: installing libopenblas0-pthread" >&2
    "${apt[@]}" update >&2 && "${apt[@]}" install -y --no-install-recommends libopenblas0-pthread >/dev/null && return 0
  fi
  echo "deps: no OpenBLAS here, so the CPU backend will be slow; it is libopenblas0-pthread in Debian and Ubuntu" >&2
}

install_fast_blas || true
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(uname -s)" = Darwin ]; then
  command -v brew >/dev/null || { echo "deps: ${missing[*]} missing; install Homebrew, then: brew install python tmux" >&2; exit 1; }
  for m in "${missing[@]}"; do case $m in python3*) brew install -q python@3.12 ;; tmux) brew install -q tmux ;; *) xcode-select --install ;; esac; done
  exit 0
fi
command -v apt-get >/dev/null || { echo "deps: please install: ${missing[*]}" >&2; exit 1; }
sudo=""; [ "$(id -u)" -eq 0 ] || sudo=sudo
echo "deps: installing ${missing[*]}" >&2
if [ "$(id -u)" -eq 0 ] && [ ! -e /usr/sbin/policy-rc.d ]; then # Debian starts a service as soon as it is installed
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
fi
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
if [ -z "$python" ] && ! python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
  echo "deps: mlx-lm needs Python 3.11 to 3.13, and this system's is $(python3 -V 2>&1); please install one of those" >&2
  exit 1
fi
