"""Which fields are proposed as personal, and why: by their names and by what their values look like. Pure.

It is a proposal. A person decides.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from include.queue_etl.onboarding.survey import Field
from include.queue_etl.recognition import SHAPES, Shape, words


@dataclass(frozen=True, slots=True)
class Proposal:
    """That a field is personal.

    Attributes:
        normalization: name of the member of Normalization
        reason: in a few words, without a value
    """

    normalization: str
    reason: str


class _Rule:
    """Names that say that a value is personal: patterns of lower-case words, joined with `_`, without digits.

    Args:
        what: they stand for
        normalization: name of the member of Normalization
        ends: the last words of a field's name
        whole: the whole name
        below: the last words of the name above, `.` and the whole name, for names that say it only there
        numbers: a number may be one too
    """

    def __init__(
        self,
        what: str,
        normalization: str,
        ends: str,
        whole: str = "",
        below: str = "",
        numbers: bool = False,
    ) -> None:
        self.what = what
        self.normalization = normalization
        self.numbers = numbers
        self._name = re.compile(rf"(.+_)?({ends})" + (f"|({whole})" if whole else ""))
        self._path = re.compile(rf"(.+_)?({below})") if below else None

    def matches(self, name: str, path: str) -> bool:
        """Whether it speaks of a field with these words in its name and in its path."""
        in_path = self._path is not None and self._path.fullmatch(path)
        return bool(self._name.fullmatch(name) or in_path)


# Whose name is that of an account, so that every address of a page has it too.
_ACCOUNT = (
    "actor|assignee|author|committer|contributor|creator|member|owner|pusher|requester|reviewer|sender|user"
)
_PERSON = (
    f"({_ACCOUNT}|account_holder|approver|attendee|billing|billing_details|buyer|client|contact|customer|driver"
    "|employee|from|guest|holder|invitee|inviter|lead|passenger|patient|payer|person|profile|recipient|reporter"
    "|shipping|subscriber|to|traits|travell?er|user_identity)s?"
)
# The first that matches counts, so that an `ip_address` is none of a house.
_RULES = (
    _Rule("email", "EMAIL", "(e_?)?mails?|(e_?)?mail_?address(es)?"),
    _Rule(
        "phone",
        "PHONE",
        "(tele)?phones?|(phone|mobile|fax|tel|cell|contact)_?(no|num|number)s?|phone_(home|mobile|work)"
        "|mobile|msisdn|fax|whatsapp",
        whole="tel|cell",
        numbers=True,
    ),
    _Rule(
        "IP address",
        "IP",
        "ips?|(?<!protocol_)ipv|ip_?addr|ip_?address(es)?|x_forwarded_for|(remote|client)_addr",
    ),
    _Rule(
        "device",
        "TEXT",
        "(device|hardware|installation|advertising|vendor)_?(ids?|identifier|uuid|serial|token)"
        "|(apns|fcm|push|registration)_token|imei|imsi|iccid|idfa|idfv|gaid|aaid|udid|mac|mac_?addr(ess)?"
        "|fingerprint|serial_number",
        below=r"device\.id",
        numbers=True,
    ),
    _Rule("user agent", "TEXT", "user_?agent(_(extended|original|raw|string))?|ua"),
    _Rule(
        "online identifier",
        "TEXT",
        "(anonymous|visitor|cookie|distinct)_?id|cookies?",
        whole="((external|user|web)_)?session_?id",
    ),
    _Rule(
        "credential",
        "TEXT",
        "password|passwd|pwd|passphrase|jwt|secret|secret_key|api_?key|private_key|access_?key(_?id)?"
        "|(access|refresh|id|session|auth|bearer|csrf|api|security)_?token|authorization",
        whole="otp|pin|csrf|token",
        numbers=True,
    ),
    _Rule(
        "national number",
        "TEXT",
        "ssn(_last)?|social_security(_number)?|national_?(id|number)|passport(_?(no|number))?"
        "|(tax|vat)_?(id|no|number)"
        "|driv(er|ers|ing)_licen[cs]e(_(no|number))?|licen[cs]e_plate|cpf|curp|nino|aadhaar|personnummer",
        numbers=True,
    ),
    _Rule(
        "bank account",
        "TEXT",
        "iban|bic|bank_?account|account_?(no|number)|routing_number|sort_code",
        numbers=True,
    ),
    _Rule(
        "birth",
        "TEXT",
        "birth_?(date|day|year|place)|bday|(date|year|place)_?of_?birth|dob|born(_on)?",
        numbers=True,
    ),
    _Rule(
        "name of a person",
        "TEXT",
        "(first|last|full|real|given|family|middle|sur|maiden|nick|user|legal|login|screen|holder|contact"
        "|customer|recipient|author|actor|owner|sender|display|preferred|role_session|spouse|partner|mother"
        "|father|guardian)_?names?(_normalized)?|forename|middle_initial|account_?holder|login_hint",
        whole="login",
        below=rf"({_PERSON}|(?<!ip_)(?<!mac_)(?<!mail_)address(es)?|card_?holder)\.name|name\.(first|last|middle|given|family|full|text)"
        rf"|({_ACCOUNT})s?\.summary",
    ),
    _Rule(
        "card",
        "TEXT",
        "(card|cc)_?(no|num|number)|(credit|debit)_?card|card_?holder(_name)?|cvv|cvc|card_last",
        whole="card|pan|last",
        below=r"card\.(exp_month|exp_year|name)",
        numbers=True,
    ),
    _Rule(
        "address",
        "TEXT",
        "street|street_?(name|address|number)|address|address_?line|address_(zip|city|town|district)|addr"
        "|house_?(no|number)|(zip|post|postal)_?code",
        whole="line|zip",
        below=r"(address|location|billing|shipping|home|delivery|geo|geo_?ip|geographical_context)"
        r"\.(city|town|district)",
        numbers=True,
    ),
    _Rule(
        "location",
        "TEXT",
        "lat|latitude|lng|lon|longitude|geo_?hash|coordinates|gps|geo_?point|geo_?location",
        below=r"(location|geo|position|coordinates)\.long",
        numbers=True,
    ),
    _Rule("narrative of a record", "TEXT", "narrative", below=r"text\.div"),
    _Rule(
        "special category",
        "TEXT",
        "gender|sex|religion|race|ethnicity|nationality|marital_status|sexual_orientation|political_party"
        "|disability|diagnosis|blood_type",
    ),
    _Rule(
        "picture",
        "TEXT",
        "avatar(_(hash|url))?|gravatar_id|photo|photo_url|profile_(image|pic|picture)(_url)?|author_icon",
        below=rf"profile\.image(_original)?|{_PERSON}\.picture",
    ),
    _Rule(
        "page of a person",
        "TEXT",
        "(author|user|profile)_(url|link)",
        below=rf"({_ACCOUNT})s?\.(\w+_)?(url|link)",
    ),
    _Rule(
        "account of a person",
        "TEXT",
        "principal_?id|(twitter|instagram|linkedin|skype|telegram)_?(handle|id|username)",
        whole="twitter|instagram|linkedin|skype|telegram",
        numbers=True,
    ),
)


class UnknownPath(ValueError):
    """The person named a path that the sample does not have; `path` is as it was given."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def proposals(
    event: Field, personal: Iterable[str] = (), not_personal: Iterable[str] = ()
) -> dict[str, Proposal]:
    """Path -> proposal of every field that is personal, by what is found and what the person said.

    Args:
        event: of a survey
        personal: paths that the person calls personal, also of objects and lists
        not_personal: paths that the person calls harmless; what is inside them is looked at still

    Raises:
        UnknownPath: there is no such path
    """
    fields = {field.path: field for field in event.walk() if field.path}
    decided = {*personal, *not_personal}
    for path in decided:
        if path not in fields:
            raise UnknownPath(path)
    found = {path: Proposal(_best_shape(fields[path]), "you say so") for path in personal}
    for field, above in _with_names(event, ()):
        proposal = _proposal(field, above)
        if proposal and field.path not in decided:
            found[field.path] = proposal
    return found


def _with_names(field: Field, above: tuple[str, ...]) -> Iterator[tuple[Field, tuple[str, ...]]]:
    """Each field below with the names on the way to it; what a list or map holds is called like the list."""
    for part in field.parts:
        names = above if part.key == "[*]" else (*above, part.key)
        yield part, names
        yield from _with_names(part, names)


def _proposal(field: Field, names: tuple[str, ...]) -> Proposal | None:
    rule = _rule(field, names)
    shapes = _shapes(field)
    reasons = [f"name: {rule.what}"] if rule else []
    reasons += [f"shape: {percent(share)} {shape.plural}" for shape, share in shapes]
    if field.map_shapes:
        reasons += [f"shape: its names are {plural}" for plural in field.map_shapes]
    if field.is_cut:
        reasons.append("too deep to be looked into")
    if not reasons:
        return None
    return Proposal(_normalization(field, rule, shapes), "; ".join(reasons))


def _rule(field: Field, names: tuple[str, ...]) -> _Rule | None:
    """The rule of the field's name, if what stands there can be personal at all."""
    numbers = bool(field.kinds & {"integer", "decimal"})
    is_text = "text" in field.kinds or not field.kinds
    if not (numbers or is_text):
        return None
    own = words(names[-1])
    name, path = "_".join(own), ".".join("_".join(words(part)) for part in names[-2:])
    rule = next((rule for rule in _RULES if rule.matches(name, path)), None)
    if rule is None or (not is_text and not rule.numbers):
        return None
    is_moment = field.texts is not None and "date" in field.texts.form
    return None if is_moment and rule.what != "birth" else rule


def _shapes(field: Field) -> list[tuple[Shape, float]]:
    """The shapes that enough of the values have, the commonest first."""
    counts: dict[str, int] = {}
    total = 0
    for part in (field.texts, field.numbers):
        if part:
            total += part.count
            counts |= {plural: counts.get(plural, 0) + count for plural, count in part.shapes.items()}
    # 8.0.3.2 is a version here.
    known = [shape for shape in SHAPES if shape.normalization != "IP" or "version" not in words(field.key)]
    shares = [(shape, counts[shape.plural] / total) for shape in known if shape.plural in counts]
    return sorted(
        ((shape, share) for shape, share in shares if share >= shape.least_share), key=lambda one: -one[1]
    )


def _normalization(field: Field, rule: _Rule | None, shapes: list[tuple[Shape, float]]) -> str:
    if shapes and shapes[0][1] >= 0.5:
        return shapes[0][0].normalization
    if rule is None:
        return "TEXT"
    # A name alone does not make an address of a text: `ip` may hold a network, and a phone number without
    # its country is one of many.
    is_confirmed = any(shape.normalization == rule.normalization for shape, _ in shapes)
    return rule.normalization if is_confirmed or not field.kinds else "TEXT"


def _best_shape(field: Field) -> str:
    return _normalization(field, None, _shapes(field))


def percent(share: float) -> str:
    """A share as people read it; never 0% of what is there."""
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"
