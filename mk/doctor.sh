#!/bin/bash
# What this machine has and lacks, each lack with its fix. Changes nothing; exits 1 when something is missing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

missing=0
ok() { printf '  %sok%s       %s\n' "$green" "$reset" "$1"; }
lack() {
  printf '  %smissing%s  %s\n           fix: %s\n' "$red" "$reset" "$1" "$2"
  missing=$((missing + 1))
}
# note: what a later step brings by itself.
note() { printf '  to come  %s\n' "$1"; }
answers() { python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)' "$@" 2>/dev/null; }

echo "this machine"
python=''
for candidate in python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  lack "Python 3.11 or newer" "apt-get install python3 python3-venv"
else
  ok "$("$python" --version)"
  if [ -e .venv/.complete ] && [ ! requirements.txt -nt .venv/.complete ]; then
    ok ".venv, the controller's environment"
  elif "$python" -c 'import ensurepip, venv' 2>/dev/null || can_install; then
    note ".venv (make env)"
  else
    lack "Python's venv module" "as root: apt-get install python3-venv"
  fi
fi
if have git; then ok "git"; else lack "git" "apt-get install git"; fi

memory=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null || echo 0)
if [ "$memory" -ge 1500 ]; then ok "memory: $memory MB available"; else lack "memory: $memory MB available" "the sandbox needs 1500 MB, all tests 3000 MB"; fi
disk=$(df --output=avail -m . | tail -n 1 | tr -d ' ')
if [ "$disk" -ge 5000 ]; then ok "disk: $disk MB free here"; else lack "disk: $disk MB free here" "5000 MB are needed"; fi

echo "Docker Engine"
if docker_runs; then
  ok "Docker Engine $(docker version --format '{{.Server.Version}}')"
elif ! is_root && have docker && [ -S /var/run/docker.sock ]; then
  lack "Docker Engine is not open to $(id -un)" "as root: usermod -aG docker $(id -un), then log in again"
elif have docker && have dockerd; then
  lack "Docker Engine does not run" "$(is_root && echo 'make engine' || echo 'as root: make engine')"
elif can_install; then
  lack "Docker Engine" "make engine (installs docker.io)"
else
  lack "Docker Engine" "as root: apt-get install docker.io"
fi
if docker_runs; then
  for release in 12 13; do
    if docker image inspect "messaging-host:debian$release" >/dev/null 2>&1; then
      ok "base image: Debian $release"
    elif answers registry-1.docker.io 443; then
      note "base image: Debian $release (from the registry)"
    elif have mmdebstrap || can_install; then
      note "base image: Debian $release (bootstrapped from Debian's archive)"
    else
      lack "base image: Debian $release" "as root: molecule/shared/image.sh $release"
    fi
  done
fi
if [ "$(docker inspect --format '{{ .State.Status }}' messaging-sandbox 2>/dev/null)" = running ]; then
  ok "the sandbox runs"
elif [ -z "$python" ] || "$python" -c 'import socket, sys; socket.socket().bind(("127.0.0.1", int(sys.argv[1])))' "${SANDBOX_PORT:-8080}" 2>/dev/null; then
  ok "port ${SANDBOX_PORT:-8080} is free for the sandbox"
else
  lack "port ${SANDBOX_PORT:-8080} is taken" "SANDBOX_PORT=8081 make up"
fi
for need in "ssh openssh-client make-deploy-and-make-test" "chromium chromium make-test" "ffmpeg ffmpeg make-test" "curl curl make-test"; do
  read -r command package verbs <<<"$need"
  if have "$command"; then
    ok "$command, for ${verbs//-/ }"
  elif can_install; then
    note "$command (make test installs it)"
  else
    lack "$command, for ${verbs//-/ }" "as root: apt-get install $package"
  fi
done

echo "network"
for place in pypi.org deb.debian.org; do
  if answers "$place" 443 || answers "$place" 80; then
    ok "$place"
  elif [ -n "${HTTPS_PROXY:-${https_proxy:-${HTTP_PROXY:-${http_proxy:-}}}}" ]; then
    note "$place (through the proxy)"
  else
    lack "$place is not in reach" "a proxy goes into http_proxy and https_proxy, its CA into /usr/local/share/ca-certificates"
  fi
done

if [ $missing -gt 0 ]; then
  printf '\n%s missing\n' "$missing"
  exit 1
fi
printf '\nnothing is missing: make up\n'
