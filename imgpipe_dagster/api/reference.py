"""The reference page, docs/api.md, made from the OpenAPI document: ``python -m imgpipe_dagster.api.reference``."""

import json
import re
import sys
from typing import Any

from imgpipe_dagster.api.app import create_app
from imgpipe_dagster.api.openapi import EXAMPLE_SERVER
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
- **Examples** are for a server on this machine, `imgpipe serve`, that has no key yet; where there are keys, add
  `-H "X-API-Key: …"`. Put what you know in the place of `{…}`.
"""


def reference(document: dict[str, Any]) -> str:
    """The page.

    Args:
        document: OpenAPI.
    """
    groups: dict[str, list[str]] = {}
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation, document))
    parts = [_HEAD]
    for group, texts in groups.items():
        parts += [f"## {group[0].upper()}{group[1:]}\n", *texts]
    types = sorted(name for name in _types_in_fields(document) if "properties" in schemas[name])
    parts += ["## Types\n", *(_type(name, schemas[name], document) for name in types)]
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
    lines += [*_example(path, method, operation, document), ""]
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        lines += [f"Body, `{kind}`:", "", *_fields(media.get("schema", {}), document), ""]
    for status, answer in sorted(operation["responses"].items()):
        if status.startswith("2"):
            for kind, media in answer.get("content", {}).items():
                lines += [f"Answer {status}, `{kind}`:", "", *_fields(media.get("schema", {}), document), ""]
    refusals = [f"`{status}`" for status in sorted(operation["responses"]) if status[0] in "45"]
    lines += [f"Refusals: {', '.join(refusals)}.", ""]
    return "\n".join(_without_double_blanks(lines))


def _example(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """The request as a shell command: the path's own, or one with the examples of its fields."""
    if samples := operation.get("x-codeSamples"):
        blocks = [(f"```{sample['lang']}", *sample["source"].splitlines(), "```", "") for sample in samples]
        return [line for block in blocks for line in block]
    for item in operation.get("parameters", ()):
        if item["schema"].get("type") == "integer":
            path = path.replace(f"{{{item['name']}}}", "1")
    command = [f'curl {"" if method == "get" else "-X POST "}"{EXAMPLE_SERVER}{path}"']
    for kind, media in operation.get("requestBody", {}).get("content", {}).items():
        fields = _examples(media.get("schema", {}), document)
        if kind == "multipart/form-data":
            command += [f'-F "{name}={value}"' for name, value in fields.items()]
        else:
            command += [f'-H "Content-Type: {kind}"', f"-d '{json.dumps(fields, ensure_ascii=False)}'"]
    return ["```bash", " \\\n  ".join(command), "```"]


def _examples(schema: dict[str, Any], document: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """A value that fits a schema, as far as its fields have examples."""
    schema = _resolved(schema, document)
    if schema.get("type") == "array":
        return [_examples(schema["items"], document)]
    made = {}
    for name, value in schema.get("properties", {}).items():
        if examples := value.get("examples"):
            made[name] = examples[0]
        elif value.get("format") == "binary":
            made[name] = "@image.jpg"
        elif name in schema.get("required", ()):
            made[name] = _examples(value, document)
    return made


def _type(name: str, schema: dict[str, Any], document: dict[str, Any]) -> str:
    lines = [f"### {name}", "", schema.get("description", ""), "", *_fields(schema, document), ""]
    return "\n".join(_without_double_blanks(lines))


def _types_in_fields(document: dict[str, Any]) -> set[str]:
    """The names of what the fields of bodies and answers refer to."""
    tops = {
        media["schema"]["$ref"]
        for operations in document["paths"].values()
        for operation in operations.values()
        for part in (operation.get("requestBody", {}), *operation["responses"].values())
        for media in part.get("content", {}).values()
        if "$ref" in media.get("schema", {})
    }
    found: set[str] = set()
    waiting = [document["components"]["schemas"][ref.split("/")[-1]] for ref in tops]
    while waiting:
        names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(waiting.pop()))) - found
        found |= names
        waiting += [document["components"]["schemas"][name] for name in names]
    return found


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
        name = schema["$ref"].split("/")[-1]
        return _kind(found, document) if "enum" in found else f"[{name}](#{name.lower()})"
    if variants := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(_kind(one, document) for one in variants))
    if schema.get("type") == "array":
        of = _kind(schema.get("items", {}), document)
        return f"list of ({of})" if " or " in of else f"list of {of}"
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
