"""How mail travels: through an SMTP server, or into a local mailbox folder. No alerts, no database."""

import contextlib
import mailbox
import smtplib
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from imgpipe_dagster.alerts.addresses import as_address

SMTP_URL_HELP = (
    "smtp://user:password@host:587 (STARTTLS), smtps://user:password@host:465 (TLS), smtp://host:25?starttls=no "
    "(neither, and so no login but on this machine), maildir:///folder (a local mailbox)"
)
_DEFAULT_PORTS = {"smtp": 587, "smtps": 465}
_OPTIONS = frozenset({"starttls", "ca"})
_PERMANENT = 500
_CLOSING = 421
_TOO_SLOW = "it does not answer in time"


class MailError(RuntimeError):
    """The mail could not be handed over; the message says why, in one line and without secrets."""


@dataclass(frozen=True)
class Refusal:
    """A server does not take mail for one recipient."""

    permanent: bool
    text: str


class Mailer(Protocol):
    """Something that takes mail."""

    def send(self, message: EmailMessage, sender: str, recipients: Sequence[str]) -> dict[str, Refusal]:
        """Hand a message over for some recipients.

        Returns:
            Those who were refused; everybody else has the mail.

        Raises:
            MailError: nobody has it, as far as can be known.
        """
        ...


@dataclass(frozen=True)
class SmtpMailer:
    """An SMTP server.

    Attributes:
        host: Its name or address.
        port: Its port.
        security: STARTTLS, TLS from the start, or neither.
        user: For the login; None logs in nowhere.
        password: For the login.
        ca_file: Certificates to trust instead of the system's.
        timeout_s: For each step of the conversation; the whole takes at most four times as long.
    """

    host: str
    port: int
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password: str = ""
    ca_file: str | None = None
    timeout_s: float = 15.0

    def __repr__(self) -> str:
        return f"SmtpMailer({self.host}:{self.port}, {self.security})"

    def send(self, message: EmailMessage, sender: str, recipients: Sequence[str]) -> dict[str, Refusal]:
        """Hand a message over; see `Mailer.send`."""
        try:
            server = self._connect()
            # A server that answers a letter a minute keeps every timeout: the whole conversation has one, too.
            alarm = threading.Timer(4 * self.timeout_s, _hang_up, [server])
            alarm.daemon = True
            alarm.start()
            try:
                refused = self._converse(server, message, sender, recipients)
            finally:
                alarm.cancel()
                _part(server)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise MailError(f"{self.host}:{self.port}: {_short(error)}") from error
        return {
            address: Refusal(code >= _PERMANENT, f"{code} {_decode(text)}") for address, (code, text) in refused.items()
        }

    def _connect(self) -> smtplib.SMTP:
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout_s, context=self._trust())
        return smtplib.SMTP(self.host, self.port, timeout=self.timeout_s)

    def _converse(
        self, server: smtplib.SMTP, message: EmailMessage, sender: str, recipients: Sequence[str]
    ) -> dict[str, tuple[int, bytes]]:
        if self.security == "starttls":
            server.starttls(context=self._trust())
        if self.user is not None:
            server.login(self.user, self.password)
        try:
            return server.send_message(message, sender, list(recipients))
        except smtplib.SMTPRecipientsRefused as refused:
            if any(code == _CLOSING for code, _ in refused.recipients.values()):
                raise  # the server left in the middle: those not in this list were not even asked for
            return refused.recipients

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise MailError(f"The certificates of ?ca={self.ca_file} cannot be read: {_short(error)}") from error


@dataclass(frozen=True)
class MaildirMailer:
    """A mailbox folder on this machine, which every mail reader opens. For demos and for reading what would be sent."""

    folder: Path

    def send(self, message: EmailMessage, sender: str, recipients: Sequence[str]) -> dict[str, Refusal]:
        """Put a message into the folder; see `Mailer.send`."""
        del sender, recipients  # they are in the message
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            mailbox.Maildir(self.folder, create=True).add(message)
        except OSError as error:
            raise MailError(f"The mailbox {self.folder}: {error.strerror}") from error
        return {}


def open_mailer(url: str, *, timeout_s: float = 15.0) -> Mailer:
    """The mailer that a URL names; no connection is made yet.

    Args:
        url: See ``SMTP_URL_HELP``. ``?ca=/path/ca.pem`` trusts these certificates instead of the system's.
        timeout_s: For each step of a conversation.

    Raises:
        ValueError: the URL names none. The message does not show it, as there may be a password in it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"the mail server's URL cannot be read; it is one of {SMTP_URL_HELP}") from None
    if parts.scheme == "maildir" and not parts.netloc and parts.path.startswith("/") and not parts.query:
        return MaildirMailer(Path(unquote(parts.path)))
    options = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path.strip("/") or set(options) - _OPTIONS:
        raise ValueError(f"the mail server's URL is one of {SMTP_URL_HELP}")
    if options.get("starttls", "yes") not in {"yes", "no"}:
        raise ValueError("starttls in the mail server's URL is yes or no")
    security: Literal["starttls", "tls", "none"] = "starttls"
    if parts.scheme == "smtps":
        security = "tls"
    elif options.get("starttls") == "no":
        security = "none"
    if security == "none" and parts.username and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("a login at the mail server without TLS would show the password: leave out starttls=no")
    return SmtpMailer(
        host=parts.hostname,
        port=port or _DEFAULT_PORTS[parts.scheme],
        security=security,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password or ""),
        ca_file=options.get("ca"),
        timeout_s=timeout_s,
    )


def login_address(url: str) -> str | None:
    """The user of a mail server's URL, if it is an address: a sender where no other is named."""
    user = urlsplit(url).username
    return as_address(unquote(user)) if user else None


def _hang_up(server: smtplib.SMTP) -> None:
    if server.sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(server.sock, socket.SHUT_RDWR)  # that of an SSL socket would drop its TLS first


def _part(server: smtplib.SMTP) -> None:
    """Say goodbye. The mail is with the server already or not: how it takes leave changes nothing."""
    try:
        server.quit()
    except (smtplib.SMTPException, OSError, ValueError):
        server.close()


def _short(error: Exception) -> str:
    match error:
        case smtplib.SMTPResponseException():
            return f"{error.smtp_code} {_decode(error.smtp_error)}"
        case smtplib.SMTPRecipientsRefused():
            return "the server closed the connection"
        case TimeoutError():
            return _TOO_SLOW
        case smtplib.SMTPServerDisconnected() if isinstance(error.__context__, TimeoutError):
            return _TOO_SLOW
        case _:
            return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _decode(text: bytes | str) -> str:
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return " ".join(plain.split())[:200]
