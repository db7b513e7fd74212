"""How many receive calls are under way at once: a controller that adapts to what arrives."""

LEAST_FILL, ENOUGH_FILL = 0.3, 0.5
# Half of the last answers, by weight, are the newest two or three: one unusual answer changes nothing.
NEWEST_WEIGHT = 0.25
LONGEST_PAUSE_SECONDS = 0.5
PAUSES = 5  # each half of the next longer one: 0.5, 0.25, ... 0.03 s


class PollController:
    """Keeps answers about four messages full: the fewest calls that keep up with what arrives.

    SQS bills a call whatever it brings, up to ten messages. Too many calls share the messages among them, too
    few fall behind. How full the answers are says which of the two it is: while a queue is deep they stay
    full however many calls are under way; at a trickle they get emptier with each call more.

    So this is an additive-increase controller with the fill of the answers as its signal. Its one number is a
    rung of a ladder. Upwards each rung is one call more under way. Below one call the rungs are pauses before
    the next call, each twice as long: at a trickle two calls a second bring what ten would.

    The fill is a moving average, because SQS may return fewer messages than it has (ReceiveMessage, API
    reference). A deep queue whose answers hold one to ten messages at random has an average of 0.55 and is
    polled with every call allowed.

    Args:
        most: calls that may be under way at once
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rung = 1
        self._fill: float | None = None

    @property
    def calls(self) -> int:
        """Calls to have under way, 1 at least."""
        return max(1, self._rung)

    @property
    def has_caught_up(self) -> bool:
        """Whether messages are taken as they come: few calls are enough, and their answers are not full.

        The fill alone may be as low for a moment where a deep queue answers with one to ten at random.
        """
        return self._fill is not None and self._fill < ENOUGH_FILL and self.calls <= self._most // 2

    @property
    def pause_seconds(self) -> float:
        """Time to let pass before the next call, while only one is to be under way."""
        return 0.0 if self._rung >= 1 else LONGEST_PAUSE_SECONDS / 2 ** (PAUSES - 1 + self._rung)

    def answered(self, asked: int, received: int) -> None:
        """Take note of one answer: how many messages were asked for, and how many came."""
        fill = received / asked
        self._fill = fill if self._fill is None else self._fill + NEWEST_WEIGHT * (fill - self._fill)
        if not received:
            self._rung = max(min(self._rung, 1) - 1, 1 - PAUSES)
        elif received == asked and self._rung < 1:
            self._rung = 1  # more is waiting than the pauses allow for
        elif self._fill >= ENOUGH_FILL:
            self._rung = min(self._rung + 1, self._most)
        elif self._fill < LEAST_FILL:
            self._rung = max(self._rung - 1, 1 - PAUSES)
