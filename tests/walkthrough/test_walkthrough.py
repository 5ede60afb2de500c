"""The walk-through on the host of molecule/public, in small: all of it is still true, and becomes a film."""

import json
import os
import subprocess
from pathlib import Path

from testinfra.host import Host

from film import LONGEST
from probe import base_url
from record import ROOT, SMALL, Recorder, loop
from story import AGAIN, STEPS, Run


def test_all_of_it_is_seen(host: Host, tmp_path: Path) -> None:
    with Recorder(
        host="messaging-public",
        internet="messaging-internet",
        url=base_url(host),
        ephemeral=Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]),
        form=SMALL,
    ) as recorder:
        recorder.record(AGAIN, *STEPS)
        target, text, pictures = recorder.produce(tmp_path, "messaging-system", "A run on a host of the tests")
    entries = "stream=codec_name,width,height:format=duration"
    probe = ["ffprobe", "-v", "error", "-of", "json", "-show_entries", entries, target]
    probed = json.loads(subprocess.run(probe, check=True, capture_output=True).stdout)
    assert probed["streams"] == [{"codec_name": "h264", "width": 640, "height": 360}]
    seconds = float(probed["format"]["duration"])
    print(f"{seconds:.0f} s, {len(pictures)} pictures")
    assert 60 < seconds <= LONGEST
    assert abs(seconds - sum(picture.seconds for picture in pictures)) < 1
    lines = [json.loads(line) for line in text.read_text().splitlines()]
    assert [line[2] for line in lines[1:] if line[1] == "m"] == [
        step.caption for step in (AGAIN, *STEPS) if isinstance(step.acts[0], Run)
    ]
    assert str(ROOT) not in text.read_text()
    loop(pictures, tmp_path / "loop.webp")
    assert b"ANIM" in (tmp_path / "loop.webp").read_bytes()[:64]
