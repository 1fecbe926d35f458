"""Where alert mails go, as a resource. No logic."""

import dagster as dg
from pydantic import Field

from imgpipe_dagster.alerts.smtp import Mailer, login_address, open_mailer


class MailerResource(dg.ConfigurableResource):
    """The mail server, or none."""

    url: str = Field(default="", description="URL of the mail server, from the environment; empty: mail waits.")
    timeout_s: float = Field(default=15, description="Seconds for each step of a mail's delivery.")

    def open(self) -> Mailer | None:
        """What takes the mail, or None if no server is set."""
        return open_mailer(self.url, timeout_s=self.timeout_s) if self.url else None

    @property
    def login(self) -> str | None:
        """The user of the login, if it is an address."""
        return login_address(self.url) if self.url else None
