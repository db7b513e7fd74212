"""Sign-ups of the queue `newsletter-signups` -> table `public.newsletter_signups`.

What it has and `user_logins` has not: an e-mail address, an SNS envelope, a field whose JSON name is another,
a field that may be left out, and a derived boolean.
"""

from typing import Annotated

from msgspec import Meta, Struct, field

from include.queue_etl.contract import Contract, Derived, Name, Personal, Rejected, SentDay


def confirmed(answer: str | None) -> bool | Rejected:
    """Whether the answer is "yes" or "no"."""
    if answer not in ("yes", "no"):
        return Rejected("bad_answer")
    return answer == "yes"


class SignupEvent(Struct, frozen=True, gc=False):
    """The body of one message, inside its SNS notification."""

    email: Annotated[
        Annotated[str, Meta(min_length=3, max_length=95, pattern="@")],
        Personal(column="email_token", token_chars=160),
    ]
    newsletter: Annotated[str, Meta(max_length=40)]
    double_opt_in: Annotated[str, Derived(confirmed, bool), Name("confirmed")] = field(name="doubleOptIn")
    referrer: Annotated[str, Meta(max_length=20)] | None = None


CONTRACT = Contract(
    name="newsletter_signups",
    queue="newsletter-signups",
    table="public.newsletter_signups",
    event=SignupEvent,
    message=(SentDay("signed_up_on"),),
    sns_envelope=True,
)
