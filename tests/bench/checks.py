"""Are the rows right? Asked after every run, before a figure is printed."""

from pathlib import Path

from include.contracts.user_logins import CONTRACT
from include.queue_etl.keys.keyset import Keyset
from include.queue_etl.transform.masking import Masker
from tests.bench.feed import Feed, Totals
from tests.bench.scratch import Database

TOTALS = """
    SELECT count(*), count(DISTINCT user_id), count(DISTINCT masked_ip), count(DISTINCT masked_device_id),
           coalesce(sum(app_version), 0)
    FROM public.user_logins WHERE masked_ip IS DISTINCT FROM repeat('x', 52)
"""
LEDGER = """
    SELECT count(*) FILTER (WHERE status = 'L'), count(*) FILTER (WHERE status = 'Q')
    FROM etl.ledger WHERE run_id IN (SELECT run_id FROM etl.runs)
"""
RUNS = """
    SELECT sum(received), sum(loaded), sum(quarantined), sum(duplicates), sum(deleted), sum(delete_failed),
           bool_and(state = 'succeeded') FROM etl.run_summary
"""
# Random, not the first ones: those are all of one batch.
SAMPLE = """
    SELECT user_id, masked_ip, masked_device_id FROM public.user_logins
    WHERE masked_ip <> repeat('x', 52) ORDER BY random() LIMIT 500
"""


def problems_of_rows(database: Database, feed: Feed) -> list[str]:
    """What is wrong with the table, a sentence each."""
    found = Totals(*(int(number) for number in database.rows(TOTALS)[0]))
    return [] if found == feed.totals else [f"user_logins holds {found}, expected {feed.totals}"]


def problems_of_bookkeeping(database: Database, feed: Feed, keyset_file: Path) -> list[str]:
    """What is wrong with the ledger, the quarantine, the runs' records and the tokens of our pipeline."""
    rows, rejected = feed.totals.rows, feed.rejected
    expected = {
        LEDGER: (rows, rejected),
        "SELECT count(*) FROM etl.quarantine": (rejected,),
        RUNS: (feed.count, rows, rejected, 0, feed.count, 0, True),
    }
    problems = [
        f"{' '.join(question.split())}: {found}, expected {wanted}"
        for question, wanted in expected.items()
        if (found := database.rows(question)[0]) != wanted
    ]
    return problems + _problems_of_tokens(database, feed, keyset_file)


def _problems_of_tokens(database: Database, feed: Feed, keyset_file: Path) -> list[str]:
    """Whether a sample of rows, unmasked, shows what was sent."""
    address, device = CONTRACT.personal
    masker = Masker(CONTRACT, Keyset.from_json(keyset_file.read_text()))
    sample = database.rows(SAMPLE)
    wrong = sum(
        (user, masker.unmask(address, masked_ip), masker.unmask(device, masked_device)) not in feed.secrets
        for user, masked_ip, masked_device in sample
    )
    return [f"{wrong} of {len(sample)} rows, unmasked, are not what was sent"] if wrong or not sample else []
