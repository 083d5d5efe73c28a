"""Fleet files with mistakes, each with what is told about it, from the line on."""

from __future__ import annotations

BACKEND = '[[providers]]\nid="p"\nkind="vllm"\n[[backends]]\nid="b"\nprovider="p"\n'
ADDRESS = "must be an http or https address"

MISTAKES: list[tuple[str, list[str]]] = [
    # what is not TOML
    ("[[models]\n", ["1: Expected ']]' at the end of an array declaration"]),
    ("\n\nid = ", ["3: Invalid value"]),
    ("[[models]]\nid='m'\nid='n'", ["3: Cannot overwrite a value"]),
    # unknown keys and tables
    ('[[models]]\nid="m"\n\npric="1"', ['4: unknown key "pric" in [[models]]; did you mean "price"?']),
    ('[[models]]\nid="m"\nprice={inptu="1"}', ['3: unknown key "inptu" in price of [[models]]; did you mean "input"?']),
    (
        '[[models]]\nid="m"\n[models.lifecycle]\nfase="production"',
        ['4: unknown key "fase" in lifecycle of [[models]]; did you mean "phase"?'],
    ),
    ('#\n[[modells]]\nid="m"', ['2: unknown table "modells"; did you mean "models"?']),
    ("zzz = 1", ['1: unknown table "zzz"']),
    ('[[providers]]\nid="p"\nkind="vllm"\n"a\\nb"=1', ['4: unknown key "a\\nb" in [[providers]]']),
    ('[models]\nid="m"', ["1: models must be tables, each under its own [[models]]"]),
    ("models = [1]", ["1: models must be tables, each under its own [[models]]"]),
    # missing
    ("[[tiers]]\nrequests_per_minute=1", ['1: [[tiers]] lacks "id"']),
    ('[[providers]]\nid="p"', ['1: [[providers]] lacks "kind": one of embedded, llama.cpp, ollama, openai, vllm']),
    (f"{BACKEND}", ["4: backend `b` lacks a base_url"]),
    # wrong types
    ("[[models]]\nid=3", ["2: id in [[models]] must be a string, not 3"]),
    ('[[models]]\nid="m"\naliases="a"', ['3: aliases in [[models]] must be a list of strings, not "a"']),
    ('[[models]]\nid="m"\naliases=[\n"a",\n3]', ["5: aliases in [[models]] must be a list of strings, not 3"]),
    ('[[models]]\nid="m"\nmax_model_len="8k"', ['3: max_model_len in [[models]] must be a whole number, not "8k"']),
    ('[[models]]\nid="m"\nmax_model_len=1.5', ["3: max_model_len in [[models]] must be a whole number, not 1.5"]),
    ('[[models]]\nid="m"\nmax_model_len=true', ["3: max_model_len in [[models]] must be a whole number, not true"]),
    ('[[models]]\nid="m"\ncard="x"', ['3: card in [[models]] must be a table, not "x"']),
    ('[[models]]\nid="m"\nprice="1.80"', ['3: price in [[models]] must be a table, not "1.80"']),
    (
        '[[providers]]\nid="p"\nkind="vllm"\ncancel_stops_billing="no"',
        ['4: cancel_stops_billing in [[providers]] must be true or false, not "no"'],
    ),
    (
        '[[providers]]\nid="p"\nkind="vllm"\nexplain_refusals="no"',
        ['4: explain_refusals in [[providers]] must be true or false, not "no"'],
    ),
    (
        '[[providers]]\nid="p"\nkind="openai"\nexplain_refusals=true',
        [
            (
                "4: explain_refusals can't be true for a provider of kind openai: outside servers are never quoted; for a"
                " server of your own, declare its kind"
            )
        ],
    ),
    # closed sets
    (
        '[[models]]\nid="m"\nkind="chatt"',
        ['3: kind in [[models]] must be one of chat, completion, embedding, rerank, not "chatt"; did you mean "chat"?'],
    ),
    (
        '[[providers]]\nid="p"\nkind="VLLM"',
        ['3: kind in [[providers]] must be one of embedded, llama.cpp, ollama, openai, vllm, not "VLLM"'],
    ),
    (
        '[[models]]\nid="m"\nlifecycle={phase="old"}',
        ['3: phase in lifecycle of [[models]] must be one of deprecated, evaluation, production, retired, not "old"'],
    ),
    # addresses
    *[
        (f"{BACKEND}base_url={url!r}", [f"7: base_url in [[backends]] {fault}"])
        for url, fault in [
            ("ftp://h/v1", f'{ADDRESS} such as http://10.0.0.12:8000/v1, not "ftp://h/v1"'),
            ("10.0.0.1:8000", f'{ADDRESS} such as http://10.0.0.12:8000/v1, not "10.0.0.1:8000"'),
            ("http:///v1", f'{ADDRESS} such as http://10.0.0.12:8000/v1, not "http:///v1"'),
            ("http://h/v1 ", f'{ADDRESS} without spaces and special characters, not "http://h/v1 "'),
            ("http://ñ/v1", f'{ADDRESS} without spaces and special characters, not "http://ñ/v1"'),
            ("http://u:hunter2@h/v1", "must not hold a credential; use api_key_env or `llmaas providers set-secret`"),
            ("http://h/v1?key=1", 'must not have a query or a fragment, not "http://h/v1?key=1"'),
            ("http://h/v1#x", 'must not have a query or a fragment, not "http://h/v1#x"'),
            ("http://h:99999/v1", f'{ADDRESS}, not "http://h:99999/v1"'),
            ("http://h:0/v1", 'must have a port between 1 and 65535, or none, not "http://h:0/v1"'),
            ("http://[::1/v1", f'{ADDRESS}, not "http://[::1/v1"'),
            ("http://h//v1", 'must not have two slashes in its path, not "http://h//v1"'),
            *[
                (
                    f"http://h/v1{endpoint}{slash}",
                    f'must be the address before {endpoint}, http://h/v1, not "http://h/v1{endpoint}{slash}"',
                )
                for endpoint in ("/chat/completions", "/completions", "/embeddings", "/models", "/api/chat", "/rerank")
                for slash in ("", "/")
            ],
        ]
    ],
    (
        '[[providers]]\nid="p"\nkind="embedded"\n[[backends]]\nid="b"\nprovider="p"\nbase_url="http://h"',
        ["7: backend `b` is embedded, so it has no base_url"],
    ),
    # money
    *[
        (f'[[models]]\nid="m"\n[models.price]\noutput={value}', [f"4: output in price of [[models]] {fault}"])
        for value, fault in [
            ("1.8", 'must be a decimal in quotes such as "1.80", so that it stays exact, not 1.8'),
            ('"1,80"', 'must be a plain decimal number such as 1.80, not "1,80"'),
            ('"-1"', 'must be a plain decimal number such as 1.80, not "-1"'),
            ("-1", "must be a plain decimal number such as 1.80, not -1"),
            ('"1e3"', 'must be a plain decimal number such as 1.80, not "1e3"'),
            ('"1_0"', 'must be a plain decimal number such as 1.80, not "1_0"'),
            ('" 1"', 'must be a plain decimal number such as 1.80, not " 1"'),
            ('"\\u0661"', 'must be a plain decimal number such as 1.80, not "\u0661"'),
            ('"nan"', 'must be a plain decimal number such as 1.80, not "nan"'),
            ('""', 'must be a plain decimal number such as 1.80, not ""'),
            ('"0.0000000001"', 'has more than 9 decimal places: "0.0000000001"'),
            ('"1.00000000000000000000000000000000001"', "has more than 9 decimal places: "),
            ('"1000000.01"', 'must be between 0 and 1000000, not "1000000.01"'),
            ("9" * 300, "must be between 0 and 1000000, not 999"),
            ("true", 'must be a decimal in quotes such as "1.80", so that it stays exact, not true'),
        ]
    ],
    (
        '[[tiers]]\nid="t"\nmonthly_cap="x"',
        ['3: monthly_cap in [[tiers]] must be a plain decimal number such as 1.80, not "x"'],
    ),
    # ranges
    ('[[tiers]]\nid="t"\nrequests_per_minute=0', ["3: requests_per_minute in [[tiers]] must be between 1 and"]),
    ('[[models]]\nid="m"\nmax_model_len=0', ["3: max_model_len in [[models]] must be between 1 and 2147483647, not 0"]),
    ('[[models]]\nid="m"\nmax_output_tokens=-5', ["3: max_output_tokens in [[models]] must be between 1 and"]),
    ('[[models]]\nid="m"\nmax_model_len=99999999999', ["3: max_model_len in [[models]] must be between 1 and"]),
    (
        '[[models]]\nid="m"\nmax_model_len=10\nmax_output_tokens=11',
        ["4: max_output_tokens of `m` is more than its max_model_len"],
    ),
    (f'{BACKEND}base_url="http://h"\nmax_concurrency=0', ["8: max_concurrency in [[backends]] must be between 1 and"]),
    (
        f'{BACKEND}base_url="http://h"\n[[models]]\nid="m"\n[[deployments]]\nmodel="m"\nbackend="b"\nweight=0',
        ["13: weight in [[deployments]] must be between 1 and 1000000, not 0"],
    ),
    # names
    ('[[models]]\nid=""', ['2: id in [[models]] is blank: ""']),
    ('[[models]]\nid=" m"', ['2: id in [[models]] begins or ends with a space: " m"']),
    ('[[models]]\nid="m\\u0000"', ['2: id in [[models]] holds characters that cannot be printed: "m\\x00"']),
    ('[[models]]\nid="m\\u202ed"', ['2: id in [[models]] holds characters that cannot be printed: "m\\u202ed"']),
    ("[[models]]\nid='''a\nb'''", ['2: id in [[models]] holds characters that cannot be printed: "a\\nb"']),
    (f'[[models]]\nid="{"x" * 201}"', ["2: id in [[models]] is longer than 200 characters: "]),
    ('[[models]]\nid="m"\naliases=["a","A"]', ['3: aliases in [[models]] is listed twice: "A"']),
    ('[[models]]\nid="m"\naliases=["\\t"]', ['3: aliases in [[models]] is blank: "\\t"']),
    (
        '[[providers]]\nid="p"\nkind="vllm"\napi_key_env="sk-live-4711"',
        ["4: api_key_env in [[providers]] must be the name of an environment variable such as LLMAAS_PROVIDER_LAB_KEY"],
    ),
    # days
    (
        '[[models]]\nid="m"\n[models.lifecycle]\nretires="2026-02-30"\nreleased="soon"\ndeprecated=2026-01-01T00:00:00Z',
        [
            '4: retires in lifecycle of [[models]] must be a day such as 2026-01-31, not "2026-02-30"',
            '5: released in lifecycle of [[models]] must be a day such as 2026-01-31, not "soon"',
            "6: deprecated in lifecycle of [[models]] must be a day such as 2026-01-31, not 2026-01-01 00:00:00+00:00",
        ],
    ),
    # free fields
    ('[[models]]\nid="m"\n[models.card]\na=[\n1,\n{b=nan}]', ["6: card.a.1.b in [[models]] must be a finite number"]),
    (f'[[models]]\nid="m"\n[models.card]\na={2**63}', ["4: card.a in [[models]] must fit in 64 bits"]),
    # among declarations
    ('[[tiers]]\nid="t"\n[[tiers]]\nid="t"', ["4: tier `t` is declared twice"]),
    ('[[models]]\nid="m"\n[[models]]\naliases=["M"]\nid="n"', ["4: model `n`: alias `M` is the id of another model"]),
    (
        '[[models]]\nid="m"\naliases=["x"]\n[[models]]\nid="n"\naliases=[\n"X"]',
        ["6: model `n`: alias `X` belongs to `m` already"],
    ),
    ('[[models]]\nid="m"\n[[models]]\nid="M"', ["2: model `m` differs from `M` in case only"]),
    ('[[backends]]\nid="b"\nbase_url="http://h"\nprovider="p"', ["4: backend `b`: there is no provider `p`"]),
    (
        '[[deployments]]\nbackend="b"\nmodel="m"',
        ["2: deployment: there is no backend `b`", "3: deployment: there is no model `m`"],
    ),
    (
        '[[models]]\nid="m"\nlifecycle={successor="n"}\n[[models]]\nid="n"\n[models.lifecycle]\nsuccessor="m"',
        ["3: model `m`: its successors lead back to it", "6: model `n`: its successors lead back to it"],
    ),
    ('[[models]]\nid="m"\nlifecycle={successor="n"}', ["3: model `m`: there is no successor `n`"]),
]
