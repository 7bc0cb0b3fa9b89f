"""What is personal in a text: e-mail addresses, phone numbers, IP addresses.

In: a text, or a field. Out: the text with a marker for each. Invariant: linear time, as in
``_secret_texts``. Deliberately absent: the values that say who somebody is (``_redact``).
"""

import ipaddress
import re
from typing import Final

from otel_logging._secret_names import words_in, words_of
from otel_logging._secret_texts import marker
from otel_logging._text import later

_PHONES: Final = words_in("phone telephone cellphone mobile cell msisdn fax tel")
_EMAIL: Final = later(r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_ADDRESS: Final = later(
    r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\w|-[a-z])"
    r"|(?<![\w.:])(?=[A-Fa-f:]{0,20}[0-9])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:]|\.\d)"
)
#: Words before a version number that looks like an IP address.
_VERSION: Final = later(r"(?i:version|release|build|\bv|\bver)\W{0,3}$|==$|\w-$|[A-Z][a-z]\w*/$")
_PHONE: Final = later(
    r"(?<![\w.+-])(?<![0-9][ .-])(?:(?:\+|\(\+[0-9]{0,3}\) ?)[1-9](?:[ ()./-]{0,3}[0-9]){7,14}"
    r"|\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}|0[1-9](?:([ .])[0-9]{2})(?:\1[0-9]{2}){3}"
    r"|(?![0-9]{2}([ -])[0-9]{2}\2[0-9]{4})(?:0[0-9]{1,4}(?: ?[/-] ?| )|\(0[0-9]{1,4}\) ?[/-]? ?)"
    r"[0-9](?:[ -]?[0-9]){5,9})(?![\w-]|[ .]?[0-9])"
)


def is_phone(name: str, value: object) -> bool:
    """Say whether the field *name* has a phone number as *value*, however it is written."""
    words = [word for word in words_of(name) if word not in ("number", "no")]
    has_one = type(value) in (int, str) and sum(map(str.isdigit, str(value))) > 5
    return has_one and not _PHONES.isdisjoint(words[-1:])


def without_personal(text: str) -> str:
    """Return *text* without e-mail addresses, phone numbers and IP addresses."""
    text = _ADDRESS.sub(_address, _EMAIL.sub(marker("email"), text))
    return _PHONE.sub(marker("phone"), text)


def _address(found: re.Match[str]) -> str:
    if _VERSION.search(found.string[max(found.start() - 16, 0) : found.start()]):
        return found.group()
    try:
        ipaddress.ip_address(found.group())
    except ValueError:
        return found.group()
    return marker("ip")
