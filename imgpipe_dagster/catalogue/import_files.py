"""From CSV and JSON files to checked rows, a little at a time. Nothing is written, no URL is fetched."""

import codecs
import csv
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe_dagster.catalogue.tables import ProductImage
from imgpipe_dagster.fetch.urls import normalise, scheme_of
from imgpipe_dagster.store.keys import STORED_SCHEME, stored_image_key

_BLOCK_BYTES = 1 << 16
_MAX_LINE = 1 << 20  # characters
_MAX_JSON_ITEM = 1 << 22
_SCHEMES = {"http", "https", "s3"}
_FIELDS = (
    *("image_url", "sku_id", "product_group_id", "image_type", "temple_id"),
    *("source", "source_ref", "report_name", "enhancement_mode"),
)
_MAX_LENGTHS = {name: getattr(ProductImage.__table__.c[name].type, "length", 0) for name in _FIELDS}
_DEFAULT_TYPE = "primary"
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # how Python keeps such bytes (PEP 383)
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_FILE_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_JSON_LIST = re.compile(r'\s*(\{\s*"images"\s*:\s*)?\[')
_BETWEEN_ITEMS = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()
_AGAIN = "Correct the file and import it again: rows that are in the catalogue already are skipped."


class ImportFileError(ValueError):
    """The file cannot be read as a whole, or from one line on; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One image to import. Texts are stripped, and empty ones count as missing.

    Attributes:
        image_url: An http, https or s3 URL, ``store:`` and the key of an image in the store, or a file name that the
            CDN's base URL completes later. A row of a ``source`` may have any text here, or none: nobody sits before a
            source to correct it, so the pipeline answers for the image with a reason, and the source can be told.
        sku_id: The product it shows.
        product_group_id: The group of that product.
        image_type: ``primary`` unless said otherwise.
        temple_id: The site it comes from.
        source_key: What makes the row the same row when it comes again, see :func:`source_key`. By default made of
            ``source`` and ``source_ref``, or without a source of ``image_url`` and ``sku_id``.
        source: What brings the row in by itself (``sql``, ``kafka``, ``folder``); None for files that people import.
        source_ref: The row's id there.
        report_name: Name of the image's report, where the source gives its images names.
        enhancement_mode: The mode that the source asks for.

    Raises:
        ValueError: A value is missing, too long, or of another kind; the message names it.
    """

    image_url: str | None
    sku_id: str | None = None
    product_group_id: str | None = None
    image_type: str = _DEFAULT_TYPE
    temple_id: str | None = None
    source_key: str = ""
    source: str | None = None
    source_ref: str | None = None
    report_name: str | None = None
    enhancement_mode: str | None = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, _clean(name, getattr(self, name)))
        if not self.image_type:
            object.__setattr__(self, "image_type", _DEFAULT_TYPE)
        if self.source is None:
            if not self.image_url:
                raise ValueError("image_url is missing")
            _check_url(self.image_url)
        elif not (self.source_ref or self.source_key):
            raise ValueError("source_ref is missing")
        if not self.source_key:
            row = (self.source, self.source_ref) if self.source else ("import", self.image_url, self.sku_id)
            object.__setattr__(self, "source_key", source_key(*(part or "" for part in row)))


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not imported.

    Attributes:
        line: The line that it begins on, from 1; for rows that come from no file, their place.
        reason: What is wrong with it.
    """

    line: int
    reason: str


@dataclass(frozen=True)
class Columns:
    """What the columns of a CSV file, or the keys of JSON objects, are called. Only ``image_url`` must be there."""

    image_url: str = "image_url"
    sku_id: str = "sku_id"
    product_group_id: str = "product_group_id"
    image_type: str = "image_type"
    temple_id: str = "temple_id"


def source_key(source: str, *row_id: str | int) -> str:
    """Hexadecimal SHA-256 of a source and what identifies a row in it: the same row always has the same key."""
    return hashlib.sha256(json.dumps([source, *row_id]).encode()).hexdigest()


def sample_csv() -> str:
    """A CSV file to begin with."""
    return (
        "product_group_id,sku_id,image_url,image_type\n"
        "PG-MEDICAL-001,MED-SKU-001,https://cdn.example.com/img1.jpg,primary\n"
        "PG-MEDICAL-001,MED-SKU-001,https://cdn.example.com/img1-side.jpg,side\n"
        "PG-MEDICAL-002,MED-SKU-002,https://cdn.example.com/img2.jpg,primary\n"
    )


def read_csv(path: Path, columns: Columns, encoding: str | None = None) -> Iterator[ImportRow | BadRow]:
    """The rows of a CSV file with a header; ``,``, ``;`` and tabs are told apart, empty rows are skipped.

    Args:
        path: The file.
        columns: The names in the header; of those left at their default, all but ``image_url`` may be missing.
        encoding: By default that of the byte order mark, or else UTF-8; a row that is not in UTF-8 is a bad one.

    Raises:
        ImportFileError: It is in another encoding than the one that is given, has no header, or lacks a column.
        OSError: It cannot be opened.
    """
    lines = _lines(path, _text_blocks(path, encoding))
    header, above = next(((text, number) for number, text in enumerate(lines, 1) if text.strip()), ("", 0))
    delimiter, names = _read_header(path, header, columns)
    places = {field: names.index(name) for field, name in vars(columns).items() if name in names}
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        line = above + reader.line_num + 1
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if any(cell.strip() for cell in cells):
                yield _row_of_cells(cells, len(names), places)
        except ImportFileError:
            raise
        except (csv.Error, ValueError) as error:
            last = above + reader.line_num
            yield BadRow(line, str(error) if last <= line else f"{error} (up to line {last}: is a quote left open?)")


def read_json(path: Path, columns: Columns, encoding: str | None = None) -> Iterator[ImportRow | BadRow]:
    """The rows of a JSON file: a list of objects, ``{"images": [...]}``, or an object on each line.

    Args:
        path: The file.
        columns: The keys in the objects; other keys are ignored.
        encoding: As for ``read_csv``.

    Raises:
        ImportFileError: It is in another encoding than the one that is given, or not JSON of one of these forms.
        OSError: It cannot be opened.
    """
    blocks = _text_blocks(path, encoding)
    start = next(blocks, "")
    is_list = _JSON_LIST.match(start)
    items = _list_items(path, start, blocks, is_list) if is_list else _line_items(path, start, blocks)
    for line, item in items:
        if isinstance(item, BadRow):
            yield item
        elif not isinstance(item, dict):
            yield BadRow(line, f"{type(item).__name__} where an object belongs")
        else:
            try:
                values: dict[str, Any] = {field: item.get(name) for field, name in vars(columns).items()}
                yield ImportRow(**values)
            except ValueError as error:
                yield BadRow(line, str(error))


def _row_of_cells(cells: list[str], width: int, places: dict[str, int]) -> ImportRow:
    if len(cells) != width:
        raise ValueError(f"{len(cells)} fields where the header has {width}")
    return ImportRow(**{field: cells[place] for field, place in places.items()})


def _clean(name: str, value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} is a {type(value).__name__}, not a text")  # noqa: TRY004 one kind of error for bad rows
    text = str(value).strip()
    if len(text) > _MAX_LENGTHS[name]:
        raise ValueError(f"{name} has {len(text)} characters, {_MAX_LENGTHS[name]} are allowed")
    if _NOT_UTF8.search(text):
        raise ValueError(f"{name} is not in UTF-8 (most files from Windows: --encoding cp1252)")
    if _UNSTORABLE.search(text):
        raise ValueError(f"{name} has a line break, a control character or half a surrogate pair")
    return text or None


def _check_url(text: str) -> None:
    scheme = scheme_of(text)
    if scheme in _SCHEMES:
        try:
            normalise(text)
        except ValueError as error:
            raise ValueError(f"image_url is not a URL: {error}") from None
    elif scheme == STORED_SCHEME:
        stored_image_key(text)
    elif scheme is not None:
        raise ValueError(f"image_url begins with {scheme}: where only http, https and s3 are fetched")
    elif not _FILE_EXTENSION.search(text):
        raise ValueError("image_url is neither a URL nor the name of a file")


def _text_blocks(path: Path, encoding: str | None) -> Iterator[str]:
    """The file's text in pieces, without a byte order mark."""
    line = 1
    with path.open("rb") as file:
        if encoding is None:
            beginning = file.read(4)
            file.seek(0)
            encoding = next((name for bom, name in _BOMS if beginning.startswith(bom)), "utf-8")
        try:
            of_utf8 = codecs.lookup(encoding).name == "utf-8"  # where any line can be read without those before it
            decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if of_utf8 else "strict")
        except LookupError as error:
            raise ImportFileError(
                f"There is no encoding {encoding!r}; cp1252 and utf-16 are two that there are."
            ) from error
        is_first = True
        while True:
            block = file.read(_BLOCK_BYTES)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                good = error.object[: error.start].decode(encoding, "replace")
                raise ImportFileError(
                    f"Line {line + good.count(chr(10))} of {path.name} is not in the encoding {encoding}. Name the one "
                    f"that it is in, or save it as UTF-8. {_AGAIN}"
                ) from error
            line += text.count("\n")
            if text:
                yield text.removeprefix("\ufeff") if is_first else text
                is_first = False
            if not block:
                return


def _lines(path: Path, blocks: Iterator[str]) -> Iterator[str]:
    """Lines with their ends: line feeds and carriage returns only, where ``splitlines`` knows many more."""
    rest = ""
    number = 0
    for block in blocks:
        *lines, rest = _LINE.findall(rest + block) or [""]
        yield from lines
        number += len(lines)
        if len(rest) > _MAX_LINE:
            raise ImportFileError(f"Line {number + 1} of {path.name} has more than {_MAX_LINE} characters. {_AGAIN}")
    if rest:
        yield rest


def _read_header(path: Path, header: str, columns: Columns) -> tuple[str, list[str]]:
    """The delimiter, and the names of the columns."""
    if not header:
        raise ImportFileError(f"{path.name} is empty.")
    readings = {mark: [name.strip() for name in next(csv.reader([header], delimiter=mark))] for mark in ",;\t"}
    delimiter = max(readings, key=lambda mark: (columns.image_url in readings[mark], len(readings[mark])))
    names = readings[delimiter]
    for field, name in vars(columns).items():
        if name not in names and (field == "image_url" or name != getattr(Columns, field)):
            found = ", ".join(repr(name[:50]) for name in names[:20])
            raise ImportFileError(f"{path.name} has no column {name!r} for {field}. Its columns are: {found}.")
    return delimiter, names


def _list_items(path: Path, text: str, blocks: Iterator[str], opening: re.Match[str]) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list and their lines. No more of the text is held than a block and an item."""
    done = opening.end()
    line = 1
    while True:
        line += text.count("\n", 0, done)
        text = text[done:]
        gap = _BETWEEN_ITEMS.match(text)
        if gap and gap.end():
            done = gap.end()
            continue
        if text.startswith("]"):
            break
        item, end, problem = _first_value(text)
        if 0 < end < len(text):  # a number that ends a block may go on in the next
            yield line, item
            done = end
            continue
        block = next(blocks, "") if len(text) < _MAX_JSON_ITEM else ""
        if not block:
            raise ImportFileError(f"What begins on line {line} of {path.name} is not valid JSON: {problem}. {_AGAIN}")
        text += block
        done = 0
    is_bare = opening[1] is None
    if is_bare and any(rest.strip() for rest in itertools.chain([text[1:]], blocks)):
        raise ImportFileError(f"Something follows the list that ends on line {line} of {path.name}.")


def _first_value(text: str) -> tuple[Any, int, str]:
    """The JSON value that a text begins with, where it ends (0: nowhere), and why."""
    try:
        return *_DECODER.raw_decode(text), "the list does not end"
    except (ValueError, RecursionError) as error:
        return None, 0, getattr(error, "msg", str(error))


def _line_items(path: Path, start: str, blocks: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines; a line that cannot be read is a `BadRow`."""
    is_first = True
    for number, text in enumerate(_lines(path, itertools.chain([start], blocks)), 1):
        if not text.strip():
            continue
        try:
            item = json.loads(text)
        except (ValueError, RecursionError) as error:
            item = BadRow(number, f"not valid JSON: {getattr(error, 'msg', error)}")
        if is_first and (not isinstance(item, dict) or "images" in item):
            raise ImportFileError(
                f"{path.name} is neither a JSON list of objects, nor an object on each line, "
                'nor {"images": [...]} with that key first.'
            )
        is_first = False
        yield number, item
    if is_first:
        raise ImportFileError(f"{path.name} is empty.")
