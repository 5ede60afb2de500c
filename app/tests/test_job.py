import json

from messaging.job import SEND_EMAIL, Job

JOB = Job(
    task=SEND_EMAIL,
    kwargs={"to": "somebody@example.com", "text": "private"},
    task_id="7b1c",
    queue="email",
    submitted_at=1234.5,
    request_id="r-1",
)


def test_a_job_survives_the_journey() -> None:
    assert Job.from_headers(JOB.headers(), json.loads(JOB.body())[1]) == JOB


def test_headers_show_nothing_of_the_arguments() -> None:
    headers = str(JOB.headers())
    assert "somebody" not in headers
    assert "private" not in headers


def test_the_next_attempt_is_the_same_job() -> None:
    again = JOB.next_attempt(unknown=True)
    assert (again.attempt, again.unknowns, again.task_id, again.submitted_at) == (2, 1, "7b1c", 1234.5)
    assert again.next_attempt().unknowns == 1
