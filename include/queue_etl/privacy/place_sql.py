"""SQL about places of a contract's table. Their values are parameters, v0, m0 and so on: `values` makes them.

Paths are literals, not parameters, so that Postgres reads them once and not for each row.
"""

from collections.abc import Sequence

from psycopg import sql
from psycopg.types.json import Jsonb

from include.queue_etl.contract import Contract, MaskedField
from include.queue_etl.privacy.subjects import Place
from include.queue_etl.transform import json_values


def values(places: Sequence[Place]) -> dict[str, object]:
    """The parameters of statements about these places."""
    listed: dict[str, object] = {f"v{number}": place.values for number, place in enumerate(places)}
    moves = {f"m{number}": Jsonb(dict.fromkeys(place.values)) for number, place in enumerate(places)}
    return listed | moves


def columns_of(places: Sequence[Place]) -> list[str]:
    """Names of the columns, each once."""
    return list(dict.fromkeys(place.column for place in places))


def everything(contract: Contract) -> list[Place]:
    """Every personal place of the contract's table, whatever stands there."""
    return [Place(masked.column, masked.path, [], False) for masked in contract.personal]


def is_at_any(places: Sequence[Place]) -> sql.Composed:
    """A row has at one of the places one of its values."""
    conditions = [_is_at(place, sql.Placeholder(f"v{number}")) for number, place in enumerate(places)]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions))


def _is_at(place: Place, values: sql.Placeholder) -> sql.Composed:
    if not place.path:
        return sql.SQL("{} = ANY ({})").format(sql.Identifier(place.column), values)
    return sql.SQL("EXISTS (SELECT FROM {} AS found WHERE found #>> '{{}}' = ANY ({}))").format(
        _inside(place.column, place.path), values
    )


def _inside(column: str, path: str) -> sql.Composed:
    """The values at a path of a jsonb column."""
    return sql.SQL("etl.json_values({}, etl.json_paths({}))").format(
        sql.Identifier(column), sql.Literal(path)
    )


def tokens(personal: MaskedField) -> sql.Composed:
    """The tokens of a row, in a list of columns: a line each."""
    if not personal.path:
        return sql.SQL("{}").format(sql.Identifier(personal.column))
    return sql.SQL("{} #>> '{{}}'").format(_inside(personal.column, personal.path))


def without(name: str, places: Sequence[Place]) -> sql.Composed:
    """The column without the values of these places that are of it."""
    value = sql.SQL("{}").format(sql.Identifier(name))
    for number, place in enumerate(places):
        if place.column != name:
            continue
        if place.path:
            value = _changed(value, place.path, sql.Placeholder(f"m{number}"))
        else:
            has = _is_at(place, sql.Placeholder(f"v{number}"))
            value = sql.SQL("CASE WHEN {} THEN NULL ELSE {} END").format(has, value)
    return value


def cleared(name: str, places: Sequence[Place]) -> sql.Composed:
    """The column with everything at these places gone that are of it."""
    value = sql.SQL("{}").format(sql.Identifier(name))
    for place in places:
        if place.column == name:
            value = _changed(value, place.path, sql.SQL("NULL")) if place.path else sql.SQL("NULL").format()
    return value


def _changed(document: sql.Composed, path: str, moves: sql.Composable) -> sql.Composed:
    return sql.SQL("etl.json_changed({}, {}, {})").format(
        document, sql.Literal(json_values.steps_of(path)), moves
    )
