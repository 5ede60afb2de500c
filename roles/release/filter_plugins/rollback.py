"""Which release a rollback goes to."""


def release_back(looks, wanted=""):
    """From what release_look said of each host, {to, problem}: the release to go to, or why there is none."""
    possible = set.intersection(
        *({each["name"] for each in look["releases"] if each["settings"]} for look in looks.values())
    )
    left = {each["name"] for look in looks.values() for each in look["releases"] if each["left"]}
    half = any(look["live"] in left or set(look["running"]) - {look["live"]} for look in looks.values() if look["live"])
    if wanted:
        return _checked(looks, possible, half, str(wanted))
    found = _found(looks, possible, left, half)
    if len(set(found.values())) > 1:
        each = "; ".join(f"{host}: {name or 'none'}" for host, name in sorted(found.items()))
        return _problem(looks, possible, f"the hosts do not agree on what was live before ({each}); name one")
    [name] = set(found.values())
    if not name:
        left = sorted(left & possible)
        return _problem(
            looks,
            possible,
            "there is nothing to go back to" + (f"; {', '.join(left)} was rolled back from" if left else ""),
        )
    return _checked(looks, possible, half, name)


def release_back_lacks(looks, to, mailboxes):
    """A line for each thing that the settings of the release `to` need and that is not here any more.

    `mailboxes` are the hosts that may have the embedded mailbox; where one of them was not looked at, nobody can say.
    """
    problems = []
    for host, look in sorted(looks.items()):
        [then] = [each["reads"] or {} for each in look["releases"] if each["name"] == to]
        login = _login(then)
        if login[1] and any(_login(now) != login for now in look["reads"]):
            problems.append(f"{host}: it logs in at {login[0]} as {login[1]}, whose password is not here any more")
        seen = set(mailboxes) <= set(looks)
        if then.get("MAIL_EMBEDDED") == "true" and seen and not any(each["mailbox"] for each in looks.values()):
            problems.append(f"{host}: its mail goes to the embedded mailbox, which is not here any more")
        lacking = sorted(set(look["queues"]) - set(then.get("QUEUES", "").split(",")))
        if "QUEUES" in then and lacking:
            problems.append(f"{host}: it does not know the queue {', '.join(lacking)}, which workers here work on")
    return problems


def _login(settings):
    """Relay and user, both empty where it is the embedded mailbox."""
    embedded = settings.get("MAIL_EMBEDDED") == "true"
    return ("", "") if embedded else (settings.get("SMTP_HOST", ""), settings.get("SMTP_USERNAME", ""))


def _found(looks, possible, left, half):
    """For each host what it goes back to, empty for nothing.

    A release is noted as left before a rollback changes anything: where it is live all the same, that rollback has
    stopped half-way, and goes on.
    """
    if not half:
        return {host: _before(look, possible, left) for host, look in looks.items()}
    back = any(look["live"] in left for look in looks.values())
    # What a deploy that stopped half-way has brought, on some hosts to its end
    new = set().union(*(set(look["running"]) - {look["live"]} for look in looks.values()))
    found = {}
    for host, look in looks.items():
        if look["live"] in left:
            begun = (set(look["running"]) & possible) - left
            found[host] = begun.pop() if len(begun) == 1 else _before(look, possible, left)
        elif not back and look["live"] in new:
            found[host] = _before(look, possible, left)
        else:
            found[host] = look["live"]
    return found


def _before(look, possible, left):
    """What was live before the live one, without what somebody went back from."""
    names = [each["name"] for each in look["releases"] if each["name"] in possible and each["name"] not in left]
    return next((name for name in names if name != look["live"]), "")


def _checked(looks, possible, half, name):
    for host, look in sorted(looks.items()):
        if name not in [each["name"] for each in look["releases"]]:
            return _problem(looks, possible, f"{host} has no release {name}")
    if not half and all(look["live"] == name for look in looks.values()):
        return _problem(looks, possible, f"{name} is live already")
    if name not in possible:
        return _problem(
            looks, possible, f"of {name} nothing was kept of how it ran, since it was never live or has another form"
        )
    return {"to": name, "problem": ""}


def _problem(looks, possible, what):
    live = {look["live"] for look in looks.values()}
    names = sorted(possible - live) if len(live) == 1 else sorted(possible)
    there = (
        f"there are: {', '.join(names)} (make rollback TO=...)"
        if names
        else "there is no other to go to: deploy one (make deploy)"
    )
    return {"to": "", "problem": f"{what}; {there}"}


class FilterModule:
    def filters(self):
        return {"release_back": release_back, "release_back_lacks": release_back_lacks}
