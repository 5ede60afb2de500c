"""The tutorial's task: a new session, TLS and login for every mail."""

import os
import smtplib
from email.message import EmailMessage

from celery import Celery

app = Celery("tasks", broker=os.environ["BROKER_URL"])


@app.task
def send_mail(to: str) -> None:
    message = EmailMessage()
    message["From"] = os.environ["MAIL_FROM"]
    message["To"] = to
    message["Subject"] = "A message for you"
    message.set_content("Somebody asked messaging-system to send you this message.")
    with smtplib.SMTP_SSL(os.environ["SMTP_HOST"], int(os.environ["SMTP_PORT"])) as server:
        server.login(os.environ["SMTP_USERNAME"], os.environ["SMTP_PASSWORD"])
        server.send_message(message)
