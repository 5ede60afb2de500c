#!/bin/bash
# Makes sure that Docker Engine answers: installs it when we are root, starts it where no systemd does.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

log=/var/log/dockerd.log

# wait_for SECONDS
wait_for_engine() {
  local deadline=$((SECONDS + $1))
  until docker_runs; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.5
  done
}

install_engine() {
  can_install || fail "Docker Engine is missing" "as root: apt-get install docker.io, then add yourself to the group docker"
  ask "Docker Engine is missing. Install it (apt-get install docker.io)?" ||
    fail "Docker Engine is missing" "apt-get install docker.io, or start the one that you have"
  packages=(docker.io iptables ca-certificates)
  # Debian 13 has the client in its own package.
  if ! have docker && [ -n "$(apt-cache search --names-only '^docker-cli$')" ]; then
    packages+=(docker-cli)
  fi
  apt_install "${packages[@]}"
}

start_engine() {
  if has_systemd; then
    systemctl start docker || fail "docker.service did not start" "journalctl -u docker -n 50"
    return
  fi
  drop_stale /var/run/docker.pid dockerd
  drop_stale /var/run/docker/containerd/containerd.pid containerd
  if [ ! -e /var/run/docker.pid ]; then
    say "starting dockerd (its log: $log)"
    # It has to outlive make: its own session, no terminal, no inherited pipe.
    setsid nohup dockerd </dev/null >>"$log" 2>&1 &
  fi
}

# drop_stale FILE NAME: after an unclean stop FILE names a process that is gone, that is another one by now, or
# that is dead and was never collected. The engine believes the file and would not start.
drop_stale() {
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  [ "$(basename "$(readlink "/proc/$pid/exe" 2>/dev/null)")" = "$2" ] || rm -f "$1"
}

docker_runs && exit 0

if [ -n "${DOCKER_HOST:-}" ]; then
  fail "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST" "start it, or unset DOCKER_HOST"
fi
if ! is_root; then
  if have docker && [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
    fail "Docker Engine is not open to $(id -un)" "as root: usermod -aG docker $(id -un), then log in again"
  fi
  fail "no Docker Engine answers" "start Docker, or run this once as root: sudo make engine"
fi

# The client may be here without the engine.
if ! have dockerd || ! have docker; then
  apt-get -q update >/dev/null 2>&1 || true
  install_engine
  # Some packages start it themselves.
  if wait_for_engine 3; then exit 0; fi
fi

start_engine
wait_for_engine 60 || {
  tail -n 15 "$log" >&2 2>/dev/null || true
  fail "Docker Engine did not answer within 60 s" "look at $log (or journalctl -u docker); inside a container it needs its own privileges"
}
say "Docker Engine $(docker version --format '{{.Server.Version}}') answers"
