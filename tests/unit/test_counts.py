"""Figures in words."""

from include.queue_etl.counts import found_in_words, in_words, run_in_words

SUMMARY = {
    "state": "succeeded",
    "received": 9_999_999,
    "loaded": 9_999_999,
    "quarantined": 9_999_999,
    "duplicates": 9_999_999,
    "deleted": 9_999_999,
    "visible_after": 9_999_999,
    "quarantined_by_reason": {"bad_json": 1},
}


def test_counts_keep_their_order():
    assert in_words({"loaded": 99, "quarantined": 1}) == "loaded 99, quarantined 1"


def test_no_counts_are_none():
    assert in_words({}) == "none"


def test_what_was_found_is_told_by_kind_and_field():
    found = {"note": {"email": 3, "ip": 1}, "new.*": {"card": 2}}
    assert found_in_words(found) == "email in note 3, ip in note 1, card in new.* 2"


def test_a_run_in_words_fits_a_line_of_120_characters():
    text = run_in_words(SUMMARY)
    assert text.startswith("succeeded: received 9999999: loaded 9999999, quarantined 9999999, ")
    assert len(text) <= 120


def test_a_run_that_never_counted_what_it_received_is_not_given_a_figure():
    assert "received ?:" in run_in_words({**SUMMARY, "received": None})
