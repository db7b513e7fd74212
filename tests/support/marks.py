"""A mark of each kind of personal value, for tests of how values are normalized and found."""

from include.queue_etl.contract import Normalization, Personal

ADDRESS = Personal(Normalization.IP)
PLAIN = Personal()
MAIL = Personal(Normalization.EMAIL)
FOLDED = Personal(Normalization.EMAIL_FOLDED)
CALL = Personal(Normalization.PHONE, region="DE")
ABROAD = Personal(Normalization.PHONE)
