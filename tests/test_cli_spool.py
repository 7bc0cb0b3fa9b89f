"""``otel-logging spool``: what waits on this machine, exported, removed."""

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from otel_logging import _diagnostics, _otlp, cli, get_logger, setup_observability, traced
from otel_logging.spool import destinations, queue, reading
from otel_logging.spool.destinations import DROPPED_BOUND
from otel_logging.spool.segment import frame, header
from tests.commands import Runner
from tests.conftest import NOWHERE
from tests.spools import append, make, numbers, on_disk, run, trace_id
from tests.stored import NOON, SCOPE, TRACE, Planted, line, store

SHOP, LOGS, OTHER = "shop-0123456789ab", "shop-0123456789ab.logs", "other-0123456789ab"


def spool(base: Path, *options: str, status: int = 0, typed: str | None = None) -> str:
    done = Runner().invoke(cli.main, ["spool", "--spool-dir", str(base), *options], input=typed)
    assert done.exit_code == status, done.output
    return str(done.output)


def listed(base: Path, *options: str) -> list[dict[str, Any]]:
    return list(json.loads(spool(base, "--json", *options)))


def die(base: Path, name: str, *spans: int) -> None:
    """Leave what a killed process leaves; it had said where it leads to."""
    script = """
import os, sys; from pathlib import Path; from tests.spools import *
from otel_logging.spool import destinations
base, name, *spans = sys.argv[1:]
append(make(Path(base), name), *map(int, spans))
destinations.describe(Path(base, name), "http://collector", 24)
os._exit(0)
"""
    run(script, base, name, *spans)


def age(base: Path, name: str, hours: float) -> None:
    """Let everything of a destination be so old."""
    then = time.time() - hours * 3600
    for path in [*(base / name).rglob("*"), base / name]:
        os.utime(path, (then, then))


# ---------------------------------------------------------------- what is there


def test_what_waits_is_listed(tmp_path: Path) -> None:
    """For whom and for which collector, how much, since when; without user and query."""
    observability = setup_observability(
        "shop",
        environment="production",
        endpoint="http://me:secret@127.0.0.1:1/?key=secret",
        spool_dir=tmp_path,
    )
    with traced("message"):
        get_logger().info("hello")
    (one,) = listed(tmp_path)
    assert (one["service"], one["signal"], one["processes"]) == ("shop", "traces", 1)
    assert (one["to"], one["hours"]) == ("http://127.0.0.1:1/v1/traces?…", 24)
    assert one["waiting"]["segments"] == 1
    assert one["waiting"]["bytes"] > 100
    assert 0 <= one["waiting"]["oldest_s"] < 60
    assert one["sent"] == {"segments": 0, "bytes": 0, "oldest_s": None}
    shown = spool(tmp_path)
    assert "shop · spans · http://127.0.0.1:1/v1/traces?… · 1 process" in shown
    assert "  wait  1 segment, 4." in shown
    assert "secret" not in shown
    observability.shutdown()


def test_each_destination_is_listed(tmp_path: Path) -> None:
    """Of spans and of log records, with and without a process, of what was sent as well."""
    die(tmp_path, OTHER, 1)
    age(tmp_path, OTHER, 49)
    living = make(tmp_path, LOGS)
    append(living, 1, 2, size=150_000)
    living.seal()
    for segment in living.waiting():
        living.delivered(segment)
    found = listed(tmp_path)
    assert [(one["service"], one["signal"], one["processes"]) for one in found] == [
        ("other", "traces", 0),
        ("shop", "logs", 1),
    ]
    assert [(one["schema"], one["to"]) for one in found] == [(2, "http://collector"), (2, None)]
    shown = spool(tmp_path)
    assert "other · spans · http://collector · no process\n  wait  1 segment, 4.1 kB" in shown
    assert "the oldest 2 d old" in shown
    assert "shop · log records · 1 process\n  sent  1 segment, 0.3 MB" in shown
    assert [one["service"] for one in listed(tmp_path, "--service", "shop")] == ["shop"]
    living.close()


def test_what_a_process_adopted_is_no_other_process(tmp_path: Path) -> None:
    """It holds the directory of a dead one, whose spans it still has to send."""
    die(tmp_path, SHOP, 1)
    assert [one["processes"] for one in listed(tmp_path)] == [0]
    living = make(tmp_path, SHOP)
    append(living, 2)
    living.adopt()
    (one,) = listed(tmp_path)
    assert (one["processes"], one["waiting"]["segments"]) == (1, 2)
    assert "· 1 process" in spool(tmp_path)
    another = make(tmp_path, SHOP)
    append(another, 3)
    assert [one["processes"] for one in listed(tmp_path)] == [2]
    another.close()
    living.close()


def test_nothing_is_a_sentence(tmp_path: Path) -> None:
    """With where it was looked for; other programs' directories are none of ours."""
    (tmp_path / SHOP).mkdir()
    (tmp_path / "photos" / "sent").mkdir(parents=True)
    (tmp_path / OTHER).write_text("a file")
    assert spool(tmp_path) == f"Nothing is in {tmp_path}.\n"
    assert listed(tmp_path) == []


@pytest.mark.parametrize(
    "about", ["", "[]", "[1]", "{", '{"to": 1, "hours": "x"}', '{"hours": 1e999}']
)
def test_a_description_of_another_writer_is_no_trouble(tmp_path: Path, about: str) -> None:
    """It is left out."""
    die(tmp_path, SHOP, 1)
    (tmp_path / SHOP / "destination").write_text(about)
    (one,) = listed(tmp_path)
    assert (one["to"], one["hours"]) == (None, None)


def test_a_wrong_setting_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --spool-dir, the directory is where the settings say."""
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", "~nobody-of-that-name/x")
    done = Runner().invoke(cli.main, ["spool"])
    assert done.exit_code == 1
    assert "OTEL_LOGGING_SPOOL_DIR" in done.output


@pytest.mark.parametrize("option", ["--logs", "--yes"])
def test_an_option_without_its_other_is_refused(tmp_path: Path, option: str) -> None:
    """It would do nothing."""
    assert "--logs goes with --export" in spool(tmp_path, option, status=2)


# ---------------------------------------------------------------- export


def exported(base: Path, file: Path, *options: str) -> list[Any]:
    spool(base, "--export", str(file), *options)
    return [json.loads(line) for line in file.read_text().splitlines()]


def segment_of(base: Path, name: str, resource: bytes, *spans: bytes) -> None:
    """Write a segment that waits, as another program might."""
    place = base / name / "1-1"
    place.mkdir(parents=True, mode=0o700)
    (base / name / "sent").mkdir(mode=0o700)
    frames = b"".join(frame(trace_id(1), one) for one in spans)
    (place / "000001.segment").write_bytes(header(resource, SCOPE) + frames)


def test_spans_are_exported_as_otlp_in_json(tmp_path: Path) -> None:
    """Those that wait and those that were sent, each request on a line; ids are hex, enums and
    flags numbers, and large integers texts, as the specification wants.
    """
    base, file = tmp_path / "spool", tmp_path / "spans.json"
    living = make(base, SHOP)
    living.resource = _otlp.resource({"service.name": "shop"})
    span = Planted(
        1,
        2,
        "message",
        0,
        5,
        {"user_id": "u", "n": 1 << 60, "ok": True, "list": ["a"], "map": {"k": 1.5}},
        [line(1, "hello")],
        [(TRACE, 5)],
        status=2,
        message="failed",
    )
    scope = _otlp.scope("shop", "1")
    living.append(scope, trace_id(1), span.encoded(NOON))
    living.seal()
    for segment in living.waiting():
        living.delivered(segment)
    living.append(scope, trace_id(1), Planted(2, 0, "other", 0, 1).encoded(NOON))
    first, second = sorted(exported(base, file), key=lambda one: len(str(one)), reverse=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ((resource,),) = (first["resourceSpans"],)
    assert resource["resource"]["attributes"] == [
        {"key": "service.name", "value": {"stringValue": "shop"}}
    ]
    assert resource["scopeSpans"][0]["scope"] == {"name": "shop", "version": "1"}
    (made,) = resource["scopeSpans"][0]["spans"]
    assert (made["traceId"], made["spanId"]) == (TRACE, "0000000000000001")
    assert made["parentSpanId"] == "0000000000000002"
    assert (made["kind"], made["flags"]) == (1, 257)
    assert made["status"] == {"message": "failed", "code": 2}
    assert made["startTimeUnixNano"] == str(NOON)
    assert made["links"][0]["traceId"] == TRACE
    assert made["attributes"] == [
        {"key": "user_id", "value": {"stringValue": "u"}},
        {"key": "n", "value": {"intValue": str(1 << 60)}},
        {"key": "ok", "value": {"boolValue": True}},
        {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
        {
            "key": "map",
            "value": {"kvlistValue": {"values": [{"key": "k", "value": {"doubleValue": 1.5}}]}},
        },
    ]
    assert second["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "other"
    assert exported(base, file, "--service", "billing") == []
    living.close()


def test_an_export_is_written_to_standard_output_on_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As ``-``: no file of that name is made, and what is said of it is no part of it."""
    base = store(tmp_path / "spool", Planted(1, 0, "stage", 0, 1))
    whole = exported(base, tmp_path / "spans.json")
    assert spool(base, "--export", "-") == "written: -, 1 request\n"
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == whole


def test_log_records_are_exported_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in a file of their own: a page for traces takes no other lines."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    base, file = tmp_path / "spool", tmp_path / "lines.json"
    observability = setup_observability(
        "shop", environment="production", endpoint=NOWHERE, spool_dir=base
    )
    with traced("message"):
        get_logger().info("hello")
    (one,) = exported(base, file, "--logs")
    (record,) = one["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert record["body"] == {"stringValue": "hello"}
    assert (len(record["traceId"]), len(record["spanId"])) == (32, 16)
    assert record["severityNumber"] == 9
    assert "resourceSpans" in exported(base, file)[0]
    observability.shutdown()


def test_what_others_wrote_is_exported_without_secrets_and_damage(tmp_path: Path) -> None:
    """By name and by looks; what is not OTLP is left out and reported."""
    base, file = tmp_path / "spool", tmp_path / "spans.json"
    secrets = ["GET /?password=hunter2-hunter2", "at AKIA" + "IOSFODNN7EXAMPLE", "swordfish"]
    places = ["n" * len(secrets[0]), "m" * len(secrets[1]), "v" * len(secrets[2])]
    values = {"key": places[2]}  # another writer takes nothing out
    span = Planted(1, 0, places[0], 0, 1, values, status=2, message=places[1])
    encoded = span.encoded(NOON).replace(b"key", b"pwd")
    for place, secret in zip(places, secrets, strict=True):
        encoded = encoded.replace(place.encode(), secret.encode())
    segment_of(base, SHOP, _otlp.resource({"service.name": "shop"}), encoded, b"no span", b"")
    segment_of(base, OTHER, b"no resource", encoded)
    (one,) = exported(base, file)
    assert len(one["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 1
    leaked = ("hunter2", "IOSFODNN7", "swordfish")
    assert all(each.encode() in encoded for each in leaked)
    assert not [each for each in leaked if each in file.read_text()]
    assert "at least 2 spans lost: 2 spool segments are damaged" in _diagnostics.counts


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    """With its name."""
    die(tmp_path / "spool", SHOP, 1)
    said = spool(tmp_path / "spool", "--export", str(tmp_path / "no" / "file"), status=1)
    assert "no/file cannot be written" in said


# ---------------------------------------------------------------- removal


def test_purge_removes_what_is_not_being_written(tmp_path: Path) -> None:
    """Once somebody said yes; the process that lives goes on, what the dead one left goes whole."""
    die(tmp_path, OTHER, 1, 2)
    (tmp_path / OTHER / "destination-1-1.open").touch()  # of one that was killed as it began
    (own,) = (tmp_path / OTHER).glob("*-*/lock")
    own.with_name("open-stages").touch()  # what it had open as it was killed
    (tmp_path / OTHER / "sent" / "1-1-1-1.open").touch()  # of one that was killed as it began
    living = make(tmp_path, SHOP)
    append(living, 3)
    living.seal()
    append(living, 4)
    spool(tmp_path, "--purge", typed="n\n", status=1)
    assert on_disk(tmp_path) == [1, 2, 3, 4]
    assert "Remove all? Segments not delivered: 2." in spool(
        tmp_path, "--purge", "--service", "shop", typed="y\n"
    )
    assert on_disk(tmp_path) == [1, 2, 4]
    spool(tmp_path, "--purge", "--yes")
    assert on_disk(tmp_path) == [4]
    assert not (tmp_path / OTHER).exists()
    append(living, 5)
    living.seal()
    assert numbers(living.waiting()) == [4, 5]
    living.close()
    assert spool(tmp_path / "none", "--purge") == f"Nothing is in {tmp_path / 'none'}.\n"


def test_purge_removes_no_more_than_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a service leaves while somebody reads the question is in no export."""
    living = make(tmp_path, SHOP)
    append(living, 1)
    living.seal()

    def answer(*_: object, **__: object) -> None:
        append(living, 2)
        living.seal()

    monkeypatch.setattr("click.confirm", answer)
    spool(tmp_path, "--purge")
    assert on_disk(tmp_path) == [2]
    living.close()


def test_what_no_process_uses_any_more_goes_by_age(tmp_path: Path) -> None:
    """By whichever process comes by, once an hour; what was not delivered is reported."""
    die(tmp_path, OTHER, 1)
    age(tmp_path, OTHER, 25)
    passing = make(tmp_path, SHOP)
    append(passing, 2)
    passing.prune()
    assert not (tmp_path / OTHER).exists()
    assert _diagnostics.counts == {DROPPED_BOUND.format("spans"): 1}
    die(tmp_path, OTHER, 3)
    age(tmp_path, OTHER, 25)
    passing.prune()
    assert on_disk(tmp_path) == [2, 3]
    assert queue.VISIT_S == 3600
    passing.close()
    die(tmp_path, OTHER, 4)  # it is young
    another = make(tmp_path, SHOP)
    another.prune()
    assert on_disk(tmp_path) == [2, 4]
    another.close()


def test_what_may_still_be_used_is_left_alone(tmp_path: Path) -> None:
    """Younger ones; those that are kept for longer; those with a process; other programs' own;
    and what a process of ours has beside.
    """
    die(tmp_path, OTHER, 1)
    age(tmp_path, OTHER, 23)
    kept = "kept-0123456789ab"
    die(tmp_path, kept, 2)
    destinations.describe(tmp_path / kept, "http://collector", 72)
    age(tmp_path, kept, 71)
    (tmp_path / "photos" / "sent").mkdir(parents=True)
    (tmp_path / "photos" / "sent" / "1.segment").touch()
    age(tmp_path, "photos", 1000)
    living, beside = make(tmp_path, LOGS), make(tmp_path, "beside-0123456789ab")
    append(living, 3)
    append(beside, 4)
    for name in (LOGS, "beside-0123456789ab"):
        age(tmp_path, name, 25)
    passing = make(tmp_path, SHOP)
    passing.prune()
    found = [each for each in reading.read(tmp_path) if each.spans]  # the photo is none of ours
    assert sorted(numbers(found)) == [1, 2, 4]
    assert len(reading.segments(tmp_path, of_logs=True)) == 1
    assert (tmp_path / "photos" / "sent" / "1.segment").exists()
    assert _diagnostics.counts == {}
    for each in (living, beside, passing):
        each.close()


def test_an_unused_destination_that_is_empty_goes(tmp_path: Path) -> None:
    """All of it was delivered and has gone by age; what an earlier version left keeps nothing."""
    base = tmp_path / "spool"
    make(base, OTHER).close()
    (base / OTHER / "sent" / "merging").touch()
    age(base, OTHER, 25)
    make(base, "young-0123456789ab").close()
    passing = make(base, SHOP)
    passing.prune()
    passing.close()
    assert sorted(path.name for path in base.iterdir()) == [SHOP, "young-0123456789ab"]
