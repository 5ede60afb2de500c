"""Mail: the message, and its way out over SMTP."""
