"""Which release a rollback goes to."""


def release_back(looks, wanted=""):
    """From what release_look said of each host, {to, problem}: the release to go to, or why there is none."""
    possible = set.intersection(
        *({each["name"] for each in look["releases"] if each["settings"]} for look in looks.values())
    )
    half = {look["live"] for look in looks.values() if look["live"] and set(look["running"]) - {look["live"]}}
    if wanted:
        return _checked(looks, possible, half, str(wanted))
    # A deploy that stopped half-way: back to what was live before it
    found = {host: look["live"] for host, look in looks.items()} if half else _before(looks, possible)
    if len(set(found.values())) > 1:
        each = "; ".join(f"{host}: {name or 'none'}" for host, name in sorted(found.items()))
        return _problem(looks, possible, f"the hosts do not agree on what was live before ({each}); name one")
    [name] = set(found.values())
    if not name:
        left = sorted({each["name"] for look in looks.values() for each in look["releases"] if each["left"]} & possible)
        return _problem(
            looks,
            possible,
            "there is nothing to go back to" + (f"; {', '.join(left)} was rolled back from" if left else ""),
        )
    return _checked(looks, possible, half, name)


def _before(looks, possible):
    """On each host what was live before the live one, without what somebody went back from."""
    found = {}
    for host, look in looks.items():
        names = [each["name"] for each in look["releases"] if each["name"] in possible and not each["left"]]
        found[host] = next((name for name in names if name != look["live"]), "")
    return found


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
        return {"release_back": release_back}
