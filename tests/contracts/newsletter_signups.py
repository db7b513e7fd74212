"""Sign-ups of the queue `newsletter-signups` -> table `public.newsletter_signups`.

What it has and `user_logins` has not: an e-mail address, an SNS envelope, a field whose JSON name is another,
a field that may be left out, a derived text, and the sent day in the first column.
"""

from typing import Annotated

from msgspec import Meta, Struct, field

from include.queue_etl.contract import Contract, Derived, Personal, Rejected, SentDay, Text


class SignupEvent(Struct, frozen=True, gc=False):
    """The body of one message, inside its SNS notification."""

    email: Annotated[str, Meta(min_length=3, max_length=95, pattern="@")]
    newsletter: Annotated[str, Meta(max_length=40)]
    double_opt_in: str = field(name="doubleOptIn")
    referrer: Annotated[str, Meta(max_length=20)] | None = None


def confirmed(answer: str | None) -> str | Rejected:
    """Postgres boolean text of "yes" and "no"."""
    if answer not in ("yes", "no"):
        return Rejected("bad_answer")
    return "t" if answer == "yes" else "f"


CONTRACT = Contract(
    name="newsletter_signups",
    queue="newsletter-signups",
    table="public.newsletter_signups",
    event=SignupEvent,
    columns=(
        SentDay("signed_up_on"),
        Personal("email_token", "email", token_chars=160),
        Text("newsletter", "newsletter"),
        Derived("confirmed", "double_opt_in", confirmed),
        Text("referrer", "referrer"),
    ),
    sns_envelope=True,
)
