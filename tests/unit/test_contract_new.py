"""`contract new` without a queue: what it reads, prints, writes and refuses; never a value of the sample."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.queue_etl.cli import app as cli
from include.queue_etl.cli import contract
from tests.unit.onboarding_events import ORDER, bodies, order

FILES = ("include/contracts/orders.py", "tests/events/orders.jsonl", "tests/unit/test_contract_orders.py")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes the place of the project's."""
    monkeypatch.setattr(contract, "PROJECT", tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    file = tmp_path / "sample.jsonl"
    file.write_bytes(b"\n".join(bodies(*[ORDER] * 5)))
    return file


def run(*arguments: str, name: str = "orders") -> int:
    try:
        return cli.main(["contract", "new", name, "--queue", "orders-queue", *arguments])
    except SystemExit as end:
        return int(end.code or 0)


def written(project: Path) -> dict[str, str]:
    """Path of every file -> its text."""
    files = [path for path in project.rglob("*") if path.is_file()]
    return {str(path.relative_to(project)): path.read_text(encoding="utf-8") for path in files}


def test_three_files_are_written_and_the_next_commands_are_told(sample, project, capsys):
    assert run("--sample", str(sample)) == 0
    assert set(written(project)) == set(FILES)
    said = capsys.readouterr().out
    assert all(f"wrote {file}\n" in said for file in FILES)
    assert said.endswith(
        "next, when you have read include/contracts/orders.py:\n"
        "  ./dev run contract migration orders\n"
        "  ./dev run migrate\n"
        "  ./dev run check --contract orders\n"
        "without ./dev: the same behind `python -m include.queue_etl`\n"
    )


def test_the_table_has_a_line_for_every_path(sample, capsys):
    assert run("--sample", str(sample)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "path"
    by_path = {line.split()[0]: re.split(r"\s{2,}", line) for line in lines[1 : lines.index("")]}
    assert by_path["customer.email"] == [
        *("customer.email", "customer_email", "token", "0%", "0%", "19", "1"),
        "EMAIL: name: email; shape: 100% e-mail addresses",
    ]
    assert by_path["total"][-1] == "money by its name: total"
    assert by_path["items[*].gift.phone"][1:4] == ["items", "text", "0%"]
    assert len(by_path) == 29


def test_the_fields_that_are_proposed_as_personal_are_counted(sample, project, capsys):
    assert run("--sample", str(sample), "--not-personal", "customer.name") == 0
    marks = len(re.findall(r"(?<!Not)Personal\(", written(project)[FILES[0]]))
    assert f"\n{marks} fields are proposed as personal; " in capsys.readouterr().out
    assert marks == 7


def test_what_the_person_calls_harmless_says_so_in_the_contract(sample, project):
    decided = (
        "customer.name",
        "customer",
        "items",
    )  # a column, an object of columns, jsonb with tokens inside
    options = [part for path in decided for part in ("--not-personal", path)]
    assert run("--sample", str(sample), *options) == 0
    text = written(project)[FILES[0]]
    (line,) = [line for line in text.splitlines() if "NotPersonal()" in line]
    assert line.strip().startswith("name: Annotated[str,")
    assert "NotPersonal,\n" in text


def test_the_queue_and_the_table_stand_in_the_contract(sample, project):
    assert run("--sample", str(sample), "--table", "sales.orders") == 0
    text = written(project)[FILES[0]]
    assert 'queue="orders-queue"' in text
    assert 'table="sales.orders"' in text


@pytest.mark.parametrize(
    "content",
    [
        b"\n".join(bodies(ORDER, ORDER)) + b"\n\n",
        b"\r\n".join(bodies(ORDER, ORDER)),
        json.dumps([ORDER, ORDER], indent=1).encode(),
        b"\xef\xbb\xbf" + b"\n".join(bodies(ORDER, ORDER)),
    ],
)
def test_lines_and_a_list_are_read_alike(content, tmp_path, capsys):
    (tmp_path / "sample").write_bytes(content)
    assert run("--sample", str(tmp_path / "sample")) == 0
    assert "\n2 events in 2 messages\n" in capsys.readouterr().out


def test_several_files_with_a_document_each_are_one_sample(tmp_path, capsys):
    files = [tmp_path / name for name in ("one.json", "two.json")]
    for file in files:
        file.write_text(json.dumps(ORDER, indent=2), encoding="utf-8")
    assert run(*(part for file in files for part in ("--sample", str(file)))) == 0
    assert "\n2 events in 2 messages\n" in capsys.readouterr().out


def test_bodies_that_no_contract_loads_are_counted(sample, capsys):
    sample.write_bytes(sample.read_bytes() + b'\n{"broken\n[1]')
    assert run("--sample", str(sample)) == 0
    assert "no contract would load the others: bad_json 1, not_object 1\n" in capsys.readouterr().out


def test_a_sample_is_read_up_to_its_limit(sample, monkeypatch, capsys):
    monkeypatch.setattr(contract, "MOST_BODIES", 3)
    assert run("--sample", str(sample)) == 0
    assert "3 events in 3 messages\n2 further messages were not looked at\n" in capsys.readouterr().out


def test_what_is_left_out_and_what_is_unwrapped_is_told(tmp_path, capsys):
    inner = json.dumps({"id": 1, "zoe.quill@corp.test": 1})
    (tmp_path / "sample").write_bytes(bodies({"Type": "Notification", "Message": inner})[0])
    assert run("--sample", str(tmp_path / "sample")) == 0
    said = capsys.readouterr().out
    assert "SNS notifications: the contract takes the event out of them\n" in said
    assert "left out: 1 names at the top of the events" in said
    assert "zoe" not in said


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (ORDER, "no field says whose row it is: mark one with Subject(), so that erase can go by it\n"),
        (order(userId="u"), "userId says whose row it is: erase and unmask find a person's rows by it\n"),
        (order(user_id="u"), "user_id says whose row it is: erase and unmask find a person's rows by it\n"),
        (order(user_id=None), "a person's rows by it. It is null in the whole sample\n"),
    ],
)
def test_whose_row_it_is_is_told(event, told, tmp_path, capsys):
    (tmp_path / "sample").write_bytes(bodies(event)[0])
    assert run("--sample", str(tmp_path / "sample")) == 0
    assert told in capsys.readouterr().out


def test_the_table_of_another_contract_is_refused(sample, project, capsys):
    assert run("--sample", str(sample), "--table", "public.user_logins") == 1
    told = "table public.user_logins is that of the contract user_logins: give another with --table\n"
    assert capsys.readouterr().err == f"contract new: {told}"
    assert written(project) == {}


def test_an_empty_sample_is_said_to_be_empty(tmp_path, capsys):
    (tmp_path / "sample").write_bytes(b"\n")
    assert run("--sample", str(tmp_path / "sample")) == 1
    assert capsys.readouterr().err == "contract new: no JSON object among 0 messages: there is no message\n"


def test_files_that_are_there_stay_unless_forced(sample, project, capsys):
    assert run("--sample", str(sample)) == 0
    (project / FILES[0]).write_text("mine", encoding="utf-8")
    assert run("--sample", str(sample)) == 1
    assert (
        capsys.readouterr().err == f"contract new: there already: {', '.join(FILES)}; --force replaces them\n"
    )
    assert written(project)[FILES[0]] == "mine"
    assert run("--sample", str(sample), "--force") == 0
    assert "class OrdersEvent" in written(project)[FILES[0]]


@pytest.mark.parametrize("content", [b"", b"zoe.quill", b"[1, 2]", b"1", b'{"a": "zoe.quill'])
def test_a_sample_without_events_writes_nothing(content, tmp_path, project, capsys):
    (tmp_path / "sample").write_bytes(content)
    assert run("--sample", str(tmp_path / "sample")) == 1
    said = capsys.readouterr()
    assert said.err.startswith("contract new: no JSON object among ")
    assert "zoe" not in said.err + said.out
    assert written(project) == {}


def test_an_event_with_too_many_fields_is_refused_in_one_line(tmp_path, capsys):
    wide = {f"{'abcdefghij'[number % 10]}x{number // 10}": 1 for number in range(1_600)}
    (tmp_path / "sample").write_bytes(bodies(wide)[0])
    assert run("--sample", str(tmp_path / "sample")) == 1
    assert "more than 1599 fields" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["Orders", "1st", "class", "json", "a-b", "", "_x", "ordérs", "x" * 49, "../x", "__init__"]
)
def test_a_name_that_is_no_module_is_wrong_usage(name, sample, capsys):
    assert run("--sample", str(sample), name=name) == 2
    assert "is no name for a contract" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "one of the arguments --sample --peek is required"),
        (["--sample", "f", "--peek", "3"], "not allowed with argument"),
        (["--peek", "0"], "not a whole number above 0"),
        (["--sample", "f", "--table", "orders"], "give its schema and its name in lower case"),
        (["--sample", "f", "--table", "etl.orders"], "its schema is not for contracts"),
        (["--sample", "f", "--table", "Sales.Orders"], "give its schema and its name in lower case"),
    ],
)
def test_wrong_usage_is_exit_code_two(arguments, told, capsys):
    assert run(*arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--personal", "customer.mail"], "the sample has no path 'customer.mail'"),
        (["--not-personal", "mail"], "the sample has no path 'mail'"),
        (["--choices", "mail"], "--choices 'mail': the sample has no such path"),
        (["--choices", "customer.name"], "--choices 'customer.name': it is proposed as personal"),
        (["--personal", "total", "--not-personal", "total"], "both --personal and --not-personal: total"),
    ],
)
def test_a_path_that_does_not_fit_is_named_and_nothing_is_written(arguments, told, sample, project, capsys):
    assert run("--sample", str(sample), *arguments) == 2
    assert told in capsys.readouterr().err
    assert written(project) == {}


def test_a_sample_that_is_not_there_is_named(tmp_path, capsys):
    assert run("--sample", str(tmp_path / "none")) == 1
    assert capsys.readouterr().err == f"contract new: {tmp_path}/none: No such file or directory\n"


def test_the_help_has_an_example(capsys):
    assert run("--help") == 0
    assert "example: python -m include.queue_etl contract new orders" in capsys.readouterr().out


# No value of the sample ----------------------------------------------------------------------------


def scalars(value: Any) -> Iterator[str]:
    """Every text and number, as JSON has it and as Python prints it, from four characters on."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from scalars(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scalars(inner)
    elif value is not None and not isinstance(value, bool):
        for text in {str(value), json.dumps(value).strip('"'), ascii(value).strip("'")}:
            if len(text) >= 4:
                yield text


def leaks(project: Path, output: str, events: list[Any], allowed: tuple[str, ...] = ()) -> list[str]:
    """Values of the events that stand in a file or in the output."""
    everything = output + "".join(written(project).values())
    return [text for event in events for text in scalars(event) if text in everything and text not in allowed]


def test_no_value_of_an_order_is_written_shown_or_logged(sample, project, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    assert run("-v", "--sample", str(sample), "--force") == 0
    said = capsys.readouterr()
    assert leaks(project, said.out + said.err + caplog.text, [ORDER]) == []
    assert "ord-77123" not in "".join(written(project).values())  # the name in a map


def test_a_value_that_would_be_written_is_found(sample, project, capsys):
    assert run("--sample", str(sample)) == 0
    (project / "leak").write_text("Zoe Quill", encoding="utf-8")
    assert leaks(project, capsys.readouterr().out, [ORDER]) == ["Zoe Quill"]


def test_choices_alone_are_written_and_not_shown(tmp_path, project, capsys):
    events = [order(state=state) for state in ("paid-xq", "sent-xq") for _ in range(3)]
    (tmp_path / "sample").write_bytes(b"\n".join(bodies(*events)))
    assert run("--sample", str(tmp_path / "sample"), "--choices", "state") == 0
    said = capsys.readouterr().out
    assert leaks(project, said, events, allowed=("paid-xq", "sent-xq")) == []
    assert 'Literal["paid-xq", "sent-xq"]' in written(project)[FILES[0]]
    assert "xq" not in said


def test_an_error_shows_no_value(sample, project, capsys):
    assert run("--sample", str(sample), "--personal", "nowhere") == 2
    said = capsys.readouterr()
    assert leaks(project, said.out + said.err, [ORDER]) == []


CANARIES = (
    st.integers(10**8, 10**12)
    | st.integers(10**8, 10**10).map(lambda number: number / 1000)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20).map("cnry{}7319".format)
    | st.sampled_from(
        [
            "cnry7319@corp.test",
            "+49307319731",
            "203.0.113.73",
            "2026-07-31T07:31:09Z",
            "2019-07-31",
            "19:73:19",
        ]
    )
    | st.none()
    | st.booleans()
)
KEYS = st.sampled_from(["id", "email", "Name", "items", "class", "user id", "a.b"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6
).map("cnry7319{}".format)
EVENTS = st.lists(
    st.dictionaries(
        KEYS,
        st.recursive(
            CANARIES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5)
        ),
        max_size=6,
    ),
    min_size=1,
    max_size=6,
)


@given(EVENTS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_of_any_events_is_written_or_shown(tmp_path, project, capsys, events):
    (tmp_path / "sample").write_bytes(b"\n".join(bodies(*events)))
    assert run("--sample", str(tmp_path / "sample"), "--force") == 0
    said = capsys.readouterr()
    assert leaks(project, said.out + said.err, events) == []
    assert "7319" not in said.out + said.err + "".join(written(project).values())
