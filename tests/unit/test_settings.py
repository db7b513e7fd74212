"""Settings from the environment: every wrong one is named at once, with the way to fix it."""

import inspect
from dataclasses import fields
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from include.queue_etl.errors import SettingsError
from include.queue_etl.settings import RULES, Settings, limits, read_all

STAGING = {"QUEUE_ETL_STAGING": "/var/staging"}
NAMES = [field.name for field in fields(Settings)]
CHOICES = {name: get_args(rule) for name, rule in RULES.items() if get_origin(rule) is Literal}
TEXTS = ("staging", "kms_key_uri", "queue_suffix")
LIMITS = {name: limits(name) for name in NAMES if name not in (*CHOICES, *TEXTS)}
GOOD = {
    "staging": st.sampled_from(["/", "/var/my staging", "s3://bucket", "s3://my-bucket.x/a/b"]),
    "kms_key_uri": st.sampled_from(["", "aws-kms://arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab"]),
    "queue_suffix": st.sampled_from(["", "-staging", "_eu-1", "-dlq-2"]),
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
    **{name: st.integers(*least_and_most).map(str) for name, least_and_most in LIMITS.items()},
}
NO_NUMBER = ["", " ", "ten", "1.5", "-1", "+1", " 1", "1 ", "1\n", "0x10", "1_0", "٣", "9" * 30]
BAD = {
    "staging": st.sampled_from(
        ["", "relative/path", "~/staging", "s3://", "s3://A", "s3://b", "gs://x", "s3:///x"]
    ),
    "kms_key_uri": st.sampled_from(
        ["arn:aws:kms:eu-west-1:111122223333:key/1", "aws-kms://key/1", "gcp-kms://x", " "]
    ),
    "queue_suffix": st.sampled_from(["-dlq", "-staging-dlq", ".fifo", " ", "-a b", "-a\n", "-ä"]),
    **{
        name: st.sampled_from(["", "other", choices[0].upper(), f" {choices[0]}"])
        for name, choices in CHOICES.items()
    },
    **{
        name: st.sampled_from([*NO_NUMBER, str(most + 1), str(least - 1)])
        for name, (least, most) in LIMITS.items()
    },
}


def variable(name: str) -> str:
    return f"QUEUE_ETL_{name.upper()}"


def comes_back_too_soon(values) -> bool:
    """Whether receiving may take more than half of the time that messages are hidden."""
    defaults = {"receive_seconds": 30, "visibility_timeout_seconds": 3600}
    receive, hidden = (int(values.get(name, default)) for name, default in defaults.items())
    return 2 * receive > hidden


def test_each_setting_is_checked():
    assert set(NAMES) == set(GOOD) == set(BAD) == {*TEXTS, *CHOICES, *LIMITS}


@given(st.fixed_dictionaries({"staging": GOOD["staging"]}, optional={n: GOOD[n] for n in NAMES[1:]}))
def test_any_combination_of_good_values_is_taken_as_given(given_values):
    assume(not comes_back_too_soon(given_values))
    settings = Settings.from_environment({variable(name): text for name, text in given_values.items()})
    for name in NAMES:
        expected = given_values.get(name, str(getattr(Settings(staging=""), name)))
        assert str(int(expected) if name in LIMITS else expected) == str(getattr(settings, name))


@given(st.data())
def test_any_combination_of_bad_values_is_listed_completely(data):
    wrong = data.draw(st.sets(st.sampled_from(NAMES), min_size=1))
    values = {name: data.draw((BAD if name in wrong else GOOD)[name], label=name) for name in NAMES}
    pair = {"receive_seconds", "visibility_timeout_seconds"}
    assume(pair & wrong or not comes_back_too_soon(values))
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable(name): text for name, text in values.items()})
    named = [problem.partition("=")[0] for problem in caught.value.problems]
    assert named == [variable(name) for name in NAMES if name in wrong]


@given(st.data())
def test_overrides_are_checked_as_the_environment_is(data):
    name = data.draw(st.sampled_from(sorted(LIMITS)))
    with pytest.raises(SettingsError, match=variable(name)):
        Settings.from_environment(STAGING, **{name: data.draw(BAD[name])})


def test_an_override_wins_even_over_a_bad_value():
    environment = {**STAGING, "QUEUE_ETL_MAX_MESSAGES": "many"}
    assert Settings.from_environment(environment, max_messages=5).max_messages == 5


def test_without_staging_nothing_runs():
    with pytest.raises(SettingsError, match="QUEUE_ETL_STAGING is not set: give an absolute folder or s3://"):
        Settings.from_environment({})


def test_a_missing_setting_is_listed_beside_a_wrong_one():
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"QUEUE_ETL_ENV": "staging", "QUEUE_ETL_TRANSFERS": "0"})
    assert caught.value.problems == (
        "QUEUE_ETL_STAGING is not set: give an absolute folder or s3://bucket/prefix",
        "QUEUE_ETL_ENV='staging': must be one of development, production",
        "QUEUE_ETL_TRANSFERS='0': must be a whole number from 1 to 128",
    )


def test_several_readers_list_their_problems_together_or_answer_in_order():
    def wrong(*problems):
        raise SettingsError(problems)

    with pytest.raises(SettingsError) as caught:
        read_all(lambda: 1, lambda: wrong("a", "b"), lambda: wrong("c"))
    assert caught.value.problems == ("a", "b", "c")
    assert read_all(lambda: 1, lambda: "two") == [1, "two"]


def test_variables_that_are_no_settings_do_not_matter():
    environment = {**STAGING, "PATH": "/bin", "QUEUE_ETL_WAREHOUSE_DSN": "x", "max_messages": "none"}
    assert Settings.from_environment(environment) == Settings(staging="/var/staging")


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_the_limits_themselves_are_allowed(name):
    short = {} if name == "receive_seconds" else {"receive_seconds": 1}
    for value in LIMITS[name]:
        assert getattr(Settings.from_environment(STAGING, **{**short, name: value}), name) == value


def test_receiving_longer_than_half_of_the_visibility_timeout_is_refused():
    soon = {**STAGING, "QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "59"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(soon)
    assert caught.value.problems == (
        "QUEUE_ETL_RECEIVE_SECONDS=30 is too long for QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS=59: set the first "
        "to at most 29, or the second to at least 60, else messages come back before they are loaded",
    )
    assert Settings.from_environment(soon, receive_seconds=29).receive_seconds == 29


def test_a_contradiction_is_listed_beside_wrong_values():
    environment = {"QUEUE_ETL_VISIBILITY_TIMEOUT_SECONDS": "10", "QUEUE_ETL_TRANSFERS": "0"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment)
    named = [problem.partition(" ")[0].partition("=")[0] for problem in caught.value.problems]
    assert named == ["QUEUE_ETL_STAGING", "QUEUE_ETL_TRANSFERS", "QUEUE_ETL_RECEIVE_SECONDS"]


def test_the_defaults_are_within_the_limits():
    defaults = Settings(staging="/var/staging")
    environment = {variable(name): str(getattr(defaults, name)) for name in NAMES}
    assert Settings.from_environment(environment) == defaults


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_explains_each_setting(name):
    assert f"\n    {name}: " in str(inspect.getdoc(Settings))
