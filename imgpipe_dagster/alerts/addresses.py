"""Who gets alerts and who sends them, from what people wrote into ``options``. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

HOW_TO_SET = (
    "INSERT INTO options (option_group, option_key, option_value, option_meta) "
    "VALUES ('error_alert', 'email', 'you@example.com, team@example.com', 'imgpipe@example.com')"
)
_ADDRESS = r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63})"
_WITH_NAME = re.compile(rf"[^<>@:]*<{_ADDRESS}>|{_ADDRESS}")


@dataclass(frozen=True)
class Addresses:
    """Recipients and sender as they can be used, and what cannot.

    Attributes:
        sender: None if nobody is named.
        recipients: Each once, in order.
        bad: What was written there and is no address.
    """

    sender: str | None
    recipients: tuple[str, ...]
    bad: tuple[str, ...]

    @property
    def problem(self) -> str | None:
        """Why no mail can be sent, and what to do, or None."""
        if not self.recipients:
            named = f" ({', '.join(map(repr, self.bad))} is no address)" if self.bad else ""
            return f"No recipients are named in the table options{named}: {HOW_TO_SET}"
        if self.sender is None:
            return "No sender is named: put one into option_meta of the recipients' row in the table options."
        return None

    @property
    def warning(self) -> str | None:
        """What is wrong although mail can be sent, or None."""
        return f"Not an address in the table options: {', '.join(map(repr, self.bad))}" if self.bad else None


def read_addresses(rows: Iterable[tuple[str, str]]) -> Addresses:
    """The addresses in rows of ``options``: comma-separated recipients, and the sender.

    ``Name <name@example.com>`` is taken too. The first row that names a sender decides.
    """
    recipients: dict[str, None] = {}
    bad: dict[str, None] = {}
    sender = None
    for value, meta in rows:
        for text in filter(None, map(str.strip, re.split(r"[,;\n]", value))):
            address = as_address(text)
            (bad if address is None else recipients)[address or text] = None
        if meta.strip():
            address = as_address(meta.strip())
            if address is None:
                bad[meta.strip()] = None
            sender = sender or address
    return Addresses(sender, tuple(recipients), tuple(bad))


def as_address(text: str) -> str | None:
    """The address in a text such as ``a@b.example`` or ``A <a@b.example>``, or None if there is none."""
    match = _WITH_NAME.fullmatch(text)
    return (match[1] or match[2]) if match and text.isprintable() else None
