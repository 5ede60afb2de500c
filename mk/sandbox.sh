#!/bin/bash
# The verbs of the sandbox: up, url, send, talk, mail, flower, logs, shell, down.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Another scenario may be one too: mk/walkthrough.sh
sandbox=${SANDBOX_NAME:-sandbox}
name=messaging-$sandbox
export MOLECULE_COMMAND_BORDERS=false

state() { docker inspect --type container --format '{{ .State.Status }}' "$name" 2>/dev/null | grep . || echo absent; }
scenario() { molecule "$1" --scenario-name "$sandbox"; }
url() { echo "http://$(docker port "$name" 80/tcp | head -n 1)"; }
# The agent of ngrok says it, where there is one.
public_urls() {
  docker exec "$name" python3 -c 'if True:
    import json, urllib.request
    with urllib.request.urlopen("http://127.0.0.1:4040/api/endpoints", timeout=5) as answer:
        print(*[endpoint["url"] for endpoint in json.load(answer)["endpoints"]], sep="\n")' 2>/dev/null || true
}

need_sandbox() {
  docker_runs || fail "no Docker Engine answers" "make up"
  [ "$(state)" = running ] || fail "the sandbox is not there" "make up"
}

# inside COMMAND...: in the sandbox, with a terminal where there is one.
inside() {
  local terminal=(--interactive)
  if [ -t 0 ] && [ -t 1 ]; then terminal+=(--tty); fi
  docker exec "${terminal[@]}" "$name" "$@"
}

port_is_free() {
  python3 -c 'import socket, sys; socket.socket().bind(("127.0.0.1", int(sys.argv[1])))' "$1" 2>/dev/null
}

up() {
  local began=$SECONDS address
  case $(state) in
  running) say "the sandbox runs: running the playbook on it again" ;;
  absent)
    # What molecule remembers of a container that is gone would make it skip the steps.
    # Not `molecule reset`: that stops the hosts of every scenario on this machine.
    scenario destroy >/dev/null 2>&1 || true
    port_is_free "${SANDBOX_PORT:-8080}" ||
      fail "port ${SANDBOX_PORT:-8080} is taken on this machine" "SANDBOX_PORT=8081 make up"
    say "building the sandbox: a Debian 13 host, then the real playbook.yml (about two minutes)"
    ;;
  *)
    say "starting the sandbox that was here before"
    docker start "$name" >/dev/null
    ;;
  esac
  scenario converge || fail "the sandbox was not configured" "read the first task that failed above; then make up again, or make down and make up"

  say "it runs; now a real mail"
  address="first-$(date +%s)@example.com"
  send "$address"
  echo
  # By number: the newest is the first.
  inside messagingctl mail 1 || fail "the mail is not in the mailbox" "make logs"
  echo
  printf '%s%s answers%s, after %s s: open it in a browser. Next: make send TO=you@example.com, make mail, make flower, make status, make down\n' \
    "$green" "$(url)" "$reset" $((SECONDS - began))
}

send() {
  [ -n "${1:-}" ] || fail "no address given" "make send TO=me@example.com"
  # It says itself what is wrong.
  python3 mk/client.py "$(url)" send "$1"
}

talk() {
  python3 mk/client.py "$(url)" talk
}

mail() {
  if [ -n "${N:-}" ]; then
    inside messagingctl mail "$N"
  else
    # Its own hint, on stderr, is for people on the host.
    inside sh -c 'messagingctl mail 2>/dev/null' || inside messagingctl mail
    echo "make mail N=1 opens the newest"
  fi
}

flower() {
  echo "$(url)/flower/ and $(url)/operators/ as operator, password $(docker exec "$name" cat /etc/messaging-system/secrets/flower_password)"
}

logs() {
  inside journalctl --follow --lines 50 --output cat --no-hostname \
    --unit 'messaging*' --unit rabbitmq-server --unit redis-server --unit nginx --unit ngrok
}

down() {
  local log
  docker_runs || fail "no Docker Engine answers" "make engine"
  if [ -x .venv/bin/molecule ]; then
    log=$(scenario destroy 2>&1) || fail "the sandbox could not be removed: $log" "docker rm --force $name"
  else
    docker rm --force --volumes "$name" >/dev/null 2>&1 || true
  fi
  say "the sandbox is gone"
}

case ${1:-} in
up | down) "$1" ;;
url)
  need_sandbox
  # It says itself what is wrong.
  python3 mk/client.py "$(url)" check
  public=$(public_urls)
  echo "${public:-$(url)}"
  # One address on stdout, for curl "$(make url)/..."
  [ -z "$public" ] || echo "on this machine also $(url)" >&2
  ;;
talk | mail | flower | logs)
  need_sandbox
  "$1"
  ;;
send)
  need_sandbox
  send "${2:-}"
  ;;
shell)
  need_sandbox
  inside bash
  ;;
*) fail "no such verb: ${1:-}" "make lists the verbs" ;;
esac
