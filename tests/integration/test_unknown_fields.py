"""Fields that a contract does not declare are counted by name, in the run that met them."""

from dataclasses import replace

from tests.integration.project import Project, login, project

__all__ = ["project"]


def test_undeclared_fields_are_counted_by_name_in_their_run(project: Project) -> None:
    project.send(*(login(f"u{number}", city="Ulm") for number in range(12)), login("v", city="Ulm", zip="1"))
    summary = project.drain()
    assert (summary["loaded"], summary["unknown_fields"]) == (13, {"city": 13, "zip": 1})
    project.send(login("w"))
    assert project.drain()["unknown_fields"] == {}


def test_a_contract_may_send_them_to_the_quarantine(project: Project) -> None:
    project = replace(project, contract=replace(project.contract, unknown_fields="reject"))
    project.send(login("u", city="Ulm"), login("v"))
    assert project.drain()["quarantined_by_reason"] == {"unknown_field": 1}
    assert project.users() == ["v"]
