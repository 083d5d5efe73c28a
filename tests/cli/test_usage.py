"""`usage` and `ledger check`."""

from __future__ import annotations

import csv
import io
import json

import pytest

from llmaas.domain.exports import ROW_COLUMNS
from tests.cli.ledgers import NOON_MS, record, spool, usage_row
from tests.cli.running import Cli

PRICED = '[[models]]\nid = "granite"\nprice = { input = "1.80", output = "8.00" }\n'


def filled(llmaas: Cli) -> Cli:
    llmaas.good("projects", "create", "lab")
    record(
        llmaas.data_dir,
        [
            usage_row(1),
            usage_row(2, key_id="k2", model_id="other"),
            usage_row(3, project_id="lab", end_user="=cmd|' /C calc'!A0", machine_name="\x1b[31mred"),
            usage_row(4, started_ms=NOON_MS - 86_400_000, currency="USD", cost_nano=1_234_567_891),
        ],
    )
    return llmaas


def test_nothing_yet(llmaas: Cli) -> None:
    ran = llmaas.good("usage")
    assert (ran.out, ran.err) == ("", "no usage yet\nno requests yet\n")
    assert llmaas.good("usage", "--json").json == []
    assert llmaas.good("usage", "--rows", "--json").json == []
    assert llmaas.good("ledger", "check").out == "ok\n"


def test_people_see_sums_and_the_latest_requests(llmaas: Cli) -> None:
    out = filled(llmaas).good("usage").out
    sums, latest = out.split("Latest requests\n")
    assert sums.splitlines()[1].split() == [
        *("MODEL", "REQUESTS", "INPUT", "CACHED", "INPUT", "OUTPUT", "REASONING", "TOKENS", "ESTIMATED", "WH"),
        *("COST", "CURRENCY"),
    ]
    assert sums.splitlines()[2].split() == [
        *("granite", "2", "20", "2", "200", "14", "236", "0.0", "no", "price", "EUR"),
    ]
    head, first, *_ = latest.splitlines()
    assert "TTFT MS" in head
    assert first.split()[:9] == [
        *("2026-05-29", "12:00:03Z", "granite", "11", "107", "250", "900", "vllm", "\\x1b[31mred")
    ]
    assert out.replace("\n", "").isprintable()


def test_people_see_the_names_of_keys(llmaas: Cli) -> None:
    made = llmaas.good("keys", "create", "--project", "default", "--name", "build bot", "--json").json
    record(llmaas.data_dir, [usage_row(1, key_id=made["id"])])
    head, line = llmaas.good("usage", "--by", "key").out.splitlines()[1:3]
    assert head.split()[:2] == ["KEY", "NAME"]
    assert line.split()[:3] == [made["id"], "build", "bot"]
    assert "name" not in llmaas.good("usage", "--by", "key", "--json").json[0]


def test_sums_by_what_is_asked_for(llmaas: Cli) -> None:
    filled(llmaas)
    by_key = llmaas.good("usage", "--by", "key,model", "--json").json
    assert [(s["key"], s["model"], s["currency"], s["requests"], s["total_tokens"]) for s in by_key] == [
        ("k1", "granite", "EUR", 2, 236),
        ("k1", "granite", "USD", 1, 118),
        ("k2", "other", "EUR", 1, 118),
    ]
    assert [s["cost"] for s in by_key] == ["0.00", "1.234567891", "0.00"]
    days = llmaas.good("usage", "--by", "day", "--json").json
    assert [(s["day"], s["requests"]) for s in days] == [("2026-05-28", 1), ("2026-05-29", 3)]
    (lab,) = llmaas.good("usage", "--project", "lab", "--by", "project,end-user,outcome,backend", "--json").json
    assert (lab["project"], lab["end_user"], lab["backend"]) == ("lab", "=cmd|' /C calc'!A0", "b1")
    kinds = llmaas.good("usage", "--by", "token-type", "--json").json
    assert {s["token_type"]: s["tokens"] for s in kinds[:4]} == {
        "input": 30,
        "cached_input": 3,
        "output": 300,
        "reasoning": 21,
    }


def test_a_span_of_time_has_its_start_and_not_its_end(llmaas: Cli) -> None:
    filled(llmaas)

    def ids(*span: str) -> list[int]:
        rows = llmaas.good("usage", "--rows", "--json", *span).json
        return sorted(int(row["id"].removeprefix("chatcmpl-"), 16) for row in rows)

    assert ids("--from", "2026-05-29") == [1, 2, 3]
    assert ids("--to", "2026-05-29") == [4]
    assert ids("--from", "2026-05-29T12:00:02", "--to", "2026-05-29T12:00:03Z") == [2]
    assert ids("--from", "2026-05-29T14:00:02+02:00") == [2, 3]
    assert ids("--from", "5000w") == [1, 2, 3, 4]


def test_a_month_is_from_its_first_moment_to_before_the_next(llmaas: Cli) -> None:
    may_ms, june_ms, year_ms = 1_777_593_600_000, 1_780_272_000_000, 1_798_761_600_000
    record(
        llmaas.data_dir,
        [usage_row(n, started_ms=t) for n, t in enumerate((may_ms - 1, may_ms, june_ms - 1, june_ms, year_ms - 1))],
    )
    by_month = llmaas.good("usage", "--by", "month", "--json").json
    assert [(s["month"], s["requests"]) for s in by_month] == [
        *(("2026-04", 1), ("2026-05", 2), ("2026-06", 1), ("2026-12", 1))
    ]
    for month, requests in (("2026-05", [2]), ("2026-12", [1]), ("2026-11", [])):
        found = llmaas.good("usage", "--month", month, "--json").json
        assert [s["requests"] for s in found] == requests, month


def test_filters_take_what_fits(llmaas: Cli) -> None:
    record(
        llmaas.data_dir,
        [
            usage_row(1, end_user="ann", energy_uwh=1_500_000),
            usage_row(2, key_id="k2", backend_id="b2"),
            usage_row(3, model_id="other", outcome="engine_failed"),
        ],
    )

    def found(*options: str) -> list[int]:
        rows = llmaas.good("usage", "--rows", "--json", *options).json
        sums = llmaas.good("usage", "--json", *options).json
        assert sum(s["requests"] for s in sums) == len(rows)
        return sorted(int(row["id"].removeprefix("chatcmpl-"), 16) for row in rows)

    assert found("--end-user", "ann") == [1]
    assert found("--key", "k2") == [2]
    assert found("--backend", "b1") == [1, 3]
    assert found("--model", "other", "--outcome", "engine_failed") == [3]
    assert found("--id", f"chatcmpl-{2:032x}") == [2]
    assert [s["estimated_wh"] for s in llmaas.good("usage", "--by", "end-user", "--json").json] == ["0.0", "1.5"]


def test_each_class_of_tokens_has_its_cost(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=PRICED)
    record(llmaas.data_dir, [usage_row(n, price_version=1, cost_nano=875_800) for n in range(2)])
    kinds = llmaas.good("usage", "--by", "model,token-type", "--json").json
    assert {s["token_type"]: s["cost"] for s in kinds} == {
        "input": "0.000036",
        "cached_input": "0.0000036",
        "output": "0.0016",
        "reasoning": "0.000112",
    }
    assert [s["cost"] for s in llmaas.good("usage", "--json").json] == ["0.0017516"]


def test_rows_for_programs_have_every_column(llmaas: Cli) -> None:
    filled(llmaas)
    rows = llmaas.good("usage", "--rows", "--json").json
    assert [int(row["id"].removeprefix("chatcmpl-"), 16) for row in rows] == [3, 2, 1, 4]
    assert list(rows[0]) == list(ROW_COLUMNS)
    assert (rows[0]["streamed"], rows[0]["started"]) == (True, "2026-05-29T12:00:03.000Z")
    assert rows[3]["cost"] == "1.234567891"
    assert [row["id"] for row in llmaas.good("usage", "--rows", "--limit", "2", "--json").json] == [
        rows[0]["id"],
        rows[1]["id"],
    ]


def test_A02_a_spreadsheet_finds_no_formula(llmaas: Cli) -> None:
    filled(llmaas)
    for options in (["--rows"], ["--by", "end-user,model"]):
        text = llmaas.good("usage", "--csv", *options).out
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert "'=cmd|' /C calc'!A0" in cells
    head, *rows = csv.reader(io.StringIO(llmaas.good("usage", "--rows", "--csv").out))
    assert head == list(ROW_COLUMNS)
    assert len(rows) == 4


def test_many_rows_are_cut_for_people_only(llmaas: Cli) -> None:
    record(llmaas.data_dir, [usage_row(n) for n in range(60)])
    shown = llmaas.good("usage", "--rows")
    assert shown.out.splitlines()[1].endswith(f"chatcmpl-{59:032x}")
    assert len(shown.out.splitlines()) == 51
    assert "there are more" in shown.err
    assert len(llmaas.good("usage", "--rows", "--json").json) == 60
    assert len(llmaas.good("usage", "--rows", "--limit", "60").out.splitlines()) == 61


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            ["--by", "colour"],
            "Invalid value for --by: 'colour' is none of backend, day, end-user, hour, key, member, model",
        ),
        (["--from", "2026-05-29", "--to", "2026-05-28"], "Invalid value for --from: comes after --to"),
        (["--from", "soon"], "Invalid value for --from: 'soon' is no time; write for example 2026-01-31"),
        (["--to", "2026-02-31"], "Invalid value for --to: '2026-02-31' is no time"),
        (["--csv", "--json"], "Invalid value for --csv: cannot go with --json"),
        (["--rows", "--by", "key"], "Invalid value for --by: cannot go with --rows"),
        (["--month", "2026-13"], "Invalid value for --month: '2026-13' is no month"),
        (["--month", "2026-05", "--to", "2026-06-01"], "Invalid value for --month: cannot go with --from or --to"),
        (["--limit", "0"], "Invalid value for '--limit'"),
    ],
)
def test_wrong_options_are_usage_errors(options: list[str], error: str, llmaas: Cli) -> None:
    ran = llmaas("usage", *options)
    assert ran.code == 2
    assert ran.errors[0].startswith(error)


def test_an_unknown_project_is_told(llmaas: Cli) -> None:
    ran = llmaas("usage", "--project", "nowhere")
    assert (ran.code, ran.errors) == (1, ["There is no project `nowhere`."])


def test_a_clean_ledger_is_ok(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=PRICED)
    cost = (10 + 1) * 1800 + (100 + 7) * 8000
    record(llmaas.data_dir, [usage_row(1, price_version=1, cost_nano=cost)])
    ran = llmaas.good("ledger", "check")
    assert (ran.out, ran.err) == ("ok\n", "")


def test_every_fault_of_the_ledger_is_a_line(llmaas: Cli) -> None:
    llmaas.good("apply", "-", stdin=PRICED)
    record(
        llmaas.data_dir,
        [
            usage_row(1, price_version=1, cost_nano=7),
            usage_row(2, price_version=99),
            usage_row(3, outcome="great", output_tokens=-1),
            usage_row(4),
        ],
    )
    ran = llmaas("ledger", "check")
    assert ran.code == 1
    assert "ok" not in ran.out.splitlines()
    assert [line.split(": ")[0][-1] for line in ran.out.splitlines()] == ["3", "3", "2", "1"]
    assert "it costs 7, its tokens and price version make" in ran.out


def test_rows_in_the_spool_are_mentioned_aside(llmaas: Cli) -> None:
    spool(llmaas.data_dir, [usage_row(1), usage_row(2)])
    ran = llmaas.good("ledger", "check")
    assert ran.out == "ok\n"
    assert ran.err.startswith("2 rows wait in the spool")


def test_json_is_one_object_a_line(llmaas: Cli) -> None:
    filled(llmaas)
    lines = llmaas.good("usage", "--rows", "--json").out.splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert [json.loads(line.rstrip(","))["key_id"] for line in lines[1:-1]] == ["k1", "k2", "k1", "k1"]


def test_what_had_no_price_is_told_from_what_is_free(llmaas: Cli) -> None:
    """`free` was billed by a version whose prices are 0, `forgotten` by none; a request that failed costs nothing anyway."""
    failed = {"outcome": "engine_failed", "billing_reason": "failed_before_output"}
    record(
        llmaas.data_dir,
        [
            usage_row(1, model_id="free", price_version=1),
            usage_row(2, model_id="forgotten"),
            usage_row(3, model_id="forgotten"),
            usage_row(4, model_id="forgotten", **failed),
            usage_row(5, model_id="broken", **failed),
        ],
    )
    ran = llmaas.good("usage")
    sums, latest = ran.out.split("Latest requests\n")
    cost = {line.split()[0]: line for line in sums.splitlines()[2:] if line}
    assert ("no price" in cost["forgotten"], "no price" in cost["free"], "no price" in cost["broken"]) == (
        True,
        False,
        False,
    )
    assert latest.count("no price") == 2
    assert [line for line in ran.err.splitlines() if line.startswith("no price")] == [
        "no price: 2 requests of forgotten cost nothing; give it one in the fleet file (0 where it is meant to be free)"
    ]
    by_day = llmaas.good("usage", "--by", "day").err
    assert "2 requests of forgotten" in by_day
    counts = {"broken": 0, "forgotten": 2, "free": 0}
    assert {s["model"]: s["unpriced_requests"] for s in llmaas.good("usage", "--json").json} == counts
    for options in ([], ["--by", "model,token-type"]):
        lines = csv.DictReader(io.StringIO(llmaas.good("usage", "--csv", *options).out))
        assert {line["model"]: int(line["unpriced_requests"]) for line in lines} == counts
    unpriced = {row["id"]: row["unpriced"] for row in llmaas.good("usage", "--rows", "--json").json}
    assert [row_id for row_id, so in unpriced.items() if so] == [usage_row(n).id for n in (3, 2)]


@pytest.mark.parametrize(
    ("option", "name", "hint"),
    [
        ("--model", "granit", 'hint: did you mean "granite"?'),
        ("--model", "default", "hint: it is an alias of `granite`"),
        ("--key", "nope", ""),
        ("--backend", "nope", ""),
    ],
)
def test_a_name_that_nothing_ever_had_is_told(llmaas: Cli, option: str, name: str, hint: str) -> None:
    llmaas.good("apply", "-", stdin=f'{PRICED}aliases = ["default"]\n')
    filled(llmaas)
    for more in ([], ["--rows"], ["--json"]):
        ran = llmaas("usage", option, name, *more)
        assert (ran.code, ran.errors) == (1, [f"There is no {option[2:]} `{name}`, and no usage of one."])
        assert hint in ran.err


def test_usage_of_what_is_removed_is_found_and_what_has_none_yet_is_no_mistake(llmaas: Cli) -> None:
    filled(llmaas).good("apply", "-", stdin='[[models]]\nid = "idle"\n')
    assert llmaas.good("usage", "--model", "other", "--json").json[0]["requests"] == 1
    assert llmaas.good("usage", "--model", "idle", "--json").json == []
    made = llmaas.good("keys", "create", "--name", "fresh", "--json").json
    assert llmaas.good("usage", "--key", made["id"], "--json").json == []


def test_an_outcome_that_there_is_not_is_told_with_those_there_are(llmaas: Cli) -> None:
    ran = llmaas("usage", "--outcome", "nope")
    assert ran.code == 2
    assert "'nope' is none of client_aborted, completed" in ran.err.replace("\n", " ")
