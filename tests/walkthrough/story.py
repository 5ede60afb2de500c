"""The walk-through, as data: what is done, what must be seen, and what is said about it.

In what is typed and looked for, {{name}} is a value that the recorder knows, or one that an earlier pattern has found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Values = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A line that is typed in a terminal: the operator's, a visitor's, or one on the host.

    `seen` are regular expressions that its output must match, in this order. `pause` is for the reader.
    """

    where: str
    line: str
    seen: tuple[str, ...]
    limit: float = 60
    pause: float = 1.5


@dataclass(frozen=True)
class Go:
    """An address that is opened in the browser; with the password of Flower where `login` says so."""

    url: str
    login: bool = False


@dataclass(frozen=True)
class Fill:
    """A field, by its label within a part of the page, and what is typed there."""

    part: str
    label: str
    text: str


@dataclass(frozen=True)
class Press:
    """A button or a link, by its name within a part of the page."""

    part: str
    name: str


@dataclass(frozen=True)
class See:
    """What the page must show: a regular expression, within the part with this CSS selector."""

    seen: str
    within: str = "body"
    limit: float = 60
    pause: float = 1.5


Act = Run | Go | Fill | Press | See


@dataclass(frozen=True)
class Step:
    """What is done under one caption.

    `holds` is what must be true of the values that were found. A step that takes longer than `squeeze` seconds is
    shown faster, and says so. Only a terminal that `scrolls` may print more than can be seen at once. So many pictures
    of it as `loop` says are in the README.
    """

    caption: str
    acts: tuple[Act, ...]
    holds: Callable[[Values], bool] = lambda _: True
    squeeze: float = 25
    scrolls: bool = False
    loop: int = 0


MAILBOX = "/var/lib/messaging-system/mailbox"
TIME_LOG = "/var/log/messaging_system.log"
ACCESS_LOG = "/var/log/nginx/access.log"
CODE = "/opt/messaging-system/current/venv/lib/python3*/site-packages/messaging"
WORKER = "messaging-worker@email-1"
KILLED = "killed-{{run}}"
COUNT = 40
NO_PROBLEMS = "/problem/,/^        }/d; /#/d; p"

FRESH = Step(
    "make up: a bare Debian 13 host in a container, the real playbook on it, and a first mail",
    (
        Run(
            "operator",
            "make up",
            (
                r"TASK \[rabbitmq : ",
                r"TASK \[celery : ",
                r"TASK \[nginx : ",
                r"failed=0",
                r"succeeded",
                r"{{url}} answers",
            ),
            limit=1200,
            pause=3,
        ),
    ),
    squeeze=15,
    scrolls=True,
    loop=6,
)

# On a host that is there already
AGAIN = Step(
    "The playbook on a host that is there: only what belongs to the public address",
    (
        Run(
            "operator",
            "ansible-playbook -i $MOLECULE_INVENTORY_FILE molecule/shared/converge.yml --tags nginx,ngrok,sshtunnel",
            (r"TASK \[ngrok : ", r"{{public}} reaches this service", r"failed=0"),
            limit=300,
        ),
    ),
    squeeze=15,
    scrolls=True,
    loop=6,
)

STEPS = (
    Step(
        "What runs now: RabbitMQ, the workers and their neighbours, all of them systemd units",
        (
            Run(
                "host",
                "systemctl list-units --plain --no-legend"
                " {rabbitmq-server,redis-server,nginx,ngrok,'messaging-*'}.service",
                (
                    r"messaging-worker@compute-1\.service +loaded active running",
                    r"messaging-worker@email-1\.service +loaded active running",
                    r"nginx\.service +loaded active running",
                    r"rabbitmq-server\.service +loaded active running",
                ),
            ),
            Run(
                "host",
                "rabbitmqctl -q list_queues --vhost messaging name type messages consumers"
                " | grep -P '^(name|email|compute|dead)\\t'",
                (r"^name\s+type\s+messages\s+consumers", r"^email\s+quorum\s+\d+\s+1$"),
            ),
        ),
    ),
    Step(
        "A request for a mail, through nginx: 202 means that RabbitMQ has it on disk",
        (
            Run(
                "visitor",
                "curl -si '{{url}}/?sendmail=ada-{{run}}@example.com' | grep -E '^(HTTP|Server|Location|.\"state\")'",
                (r"^HTTP/1.1 202", r"^Server: nginx", r'"state":"queued".*"task_id":"(?P<task>[0-9a-f-]{36})"'),
            ),
            Run(
                "host",
                f"grep '\"status\":202' {ACCESS_LOG} | tail -n 1",
                (r'"through":"direct".*"status":202.*"user_agent":"curl',),
            ),
        ),
    ),
    Step(
        "The mail is delivered, and opened: it lies in the mailbox that stands in for a relay",
        (
            Run(
                "visitor",
                "until curl -s {{url}}/api/v1/tasks/{{task}} | grep succeeded; do sleep 0.1; done",
                (r'"state":"succeeded"',),
            ),
            Run(
                "host",
                "messagingctl mail 1",
                (r"^Delivered-To: ada-{{run}}@example.com", r"^Message-ID: <{{task}}@", r"Somebody asked"),
                pause=3,
            ),
        ),
    ),
    Step(
        "?talktome: the log of times grows by a line for each request",
        (
            Run("host", f"wc -l < {TIME_LOG}", (r"^(?P<lines_before>\d+)$",), pause=0.5),
            *(
                Run("visitor", "curl -s '{{url}}/?talktome'", (rf'"logged":"(?P<time{number}>[^"]+)"',), pause=0.3)
                for number in range(3)
            ),
            Run("host", f"tail -n 3 {TIME_LOG}", (r"^{{time0}}$", r"^{{time1}}$", r"^{{time2}}$"), pause=0.5),
            Run("host", f"wc -l < {TIME_LOG}", (r"^(?P<lines_after>\d+)$",), pause=2),
        ),
        holds=lambda seen: int(seen["lines_after"]) == int(seen["lines_before"]) + 3,
    ),
    Step(
        "The page: a mail is written, queued, followed to its end and opened; a text is reversed",
        (
            Go("{{url}}/"),
            See("Hand it over"),
            Fill("Email", "To", "grace-{{run}}@example.com"),
            Fill("Email", "Subject", "The engine runs"),
            Fill("Email", "Text", "Dear Grace,\n\nthe engine ran for an hour without a jam.\n\nAda"),
            Press("Email", "Send the mail"),
            See("succeeded", "[data-region=send-email]"),
            Press("Email", "Open the mail"),
            See(r"(?s)grace-{{run}}@example\.com.*without a jam", "article", pause=3),
            Press("", "Back to your tasks"),
            Fill("Reverse text", "Text", "A man, a plan, a canal"),
            Press("Reverse text", "Reverse it"),
            See(r"lanac a ,nalp a ,nam A", "[data-region=reverse-text]", pause=3),
        ),
        loop=14,
    ),
    Step(
        "Flower, behind a password: the workers, and what they have done",
        (
            Go("{{url}}/flower/", login=True),
            See(r"(?s)compute-1@.*Online.*email-1@.*Online|email-1@.*Online.*compute-1@.*Online", pause=2.5),
            Press("", "Tasks"),
            See(r"(?s)send_email.*SUCCESS", pause=2.5),
        ),
    ),
    Step(
        "The public address. ngrok's cloud and agent are STAND-INS here: the real ones are out of reach",
        (
            Run("host", "ngrok version", (r"stand-in",), pause=0.5),
            Run(
                "host",
                "journalctl -u ngrok -o cat -g 'started tunnel' | tail -n 1",
                (r"started tunnel.*url={{public}}",),
                pause=2,
            ),
        ),
    ),
    Step(
        "The page at that address, through the STAND-IN for ngrok (its certificate is a test's, too)",
        (
            Go("{{public}}/"),
            See("Hand it over"),
            Fill("Email", "To", "public-{{run}}@example.com"),
            Press("Email", "Send the mail"),
            See("succeeded", "[data-region=send-email]", pause=2.5),
        ),
    ),
    Step(
        "Nginx knows that it came through the tunnel, and whom it came from",
        (
            Run(
                "host",
                f'grep \'"through":"tunnel"\' {ACCESS_LOG} | grep send-email | tail -n 1',
                (r'"client":"[0-9.]+","through":"tunnel","method":"POST","path":"/send-email"',),
            ),
            Run("host", "messagingctl mail 1 | head -n 5", (r"^Delivered-To: public-{{run}}@example.com",), pause=2),
        ),
    ),
    Step(
        f"A fault: the mailbox hangs, {COUNT} mails are accepted, and the worker dies (kill -9) with mail in its hands",
        (
            Run("host", "systemctl kill --signal=STOP messaging-mailbox", (), pause=0.5),
            Run(
                "visitor",
                f"seq {COUNT} | xargs -P 4 -IN curl -so /dev/null -w '%{{http_code}}\\n'"
                f" '{{{{url}}}}/?sendmail={KILLED}-N@example.com' | sort | uniq -c",
                (rf"^ *{COUNT} 202$",),
            ),
            Run(
                "host",
                f"messagingctl tasks --since 1m | head -n {COUNT} | awk '{{ print $4 }}' | sort | uniq -c",
                (r"^ +\d+ queued$", r"^ +[1-9]\d* started$"),
                pause=2,
            ),
            Run("host", f"kill -9 $(systemctl show --property MainPID --value {WORKER})", (), pause=0.5),
            Run(
                "host",
                f"until journalctl -q -u {WORKER} -o cat -n 1 -g status=9; do sleep 0.1; done",
                (r"code=killed, status=9/KILL",),
                pause=2,
            ),
        ),
    ),
    Step(
        f"The mailbox goes on, and so does a new worker: all {COUNT} are delivered, nothing is lost",
        (
            Run("host", "systemctl kill --signal=CONT messaging-mailbox", (), pause=0.5),
            Run("host", f"mails='grep -rh ^Delivered-To:.{KILLED} {MAILBOX}'", (), pause=0.5),
            Run(
                "host",
                f"until [ $($mails | sort -u | wc -l) = {COUNT} ]; do sleep 0.1; done; $mails | sort | uniq -c | "
                'awk \'{ n += $1 } END { print NR " recipients have their mail, " n " mails in all" }\'',
                (rf"^{COUNT} recipients have their mail, (?P<mails>\d+) mails in all$",),
                limit=60,
                pause=4,
            ),
        ),
    ),
    Step(
        "And now for readers of code. The site in the rendered nginx.conf, without comments and error pages",
        (
            Run(
                "host",
                f"sed -n '/^    server {{/,/^    }}/{{ {NO_PROBLEMS}; /^    }}/q }}' /etc/nginx/nginx.conf | cat -s",
                (r"listen 80 ", r"location \^~ /flower/", r"proxy_pass http://messaging_web;", r"^    }$"),
                pause=6,
            ),
        ),
    ),
    Step(
        "One unit: a worker; the sandbox that all units share is in a file of its own",
        (
            Run(
                "host",
                "grep -v '^#' /etc/systemd/system/messaging-worker@.service",
                (r"^\[Service\]$", r"-m messaging\.worker", r"^Restart=always$", r"^WantedBy=messaging\.target$"),
                pause=5,
            ),
            Run(
                "host",
                f"systemd-analyze security {WORKER} | tail -n 1",
                (r"exposure level for .*: [0-2]\.\d",),
                pause=2,
            ),
        ),
    ),
    Step(
        "And the task itself: send_email; what to do again, and when, is decided by its caller",
        (
            Run(
                "host",
                f'sed -n \'/^def send_email/,/^    return/p\' {CODE}/tasks.py | sed \'/"""/,/"""/d\'',
                (r"^def send_email\(", r"tools\.smtp\.send\(", r"^    return \{"),
                pause=8,
            ),
        ),
    ),
)
