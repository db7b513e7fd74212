"""What is known of a sample -> a draft of its contract: types, columns, marks, each with its reason. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from include.queue_etl.contract import SUBJECT
from include.queue_etl.onboarding import column_types, names
from include.queue_etl.onboarding.column_types import ColumnType
from include.queue_etl.onboarding.personal import Proposal
from include.queue_etl.onboarding.survey import LEAST_OF_A_CHOICE, MOST_CHOICES, Field, Survey
from include.queue_etl.recognition import LONGEST_NAME, words

# Objects in each other of which each leaf gets a column; what is deeper is jsonb.
MOST_LEVELS = 4
MOST_COLUMNS = 200  # where there would be more, nested objects are jsonb, the deepest and widest first
COLUMNS_OF_A_TABLE = 1_600  # https://www.postgresql.org/docs/current/limits.html
HIDDEN = Proposal("TEXT", "holds personal values that no path leads to")
SUBJECTS = ("userId", "userID", "user.id", "customer_id", "customerId", "customer.id")


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a struct.

    Attributes:
        found: what the sample has there
        attribute: its name in Python
        type: its type in Python, without `| None`
        marks: what stands beside the type in Annotated, as Python
        sql_type: of its column; "" of an object whose leaves have columns
        column: name of its column
        is_optional: it was missing somewhere
        is_nullable: it was null somewhere, or missing
        struct: of an object whose leaves have columns
        personal: it is masked
        inside: of jsonb: path inside -> what is masked there
        note: why it has this type, and what a person should know
    """

    found: Field
    attribute: str
    type: str
    sql_type: str
    column: str = ""
    marks: tuple[str, ...] = ()
    is_optional: bool = False
    is_nullable: bool = False
    struct: "Struct | None" = None
    personal: Proposal | None = None
    inside: dict[str, Proposal] = field(default_factory=dict)
    choices: tuple[str, ...] = field(default=(), repr=False)
    note: str = ""

    def inside_at(self, found: Field) -> Proposal | None:
        """What is masked at a field inside this jsonb."""
        return self.inside.get(_relative(found, self.found))


@dataclass(frozen=True, slots=True)
class Struct:
    """A class of the contract's file.

    Attributes:
        path: of the objects; "" of the event
        rename: style of the JSON names, for msgspec: "", `camel` or `pascal`
    """

    name: str
    path: str
    rename: str
    members: tuple[Member, ...]

    def structs(self) -> Iterator["Struct"]:
        """Itself and those in it, in the order in which Python needs them."""
        for member in self.members:
            if member.struct:
                yield from member.struct.structs()
        yield self

    def columns(self) -> Iterator[Member]:
        """The members that have a column, in their order."""
        for member in self.members:
            yield from member.struct.columns() if member.struct else (member,)


@dataclass(frozen=True, slots=True)
class Draft:
    """A proposed contract.

    Attributes:
        event: the struct of a body
        sent_at: name of the column with the time of sending
        personal: path -> proposal, of columns and of what is inside jsonb
        envelope: bodies are SNS notifications
        subject: path of the field that says whose row it is; "" where none does
    """

    event: Struct
    sent_at: str
    personal: Mapping[str, Proposal]
    envelope: bool
    subject: str


class NoChoices(ValueError):
    """What the person wants as a closed set cannot be one; `path` is as it was given, `why` the reason."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class TooWide(ValueError):
    """The event has more fields than a table has columns."""


def draft(
    survey: Survey,
    name: str,
    personal: Mapping[str, Proposal],
    choices: Collection[str] = (),
    not_personal: Collection[str] = (),
) -> Draft:
    """Draft the contract.

    Args:
        survey: of a sample with at least one event
        name: of the contract
        personal: path -> proposal
        choices: paths of texts that the person calls closed sets
        not_personal: paths that the person calls harmless; the columns among them say so, and the personal
            data check leaves them out

    Raises:
        NoChoices: there is no such text, or it is no closed set
        TooWide: the event has more fields than a table has columns
    """
    _check_choices(survey.event, personal, choices)
    if len(survey.event.fields) >= COLUMNS_OF_A_TABLE:
        raise TooWide(f"the event has more than {COLUMNS_OF_A_TABLE - 1} fields, a column each")
    split = _split(survey.event, personal)
    decided = (frozenset(choices), frozenset(not_personal))
    subject = _subject(list(_leaves(survey.event, split)), personal)
    drafting = _Drafting(personal, *decided, split, subject)
    event = drafting.struct(survey.event, f"{name}_event", (), ())
    sent_at = names.unique("sent_at", drafting.columns, LONGEST_NAME)
    return Draft(event, sent_at, personal, survey.envelope, subject)


def _check_choices(event: Field, personal: Mapping[str, Proposal], choices: Collection[str]) -> None:
    fields = {found.path: found for found in event.walk() if found.path}
    for path in choices:
        found = fields.get(path)
        if found is None:
            raise NoChoices(path, "the sample has no such path")
        if path in personal:
            raise NoChoices(path, "it is proposed as personal: its values must not stand in a file")
        if found.kinds != {"text"} or found.texts is None or not found.texts.choices:
            often = f"each in {LEAST_OF_A_CHOICE} events or more"
            raise NoChoices(path, f"not a text of at most {MOST_CHOICES} short values, {often}")


def _split(event: Field, personal: Mapping[str, Proposal]) -> frozenset[str]:
    """Paths of the objects whose leaves get a column each."""
    levels = {found.path: level for level, found in _objects(event, personal, 1)}
    by_path = {found.path: found for found in event.walk() if found.path in levels}
    split = set(levels)
    while split and _width(event, split) > MOST_COLUMNS:
        split.remove(max(split, key=lambda path: (levels[path], _width(by_path[path], split), path)))
    return frozenset(split)


def _objects(found: Field, personal: Mapping[str, Proposal], level: int) -> Iterator[tuple[int, Field]]:
    """Objects in each other whose leaves can have columns, with their levels."""
    for part in found.fields if level <= MOST_LEVELS else ():
        if part.kinds == {"object"} and part.fields and not part.is_sparse and part.path not in personal:
            yield level, part
            yield from _objects(part, personal, level + 1)


def _width(found: Field, split: Collection[str]) -> int:
    """How many columns the leaves of an object take."""
    return sum(_width(part, split) if part.fields and part.path in split else 1 for part in found.fields)


def _leaves(found: Field, split: Collection[str]) -> Iterator[Field]:
    """The fields that get a column."""
    for part in found.fields:
        if part.path in split and part.kinds == {"object"}:
            yield from _leaves(part, split)
        else:
            yield part


def _subject(leaves: Sequence[Field], personal: Mapping[str, Proposal]) -> str:
    """Path of the field that says whose row it is; "" where none does."""
    if any(leaf.path == SUBJECT for leaf in leaves):
        return SUBJECT
    texts = [leaf.path for leaf in leaves if leaf.kinds == {"text"} and leaf.path not in personal]
    # A name may hold a point, so that two fields have one path.
    return next((path for path in SUBJECTS if texts.count(path) == 1), "")


class _Drafting:
    """Gives every field its place, and every column and class a name of its own."""

    def __init__(
        self,
        personal: Mapping[str, Proposal],
        choices: Collection[str],
        not_personal: Collection[str],
        split: Collection[str],
        subject: str,
    ) -> None:
        self.columns: set[str] = set()
        self._classes: set[str] = set()
        self._personal = personal
        self._choices = choices
        self._not_personal = not_personal
        self._split = split
        self._subject = subject

    def struct(self, found: Field, title: str, keys: tuple[str, ...], attributes: tuple[str, ...]) -> Struct:
        """The struct of an object; `keys` and `attributes` lead to it."""
        name = names.class_name(title, self._classes)
        self._classes.add(name)
        taken: dict[str, Field] = {}
        for part in found.fields:
            taken[names.attribute(part.key, taken)] = part
        members = [
            self._member(part, attribute, (*keys, part.key), (*attributes, attribute))
            for attribute, part in taken.items()
        ]
        return Struct(name, found.path, _rename(taken), tuple(members))

    def _member(
        self, found: Field, attribute: str, keys: tuple[str, ...], attributes: tuple[str, ...]
    ) -> Member:
        missing = found.missing > 0
        # A name may hold a point, so that a text has the path of an object.
        if found.path in self._split and found.kinds == {"object"}:
            struct = self.struct(found, found.key, keys, attributes)
            member = Member(found, attribute, struct.name, "", struct=struct)
        else:
            member = self._leaf(Member(found, attribute, "Any", "jsonb"), keys, attributes)
        return replace(member, is_optional=missing, is_nullable=missing or found.nulls > 0)

    def _leaf(self, bare: Member, keys: tuple[str, ...], attributes: tuple[str, ...]) -> Member:
        member = self._typed(bare)
        column = names.column("_".join(map(names.snake, keys)), self.columns)
        self.columns.add(column)
        marks = list(member.marks)
        if column != "_".join(attributes):
            marks.append(f'Name("{column}")')
        if member.found.path in self._not_personal and not member.personal and not member.inside:
            marks.append("NotPersonal()")
        if member.found.path == self._subject:
            marks += ["Subject()"] if self._subject != SUBJECT else []
            member = replace(member, note="; ".join(filter(None, (member.note, "says whose row it is"))))
        return replace(member, column=column, marks=tuple(marks))

    def _typed(self, bare: Member) -> Member:
        found = bare.found
        inside, proposal = _inside(found, self._personal), self._personal.get(found.path)
        if inside is None and proposal is None:
            proposal = HIDDEN
        if proposal:
            return replace(_with_type(bare, column_types.masked(found)), personal=proposal)
        if found.path in self._choices and found.texts:
            literal = ColumnType("Literal", "text")
            return replace(_with_type(bare, literal), choices=found.texts.choices)
        return replace(_with_type(bare, column_types.plain(found)), inside=inside or {})


def _with_type(bare: Member, kind: ColumnType) -> Member:
    said = " ".join(words(bare.found.path))[:60].strip().capitalize()
    meta = [*kind.bounds, *([f'description="{said}"'] if said else [])]
    marks = [*([f"Meta({', '.join(meta)})"] if meta else []), *kind.marks]
    return replace(bare, type=kind.python, sql_type=kind.sql, marks=tuple(marks), note=kind.note)


def _rename(taken: Mapping[str, Field]) -> str:
    """The style that leaves the fewest names to be written out."""
    styles = ("", "camel", "pascal")
    return min(
        styles,
        key=lambda style: sum(names.renamed(style, name) != found.key for name, found in taken.items()),
    )


def _relative(inner: Field, outer: Field) -> str:
    """The path from one field to another inside it: `[*].phone`, `address.city`."""
    return inner.path[len(outer.path) :].removeprefix(".")


def _inside(found: Field, personal: Mapping[str, Proposal]) -> dict[str, Proposal] | None:
    """Path inside -> proposal of what is personal in an object or list; None where a path leads to nothing.

    A path leads through objects, lists and maps alone: where a text may stand in the place of an object, the
    engine would reject it, for it cannot tell what the text hides. In other letters than ASCII it is not
    written.
    """
    inside: dict[str, Proposal] = {}
    for part in found.parts:
        here = _relative(part, found)
        if part.path in personal:
            below = {here: personal[part.path]}
        else:
            further = _inside(part, personal)
            below = (
                {here: HIDDEN}
                if further is None
                else {_joined(here, path): one for path, one in further.items()}
            )
        if below and not _leads_on(found, part):
            return None
        inside |= below
    return inside if all(map(str.isascii, inside)) else None


def _joined(path: str, further: str) -> str:
    return path + further if further.startswith("[") else f"{path}.{further}"


def _leads_on(found: Field, part: Field) -> bool:
    if part.key == "[*]":
        return found.kinds <= {"array", "object"} and found.parts == (part,)
    return found.kinds == {"object"} and "." not in part.key
