# Sourced by the scripts beside it: how they talk, and what they share.
# shellcheck shell=bash disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit
export PATH="$root/.venv/bin:$PATH"

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' reset=$'\e[0m'
else
  bold='' red='' green='' reset=''
  # A log file is no place for colours; ansible and molecule listen to this too.
  export NO_COLOR=1
fi

say() { printf '%s==>%s %s\n' "$bold" "$reset" "$*"; }

# fail MESSAGE [FIX]: every failure ends with what to do about it.
fail() {
  printf '%sfailed:%s %s\n' "$red" "$reset" "$1" >&2
  [ $# -lt 2 ] || printf '  fix: %s\n' "$2" >&2
  exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }
have() { command -v "$1" >/dev/null 2>&1; }
# The answer of PID 1, not of a systemctl that happens to be installed.
has_systemd() { [ -d /run/systemd/system ]; }
can_install() { is_root && have apt-get; }

# ask QUESTION: yes by default, and yes where nobody is at the terminal.
ask() {
  [ -t 0 ] || return 0
  local answer
  read -r -p "$1 [Y/n] " answer
  [[ -z $answer || $answer =~ ^[Yy] ]]
}

apt_updated=''
apt_install() {
  local log
  log=$(mktemp)
  say "apt-get install $*"
  if [ -z "$apt_updated" ]; then
    # A third-party source that does not answer must not stop the install.
    apt-get -q update >"$log" 2>&1 || true
    apt_updated=yes
  fi
  if ! DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "$@" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "apt-get could not install: $*" "look at $log; is a Debian or Ubuntu mirror in reach?"
  fi
  rm -f "$log"
}

docker_runs() { have docker && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
