#!/bin/bash
# image.sh RELEASE...: makes messaging-host:debian<RELEASE>, if it is missing or no longer what the Dockerfile says.
# The base comes from a registry where one is in reach, and from Debian's archive otherwise.
# ubuntu24.04 and ubuntu26.04 come from a registry only; without one this ends with 3.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../mk/lib.sh"

here=$root/molecule/shared
[ $# -gt 0 ] || fail "no release given" "image.sh 12 13"
docker_runs || fail "no Docker Engine answers" "make engine (make doctor says more)"

# Two scenarios may want the same image at once.
exec 9>"${TMPDIR:-/tmp}/messaging-host-image.lock"
flock 9

# Without a tool to bootstrap with, a slow registry is better than none.
pull_base() {
  local limit=30
  can_install || have mmdebstrap || limit=300
  timeout "$limit" docker pull --quiet "debian:$1-slim" >/dev/null 2>&1 &&
    docker tag "debian:$1-slim" "messaging-base:debian$1"
}

pull_ubuntu() {
  say "base image: Ubuntu $1"
  if ! timeout 120 docker pull --quiet "ubuntu:$1" >/dev/null 2>&1; then
    say "no image: no registry with ubuntu:$1 is in reach"
    exit 3
  fi
  docker tag "ubuntu:$1" "messaging-base:ubuntu$1"
}

bootstrap_base() {
  local suite=$2
  if ! have mmdebstrap || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
    can_install || fail "no registry is in reach and mmdebstrap is missing" "as root: apt-get install mmdebstrap debian-archive-keyring"
    apt_install mmdebstrap debian-archive-keyring
  fi
  is_root || fail "no registry is in reach, and bootstrapping Debian needs root" "sudo $here/image.sh $1"
  say "no registry in reach: bootstrapping Debian $1 ($suite) from its archive, about half a minute"
  mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    "$suite" - | docker import - "messaging-base:debian$1" >/dev/null ||
    fail "Debian $1 could not be bootstrapped" "is http://deb.debian.org in reach? a proxy goes into http_proxy"
}

build() {
  local release=$1 name=debian$1 suite='' context digest
  case $release in
  12) suite=bookworm ;;
  13) suite=trixie ;;
  ubuntu24.04 | ubuntu26.04) name=$release ;;
  *) fail "$release is not one of the tested releases" "image.sh 12 13 ubuntu24.04 ubuntu26.04" ;;
  esac

  context=$(mktemp -d)
  mkdir "$context/certificates"
  cp "$here/Dockerfile" "$context/"
  find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$context/certificates/" \; 2>/dev/null || true
  # COPY refuses an empty directory in some engines.
  touch "$context/certificates/.keep"
  digest=$(cd "$context" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)

  if [ "$(docker image inspect --format '{{ index .Config.Labels "messaging.digest" }}' "messaging-host:$name" 2>/dev/null)" = "$digest" ]; then
    rm -rf "$context"
    return
  fi

  if ! docker image inspect "messaging-base:$name" >/dev/null 2>&1; then
    if [ -z "$suite" ]; then
      pull_ubuntu "${release#ubuntu}"
    else
      say "base image: Debian $release"
      pull_base "$release" || bootstrap_base "$release" "$suite"
    fi
  fi
  say "host image: messaging-host:$name"
  # The classic builder is in every engine; BuildKit is a plugin that may be missing.
  if ! DOCKER_BUILDKIT=0 docker build --quiet --build-arg "BASE=messaging-base:$name" \
    --label "messaging.digest=$digest" --tag "messaging-host:$name" "$context" >"$context/log" 2>&1; then
    tail -n 25 "$context/log" >&2
    fail "the host image could not be built" "see above; the package archive must be in reach from a container (docker run --rm messaging-base:$name apt-get update)"
  fi
  rm -rf "$context"
}

for release in "$@"; do build "$release"; done
