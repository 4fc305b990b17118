"""Settings: precedence, what is refused and how, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nvmefence import settings as config
from nvmefence.errors import ConfigError, NvmefenceError
from nvmefence.fencing.quiesce import Quiesce
from nvmefence.settings import Settings


@pytest.fixture(autouse=True)
def no_machine_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "SETTINGS_FILE", str(tmp_path / "absent.toml"))


def load(
    options: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Settings, list[str]]:
    said: list[str] = []
    return config.load(options or {}, environment or {}, said.append, spool=True), said


def settings_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "nvmefence.toml"
    path.write_text(text)
    return str(path)


def test_defaults_hold_without_anything() -> None:
    settings, said = load()
    assert settings == Settings()
    assert (settings.deadline, settings.quiesce.name, settings.backend) == (30.0, "auto", "auto")
    assert said == []


OTHERS: dict[str, tuple[str, str, str]] = {
    "hosts": ("/f", "/c", "/e"),
    "deadline": ("21", "22", "23"),
    "backend": ("io_uring", "ioctl", "auto"),
    "quiesce": ("wait:1", "wait:2", "wait:3"),
    "escalate": ("true", "no", "yes"),
    "simulate": ("/f", "/c", "/e"),
    "request_dir": ("/f", "/c", "/e"),
    "response_dir": ("/f", "/c", "/e"),
    "log_dir": ("/f", "/c", "/e"),
    "audit": ("/f", "/c", "/e"),
    "max_request_age_s": ("21", "22", "23"),
    "agents_may_restore": ("true", "no", "yes"),
    "records": ("/f", "/c", "/e"),
    "after": ("dlm", "dlm,stonith", "hooks"),
    "after_timeout_s": ("21", "22", "23"),
    "hooks_dir": ("/f", "/c", "/e"),
    "corosync_conf": ("/f", "/c", "/e"),
    "mass_fence_hosts": ("21", "22", "0"),
    "mass_fence_s": ("21", "22", "23"),
    "mass_fence_action": ("alarm", "hold", "alarm"),
    "run_dir": ("/f", "/c", "/e"),
    "vigil_s": ("21", "0", "23"),
    "enforce": ("true", "no", "yes"),
    "metrics": ("/f", "/c", "/e"),
}


def test_every_setting_is_in_the_table_of_precedence() -> None:
    assert set(OTHERS) | set(config.FILE_KEYS) == set(config.KEYS)


@pytest.mark.parametrize("key", OTHERS)
def test_environment_goes_before_command_line_before_file(key: str, tmp_path: Path) -> None:
    in_file, on_line, in_environment = OTHERS[key]
    path = settings_file(tmp_path, f'{key} = "{in_file}"\n')
    variables = {f"NVMEFENCE_{key.upper()}": in_environment}

    def value(options: dict[str, Any], environment: dict[str, str]) -> Any:
        return getattr(load(options, environment)[0], key)

    plain = {name: getattr(load({key: text})[0], key) for name, text in zip("fce", OTHERS[key], strict=True)}
    assert plain["c"] not in (plain["f"], plain["e"])
    assert value({"config": path}, {}) == plain["f"]
    assert value({"config": path, key: on_line}, {}) == plain["c"]
    assert value({"config": path, key: on_line}, variables) == plain["e"]
    assert value({"config": path}, variables) == plain["e"]


def test_overridden_option_is_said_and_an_equal_one_is_not() -> None:
    assert load({"deadline": "20"}, {"NVMEFENCE_DEADLINE": "25"})[1] == [
        "NVMEFENCE_DEADLINE=25 in the environment takes precedence over --deadline 20"
    ]
    assert load({"deadline": "20"}, {"NVMEFENCE_DEADLINE": "20.0"})[1] == []
    assert load({}, {"NVMEFENCE_DEADLINE": "25"})[1] == []


def test_settings_file_of_the_environment_goes_before_the_one_of_the_command_line(tmp_path: Path) -> None:
    named = settings_file(tmp_path, "deadline = 25\n")
    other = tmp_path / "other.toml"
    other.write_text("deadline = 35\n")
    settings, said = load({"config": str(other)}, {"NVMEFENCE_CONFIG": named})
    assert settings.deadline == 25
    assert said == [f"NVMEFENCE_CONFIG={named} in the environment takes precedence over --config {other}"]


def test_default_settings_file_is_read_when_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "SETTINGS_FILE", settings_file(tmp_path, "deadline = 44\n"))
    assert load()[0].deadline == 44


def test_named_settings_file_must_be_there(tmp_path: Path) -> None:
    for options, environment in (
        ({"config": str(tmp_path / "x.toml")}, {}),
        ({}, {"NVMEFENCE_CONFIG": str(tmp_path / "x.toml")}),
    ):
        with pytest.raises(ConfigError, match="there is no settings file"):
            load(options, environment)


BAD: list[tuple[str, Any, str]] = [
    ("deadline", "soon", "must be a number of seconds, is 'soon'"),
    ("deadline", "", "must be a number of seconds"),
    ("deadline", "0", "must be more than 0 and at most 3600"),
    ("deadline", "-1", "must be more than 0"),
    ("deadline", "3601", "at most 3600"),
    ("deadline", "nan", "must be more than 0"),
    ("deadline", "inf", "must be more than 0"),
    ("deadline", True, "must be a number of seconds, is True"),
    ("deadline", [], "must be a number of seconds, is []"),
    ("backend", "uring", "must be one of auto, io_uring, ioctl"),
    ("backend", "IOCTL", "must be one of"),
    ("backend", "", "must be one of"),
    ("backend", [], "must be one of"),
    ("hosts", 3, "must be a path, is 3"),
    ("hosts", "a\0b", "must be a path"),
    ("simulate", False, "must be a path"),
    ("after", "dlm,fire", "must be some of dlm, stonith, hooks, or none, has 'fire'"),
    ("after", ["dlm", 3], "must be some of dlm, stonith, hooks, or none"),
    ("after", "none,dlm", "has 'none'"),
    ("after", True, "must be some of dlm, stonith, hooks, or none, is True"),
    ("mass_fence_hosts", "4.5", "must be a number of hosts, 0 for any, is '4.5'"),
    ("mass_fence_hosts", "-1", "must be a number of hosts"),
    ("mass_fence_hosts", 100_001, "must be a number of hosts"),
    ("mass_fence_hosts", True, "must be a number of hosts"),
    ("mass_fence_hosts", "9" * 5000, "must be a number of hosts"),
    ("mass_fence_s", "0", "must be more than 0"),
    ("mass_fence_action", "panic", "must be one of alarm, hold, is 'panic'"),
    ("mass_fence_action", [], "must be one of alarm, hold"),
    ("run_dir", "run", "must be an absolute path"),
    ("vigil_s", "-1", "must be a number of seconds, at most 3600, or 0, is '-1'"),
    ("vigil_s", "nan", "must be a number of seconds, at most 3600, or 0, is 'nan'"),
    ("vigil_s", 3601, "must be a number of seconds, at most 3600, or 0, is 3601"),
    ("vigil_s", False, "must be a number of seconds, at most 3600, or 0, is False"),
    ("vigil_s", [], "must be a number of seconds, at most 3600, or 0, is []"),
    ("enforce", "perhaps", "must be true or false, is 'perhaps'"),
    ("metrics", "nvmefence.prom", "must be an absolute path"),
    ("quiesce", "wait", '"wait:SECONDS" or "none", is \'wait\''),
    ("escalate", "maybe", "must be true or false, is 'maybe'"),
    ("escalate", 2, "must be true or false, is 2"),
    ("quiesce", "wait:", "wait:SECONDS"),
    ("quiesce", "wait:-1", "wait:SECONDS"),
    ("quiesce", "wait:1s", "wait:SECONDS"),
    ("quiesce", "wait:1e3", "wait:SECONDS"),
    ("quiesce", "wait:nan", "wait:SECONDS"),
    ("quiesce", "wait:1\n", "wait:SECONDS"),
    ("quiesce", "None", "wait:SECONDS"),
    ("quiesce", 10, "must be text, is 10"),
]


@pytest.mark.parametrize(("key", "value", "reason"), BAD)
def test_bad_value_is_refused_with_its_source(
    key: str, value: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(options: dict[str, Any], environment: dict[str, str]) -> str:
        with pytest.raises(ConfigError) as refusal:
            load(options, environment)
        assert reason in refusal.value.what
        return refusal.value.what

    assert refused({key: value}, {}).startswith(f"{config.option(key)}: ")
    if isinstance(value, str):
        assert refused({}, {f"NVMEFENCE_{key.upper()}": value}).startswith(f"NVMEFENCE_{key.upper()}: ")
    monkeypatch.setattr(config, "read_toml", lambda *_: {key: value})
    assert refused({"config": "/etc/n.toml"}, {}).startswith(f"/etc/n.toml: {key}: ")


def test_unknown_setting_is_refused_with_the_nearest_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load({"config": settings_file(tmp_path, "dead_line = 3\n")})
    assert "nvmefence.toml: dead_line: unknown setting (did you mean 'deadline'?)" in refusal.value.what
    assert "known are hosts, deadline" in refusal.value.advice


@pytest.mark.parametrize(("text", "place"), [("deadline = \n", "line 1"), ("x = 1\n[a\n", "line 2")])
def test_settings_file_that_is_no_toml_is_refused_with_the_line(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        load({"config": settings_file(tmp_path, text)})


@pytest.mark.parametrize(("quiesce", "deadline"), [("wait:10", "10"), ("wait:10", "5"), ("wait:99999999999", "30")])
def test_quiesce_that_leaves_no_time_is_refused(quiesce: str, deadline: str) -> None:
    settings, _ = load({"quiesce": quiesce, "deadline": deadline})
    with pytest.raises(ConfigError, match="leaves nothing of the deadline"):
        config.check_deadline(settings)


@pytest.mark.parametrize(
    ("text", "seconds", "name"),
    [("none", 0.0, "none"), ("wait:0", 0.0, "none"), ("wait:2.5", 2.5, "wait:2.5"), ("wait:07", 7.0, "wait:7")],
)
def test_quiesce_is_what_was_written(text: str, seconds: float, name: str) -> None:
    settings = load({"quiesce": text})[0]
    assert settings.quiesce == Quiesce(seconds)
    assert settings.quiesce.name == name


def test_error_carries_what_and_advice() -> None:
    error = NvmefenceError("this is wrong", "do that")
    assert (str(error), error.what, error.advice) == ("this is wrong; do that", "this is wrong", "do that")


@pytest.mark.parametrize(
    ("variable", "key"),
    [("NNF_FENCE_REQUEST_DIR", "request_dir"), ("NNF_FENCE_RESPONSE_DIR", "response_dir"), ("LOG_DIR", "log_dir")],
)
def test_directories_follow_the_variables_that_agents_read(variable: str, key: str) -> None:
    settings, said = load({key: "/c"}, {variable: "/e"})
    assert getattr(settings, key) == "/e"
    option = "--" + key.replace("_", "-")
    assert said == [f"{variable}=/e in the environment takes precedence over {option} /c"]
    own = f"NVMEFENCE_{key.upper()}"
    assert getattr(load({}, {variable: "/e", own: "/e"})[0], key) == "/e"
    with pytest.raises(ConfigError, match=f"{own} and {variable} are both set and differ"):
        load({}, {variable: "/e", own: "/f"})


def test_a_relative_directory_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="--request-dir: must be an absolute path, is 'here'"):
        load({"request_dir": "here"})


def test_spool_variables_do_not_concern_an_emergency_command() -> None:
    assert config.load({}, {"LOG_DIR": "not absolute"}) == Settings()


def test_a_misspelt_variable_is_named() -> None:
    said = load({}, {"NVMEFENCE_DEADLIN": "3", "NVMEFENCE_SOMETHING_ELSE": "1"})[1]
    assert said == [
        "NVMEFENCE_DEADLIN in the environment is not a setting and is ignored (did you mean NVMEFENCE_DEADLINE?)"
    ]


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("none", ()),
        ("", ()),
        ([], ()),
        ("hooks, dlm", ("dlm", "hooks")),
        (["stonith", "stonith"], ("stonith",)),
        ("stonith hooks dlm", ("dlm", "stonith", "hooks")),
    ],
)
def test_what_is_done_after_a_fence_is_a_set_in_an_order_of_its_own(value: Any, meant: tuple[str, ...]) -> None:
    assert load({"after": value})[0].after == meant
