"""The reference page, docs/api.md, made from the OpenAPI document: ``python -m imgpipe_dagster.api.reference``."""

import json
import sys
from typing import Any

from imgpipe_dagster.api.app import create_app
from imgpipe_dagster.api.problems import Code
from imgpipe_dagster.settings import Settings

_HEAD = """# HTTP API

Made from the OpenAPI document by `python -m imgpipe_dagster.api.reference`; a running server shows the same at `/docs`
and `/openapi.json`. `imgpipe serve` starts it.

- **Who may.** `X-API-Key: …` or `Authorization: Bearer …`: a key of `imgpipe keys create NAME --scope read`, or a
  token of the issuer in `IMGPIPE_OIDC_ISSUER`. Without any key the server listens on 127.0.0.1 only, and this machine
  may do all.
- **Once only.** A POST under `/api/v1` with an `Idempotency-Key` is done once; sent again, it gets the same answer.
- **Refusals** under `/api/v1` are `application/problem+json` with a stable `code`; the paths of the older systems keep
  their own shapes. 429 and 503 carry `Retry-After`. Every answer carries `X-Request-ID`.
"""


def reference(document: dict[str, Any]) -> str:
    """The page.

    Args:
        document: OpenAPI.
    """
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation, document))
    parts = [_HEAD]
    for group, texts in groups.items():
        parts += [f"## {group[0].upper()}{group[1:]}\n", *texts]
    codes = "\n".join(f"| `{code}` | {code.status} | {code.meaning} |" for code in Code)
    parts.append(f"## Codes\n\n| code | status | meaning |\n|---|---|---|\n{codes}\n")
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    lines = [f"### `{method.upper()} {path}`", "", operation.get("description", operation["summary"]), ""]
    if scope := operation.get("x-scope"):
        lines += [f"Scope: `{scope}`.", ""]
    if parameters := operation.get("parameters"):
        lines += ["| parameter | in | meaning |", "|---|---|---|"]
        lines += [f"| `{item['name']}` | {item['in']} | {_meaning(item)} |" for item in parameters]
        lines.append("")
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        lines += [f"Body, `{kind}`:", "", *_fields(media.get("schema", {}), document), ""]
    for status, answer in sorted(operation["responses"].items()):
        if status.startswith("2"):
            for kind, media in answer.get("content", {}).items():
                lines += [f"Answer {status}, `{kind}`:", "", *_fields(media.get("schema", {}), document), ""]
    return "\n".join(_without_double_blanks(lines))


def _fields(schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    schema = _resolved(schema, document)
    required = schema.get("required", ())
    rows = [
        f"| `{name}`{' *' if name in required else ''} | {_kind(value, document)} | {_meaning(value)} |"
        for name, value in schema.get("properties", {}).items()
    ]
    return ["| field | type | meaning |", "|---|---|---|", *rows] if rows else [_kind(schema, document)]


def _kind(schema: dict[str, Any], document: dict[str, Any]) -> str:
    if "$ref" in schema:
        found = _resolved(schema, document)
        return " or ".join(f"`{one}`" for one in found["enum"]) if "enum" in found else schema["$ref"].split("/")[-1]
    if variants := schema.get("anyOf"):
        return " or ".join(_kind(one, document) for one in variants)
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), document)}"
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    return str(schema.get("format") or schema.get("type") or "any")


def _meaning(value: dict[str, Any]) -> str:
    text = value.get("description", "").replace("|", "\\|").replace("\n", " ")
    if examples := value.get("examples"):
        text += f" Example: `{json.dumps(examples[0], ensure_ascii=False)}`."
    return text.strip()


def _resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    return document["components"]["schemas"][schema["$ref"].split("/")[-1]] if "$ref" in schema else schema


def _without_double_blanks(lines: list[str]) -> list[str]:
    return [line for place, line in enumerate(lines) if line or place == 0 or lines[place - 1]]


if __name__ == "__main__":
    sys.stdout.write(reference(create_app(Settings(_env_file=None)).openapi()))  # type: ignore[call-arg] - pydantic's
