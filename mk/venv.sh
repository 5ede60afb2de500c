#!/bin/bash
# Makes .venv from requirements.txt (hashes checked), with uv where it can be had and with pip otherwise.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Ansible 12 runs on 3.11 to 3.13; an unlisted newer python3 is tried last.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  if python3 -c 'import sys; sys.exit(sys.version_info < (3, 14))' 2>/dev/null; then
    echo python3
    return
  fi
  return 1
}

# A proxy with its own certificate authority: the system's bundle knows it, the one inside pip does not.
bundle=/etc/ssl/certs/ca-certificates.crt
if [ -f "$bundle" ] && compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
  export SSL_CERT_FILE="${SSL_CERT_FILE:-$bundle}" PIP_CERT="${PIP_CERT:-$bundle}"
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1

python=$(find_python) || {
  can_install || fail "Python 3.11 to 3.13 is missing" "as root: apt-get install python3 python3-venv"
  apt_install python3 python3-venv
  python=$(find_python) || fail "the python3 of this system is too old" "install Python 3.11, 3.12 or 3.13"
}

say "making .venv with $("$python" --version)"
rm -rf .venv
if ! "$python" -m venv .venv >/dev/null 2>&1; then
  # Debian splits ensurepip off into python3-venv.
  rm -rf .venv
  can_install || fail "this python3 cannot make environments" "as root: apt-get install python3-venv"
  version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  apt_install python3-venv "$version-venv"
  "$python" -m venv .venv || fail "python3 -m venv failed" "apt-get install --reinstall python3-venv"
fi

# uv is itself pinned by hash in requirements.txt: only its block goes to pip.
requirements=$(mktemp)
trap 'rm -f "$requirements"' EXIT
awk '/^[a-z]/ { keep = /^uv==/ } keep' requirements.txt >"$requirements"

say "installing requirements.txt (about 100 packages; half a minute with uv, two minutes with pip)"
if .venv/bin/pip install --quiet --require-hashes -r "$requirements" &&
  VIRTUAL_ENV=$root/.venv .venv/bin/uv pip install --quiet --system-certs --require-hashes -r requirements.txt; then
  :
else
  say "uv could not do it (it does not read pip.conf): once more with pip"
  .venv/bin/pip install --require-hashes -r requirements.txt ||
    fail "the Python packages could not be installed" \
      "is PyPI in reach? behind a proxy set HTTPS_PROXY and put its CA into /usr/local/share/ca-certificates"
fi
touch .venv/.complete
