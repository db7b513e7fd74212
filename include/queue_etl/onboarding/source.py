"""A draft -> the Python source of its contract, as `ruff format` leaves it. Pure."""

import ast
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from include.queue_etl.onboarding import names
from include.queue_etl.onboarding.draft import Draft, Member, Struct
from include.queue_etl.onboarding.personal import Proposal

WIDTH = 110
INDENT = "    "
_PIECE = 50  # characters of a long path in a line
_PLAIN = re.compile(r"[\w.@$:-]{1,80}", re.ASCII)  # what may stand in a docstring as it is
# What the file may use: module -> names, in groups and in the order of imports.
_MARKS = (
    "Contract",
    "Jsonb",
    "Name",
    "Normalization",
    "NotPersonal",
    "Numeric",
    "Personal",
    "SentAt",
    "Subject",
    "Zone",
)
_MODULES: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "datetime": ("date", "datetime"),
        "decimal": ("Decimal",),
        "typing": ("Annotated", "Any", "Literal"),
        "uuid": ("UUID",),
    },
    {"msgspec": ("Meta", "Struct", "field")},
    {"include.queue_etl.contract": _MARKS},
)


@dataclass(frozen=True, slots=True)
class _Group:
    """Brackets with items: on one line where they fit, else an item a line, each with a comma."""

    opening: str
    items: tuple["str | _Group", ...]
    closing: str
    comma: str = ","  # behind the last item

    def flat(self) -> str:
        return f"{self.opening}{', '.join(map(_flat, self.items))}{self.closing}"

    def spread(self, indent: str) -> str:
        inner = indent + INDENT
        room = WIDTH - len(inner) - 1  # for the comma
        lines = [inner + _fitted(item, inner, room) for item in self.items]
        return f"{self.opening}\n" + ",\n".join(lines) + f"{self.comma}\n{indent}{self.closing}"


_Part = str | _Group


def contract_source(draft: Draft, name: str, queue: str, table: str) -> str:
    """The text of `include/contracts/NAME.py`."""
    parts = [
        *(_class(struct, _said(struct, draft, queue)) for struct in draft.event.structs()),
        _contract(draft, name, queue, table),
    ]
    body = "\n\n".join(parts)
    opening = f'"""Events -> table `{table}`, as a sample of messages had them."""'
    return f"{opening}\n\n{_imports(body)}\n\n{body}"


def quoted(text: str) -> str:
    """A text as Python source: ASCII, in the quotes that need the fewest backslashes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    inner = "".join(f"\\{one}" if one in (quote, "\\") else _escaped(one) for one in text)
    return f"{quote}{inner}{quote}"


def _escaped(character: str) -> str:
    return character if character in "'\"" else ascii(character)[1:-1]


def _imports(body: str) -> str:
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    groups = [[_import(module, names, used) for module, names in group.items()] for group in _MODULES]
    return "\n".join(filter(None, map("".join, groups)))


def _import(module: str, names: Sequence[str], used: Collection[str]) -> str:
    found = tuple(name for name in names if name in used)
    line = f"from {module} import {', '.join(found)}"
    if len(line) > WIDTH:
        line = _Group(f"from {module} import (", found, ")").spread("")
    return f"{line}\n" if found else ""


def _class(struct: Struct, said: str) -> str:
    rename = f', rename="{struct.rename}"' if struct.rename else ""
    head = f"class {struct.name}(Struct, frozen=True, gc=False, kw_only=True{rename}):\n"
    members = "".join(_member(member, struct) for member in struct.members)
    return f'{head}{INDENT}"""{said}"""\n' + (f"\n{members}" if members else "")


def _said(struct: Struct, draft: Draft, queue: str) -> str:
    """The docstring of a class; that of the event begins the table's comment."""
    if struct is draft.event:
        return f"A message of the queue `{queue}`." if _PLAIN.fullmatch(queue) else "A message of the queue."
    return f"What stands at `{struct.path}`." if _PLAIN.fullmatch(struct.path) else "An object in the event."


def _member(member: Member, struct: Struct) -> str:
    (annotation, says_none), default = _annotation(member), _default(member, struct)
    head, null = f"{INDENT}{member.attribute}: ", " | None" if says_none else ""
    line = head + _flat(annotation) + null + (f" = {_flat(default)}" if default else "")
    if len(line) > WIDTH:
        line = _spread_annotation(head, annotation, null)
        if default:
            last = line.rpartition("\n")[2]
            line += f" = {_fitted(default, INDENT, WIDTH - len(last) - 3)}"
    return f"{line}\n"


def _spread_annotation(head: str, annotation: _Part, null: str) -> str:
    if isinstance(annotation, str):
        return head + annotation + null
    if not null:
        return head + annotation.spread(INDENT)
    inner = INDENT * 2
    return f"{head}(\n{inner}{annotation.spread(inner)}\n{inner}| None\n{INDENT})"


def _annotation(member: Member) -> tuple[_Part, bool]:
    """The annotation, and whether `| None` is still to follow it.

    The bounds of msgspec and a Zone belong to the type itself; Jsonb cannot stand within a union.
    """
    says_none = member.is_nullable and member.type != "Any"
    base: _Part = (
        _Group("Literal[", tuple(map(quoted, member.choices)), "]") if member.choices else member.type
    )
    marks: list[_Part] = list(member.marks)
    if member.personal:
        marks.append(_personal("", member.personal))
    if member.inside:
        entries = tuple(_entry(path, one) for path, one in member.inside.items())
        marks.append(_Group("Jsonb(", (_Group("personal={", entries, "}"),), ")", comma=""))
        base = f"{member.type} | None" if says_none else base
    annotation = _Group("Annotated[", (base, *marks), "]") if marks else base
    return annotation, says_none and not member.inside


def _personal(before: str, proposal: Proposal) -> _Group:
    is_text = proposal.normalization == "TEXT"
    arguments = () if is_text else (f"Normalization.{proposal.normalization}",)
    return _Group(f"{before}Personal(", arguments, ")", comma="")


def _entry(path: str, proposal: Proposal) -> _Group:
    """An entry of Jsonb's `personal`; a long path in several texts, which Python joins."""
    entry = _personal(f"{quoted(path)}: ", proposal)
    line = entry.opening if entry.items else f"{entry.flat()},"
    if len(INDENT * 4) + len(line) <= WIDTH:
        return entry
    pieces = [quoted(path[start : start + _PIECE]) for start in range(0, len(path), _PIECE)]
    return _personal(f"\n{INDENT * 4}".join(pieces) + ": ", proposal)


def _default(member: Member, struct: Struct) -> _Part | None:
    key = member.found.key
    is_renamed = names.renamed(struct.rename, member.attribute) != key
    if not is_renamed:
        return "None" if member.is_optional else None
    missing = ("default=None",) if member.is_optional else ()
    return _Group("field(", (f"name={quoted(key)}", *missing), ")")


def _contract(draft: Draft, name: str, queue: str, table: str) -> str:
    lines = [
        f"name={quoted(name)}",
        f"queue={quoted(queue)}",
        f"table={quoted(table)}",
        f"event={draft.event.name}",
        f'message=(SentAt("{draft.sent_at}"),)',
        *(["sns_envelope=True"] if draft.envelope else []),
    ]
    return f"CONTRACT = {_Group('Contract(', tuple(lines), ')').spread('')}\n"


def _flat(part: _Part) -> str:
    return part if isinstance(part, str) else part.flat()


def _fitted(part: _Part, indent: str, room: int) -> str:
    """On one line where there is room for it."""
    if isinstance(part, str):
        return part
    has_breaks = any("\n" in _flat(item) for item in part.items)
    fits = len(part.flat().rpartition("\n")[2].lstrip()) <= room
    # A name in other letters than ASCII may be too long for any line; ruff lets it stand alone in one.
    return part.flat() if not part.items or (fits and not has_breaks) else part.spread(indent)
