"""Reading CSV and JSON files: what is a row, what is a bad one, and on which line."""

import csv
import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgpipe_dagster.catalogue.import_files import (
    BadRow,
    Columns,
    ImportFileError,
    ImportRow,
    read_csv,
    read_json,
    sample_csv,
    source_key,
)

URL = "https://cdn.example.com/1.jpg"
NOTE = st.text(st.sampled_from("ab,;\t\"'\r\n \u2028é"), max_size=8)
ROW_ID = st.text() | st.integers()


@pytest.fixture
def read(tmp_path):
    """Rows of a file with this content, as a list."""

    def read_content(content, name="images.csv", columns=None, encoding=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        reader = read_csv if name.endswith(".csv") else read_json
        return list(reader(path, columns or Columns(), encoding))

    return read_content


# --- Rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "http://h/x",
        "HTTPS://Host.example/a b.jpg?size=1#x",
        "s3://bucket/key.jpg",
        "https://cdn.example.com/मंदिर 🍾 100%.jpg",
        "frame_000001.jpg",
        "shop 1/left shelf.PNG",
        "https://h/" + "x" * 2038,
    ],
)
def test_urls_and_file_names_are_taken_as_they_are(url):
    assert ImportRow(url).image_url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "image_url is missing"),
        ("  ", "image_url is missing"),
        ("n/a", "neither a URL nor the name of a file"),
        ("not a url", "neither a URL nor the name of a file"),
        ("http://", "image_url is not a URL: no host"),
        ("https://h:port/x.jpg", "image_url is not a URL"),
        ("file:///etc/passwd", "image_url begins with file:"),
        ("C:\\pictures\\a.jpg", "image_url begins with c:"),
        ("javascript:alert(1)", "image_url begins with javascript:"),
        ("https://h/a\nb.jpg", "image_url has a line break"),
        ("https://h/\ud800.jpg", "image_url has a line break, a control character or half a surrogate pair"),
        ("https://h/" + "x" * 2039, "image_url has 2049 characters, 2048 are allowed"),
        (7.5, "image_url is a float, not a text"),
        (["https://h/a.jpg"], "image_url is a list, not a text"),
        (True, "image_url is a bool, not a text"),
    ],
)
def test_what_is_no_url_is_refused_with_the_reason(url, reason):
    with pytest.raises(ValueError, match=reason):
        ImportRow(url)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"sku_id": "x" * 101}, "sku_id has 101 characters, 100 are allowed"),
        ({"product_group_id": "x" * 101}, "product_group_id has 101"),
        ({"temple_id": "x" * 101}, "temple_id has 101"),
        ({"image_type": "x" * 51}, "image_type has 51 characters, 50 are allowed"),
        ({"sku_id": {"id": 1}}, "sku_id is a dict"),
        ({"sku_id": "a\0"}, "sku_id has a line break, a control character"),
    ],
)
def test_what_no_column_can_hold_is_refused_by_name(values, reason):
    with pytest.raises(ValueError, match=reason):
        ImportRow(URL, **values)


def test_texts_are_stripped_numbers_become_texts_and_empty_ones_are_missing():
    row = ImportRow(f" {URL}\t", sku_id=12, product_group_id=" ", image_type="", temple_id=" T1 ")
    assert (row.image_url, row.sku_id, row.product_group_id) == (URL, "12", None)
    assert (row.image_type, row.temple_id) == ("primary", "T1")


def test_the_same_url_and_sku_have_the_same_key_and_others_another():
    key = ImportRow(URL, "A").source_key
    assert ImportRow(f" {URL} ", "A ", "group", "side", "T1").source_key == key
    others = [ImportRow(URL), ImportRow(URL, "a"), ImportRow(URL + "A", ""), ImportRow(URL, "A", source_key="mine")]
    assert len({key, *(row.source_key for row in others)}) == 5


def test_a_source_key_stays_the_same_over_releases():
    assert source_key("kafka", "topic", 3, 17) == "f7736ffd942bddd4fb178c60bfedca0047f161df94c206357b8e5dc04c8689e6"
    assert ImportRow(URL, "A").source_key == "48448270b10a705e77ef007b8be869cd1f2b997c1afd5688ed32f6a612d4df0a"


@pytest.mark.parametrize("url", [None, "", "no picture", "ftp://h/a.jpg", "http://"])
def test_a_row_of_a_source_is_taken_over_with_any_url_so_that_the_source_gets_an_answer(url):
    row = ImportRow(url, source="sql", source_ref="7")
    assert (row.image_url, row.source_ref) == (url or None, "7")
    with pytest.raises(ValueError, match="image_url"):
        ImportRow(url)


def test_a_row_of_a_source_is_known_by_its_id_there():
    key = ImportRow("a.jpg", source="sql", source_ref="7").source_key
    assert ImportRow("b.jpg", "A", source="sql", source_ref=" 7").source_key == key
    assert key not in {ImportRow("a.jpg", source=s, source_ref=r).source_key for s, r in (("sql", "8"), ("kafka", "7"))}
    with pytest.raises(ValueError, match="source_ref is missing"):
        ImportRow("a.jpg", source="sql")


@given(
    st.lists(st.text() | st.integers(), min_size=1, max_size=4),
    st.lists(st.text() | st.integers(), min_size=1, max_size=4),
)
def test_different_rows_of_a_source_have_different_keys(one, two):
    assert (source_key("s", *one) == source_key("s", *two)) == ([*map(repr, one)] == [*map(repr, two)])


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_the_sample_can_be_imported(read):
    rows = read(sample_csv())
    assert [(row.product_group_id, row.sku_id, row.image_type) for row in rows] == [
        ("PG-MEDICAL-001", "MED-SKU-001", "primary"),
        ("PG-MEDICAL-001", "MED-SKU-001", "side"),
        ("PG-MEDICAL-002", "MED-SKU-002", "primary"),
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_told_apart(read, mark, end):
    lines = [["temple_id", "image_url"], ["T1", f'"{URL}?a=1,2;3"'], ["", "b.jpg"]]
    rows = read(end.join(mark.join(line) for line in lines))
    assert rows == [ImportRow(f"{URL}?a=1,2;3", temple_id="T1"), ImportRow("b.jpg")]


def test_a_file_of_urls_only_needs_no_delimiter(read):
    assert read(f"image_url\n{URL}\n") == [ImportRow(URL)]


def test_a_delimiter_that_finds_the_url_column_wins_over_one_that_finds_more_columns(read):
    assert read(f"image_url;size, weight, colour\n{URL};1, 2, red\n") == [ImportRow(URL)]


def test_other_column_names_can_be_given_and_unknown_columns_are_ignored(read):
    columns = Columns("link", "article", "category", "view", "shop")
    rows = read(f"price,shop,view,category,article,link\n9,T1,side,G,A,{URL}\n", columns=columns)
    assert rows == [ImportRow(URL, "A", "G", "side", "T1")]


def test_a_missing_url_column_is_an_error_that_lists_the_columns(read):
    with pytest.raises(
        ImportFileError, match=r"no column 'image_url' for image_url. Its columns are: 'url', 'sku_id'."
    ):
        read("url;sku_id\nhttps://h/1.jpg;A\n")


def test_a_column_that_was_asked_for_must_be_there(read):
    with pytest.raises(ImportFileError, match="no column 'artikel' for sku_id"):
        read(f"image_url\n{URL}\n", columns=Columns(sku_id="artikel"))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_says_so(read, content):
    with pytest.raises(ImportFileError, match=r"images.csv is empty"):
        read(content)


def test_bad_rows_are_reported_by_line_and_the_good_ones_kept(read):
    rows = read(
        "image_url,sku_id\n"
        f"{URL},A\n"  # 2
        ",B\n"
        "\n"
        ",\n"
        f"{URL}\n"  # 6
        f"{URL},A,B\n"
        "ftp://h/x.jpg,C\n"
        "last.jpg,D"  # 9
    )
    assert rows == [
        ImportRow(URL, "A"),
        BadRow(3, "image_url is missing"),
        BadRow(6, "1 fields where the header has 2"),
        BadRow(7, "3 fields where the header has 2"),
        BadRow(8, "image_url begins with ftp: where only http, https and s3 are fetched"),
        ImportRow("last.jpg", "D"),
    ]


def test_quoted_line_ends_keep_the_line_numbers_right(read):
    rows = read(f'\nnote,image_url\r\n"two\r\nlines, ""quoted""",{URL}\r\n"three\n\nlines",\r\nx,none\r\n')
    assert rows == [
        ImportRow(URL),
        BadRow(5, "image_url is missing (up to line 7: is a quote left open?)"),
        BadRow(8, "image_url is neither a URL nor the name of a file"),
    ]


def test_line_separators_inside_a_field_do_not_end_the_line(read):
    assert read("image_url,sku_id\na\u2028b\x0b.jpg,A\nc\u2028\x85.jpg,B\n")[1] == ImportRow("c\u2028\x85.jpg", "B")


def test_a_quote_that_is_never_closed_costs_its_own_rows_only(read):
    rows = read("note,image_url\n" + f'"open,{URL}\n' + "x,a.jpg\n" * 20_000 + "x,last.jpg\n")
    assert isinstance(rows[0], BadRow)
    assert rows[0].line == 2
    assert "field larger than field limit" in rows[0].reason
    assert "is a quote left open?" in rows[0].reason
    assert rows[-1] == ImportRow("last.jpg")
    assert len(rows) > 3000


@pytest.mark.parametrize(
    ("mark", "written", "given"),
    [
        (b"", "utf-8", None),
        (b"\xef\xbb\xbf", "utf-8", None),
        (b"\xff\xfe", "utf-16-le", None),
        (b"\xfe\xff", "utf-16-be", None),
        (b"", "cp1252", "cp1252"),
        (b"", "utf-16-be", "utf-16-be"),
        (b"\xff\xfe", "utf-16-le", "utf-16"),
        (b"\xef\xbb\xbf", "utf-8", "utf-8"),
    ],
)
@pytest.mark.parametrize("name", ["images.csv", "images.json"])
def test_encodings_are_known_by_their_mark_or_given(read, name, mark, written, given):
    text = "image_url\né.jpg" if name.endswith(".csv") else '[{"image_url": "é.jpg"}]'
    assert read(mark + text.encode(written), name, encoding=given) == [ImportRow("é.jpg")]


@pytest.mark.parametrize("line", [2, 3000, 9000])
def test_a_row_that_is_not_in_utf_8_is_a_bad_one_that_says_what_to_give(read, line):
    lines = ["image_url", *(f"file name {number}.jpg" for number in range(2, 10_000))]
    lines[line - 1] = "é.jpg"
    rows = read("\n".join(lines).encode("cp1252"))
    assert len(rows) == len(lines) - 1
    [bad] = [row for row in rows if isinstance(row, BadRow)]
    assert (bad.line, "--encoding cp1252" in bad.reason) == (line, True)


def test_what_is_not_imported_may_be_in_any_encoding(read):
    assert read("größe,image_url\nweiß,a.jpg".encode("cp1252")) == [ImportRow("a.jpg")]
    assert read('[{"image_url": "a.jpg", "farbe": "weiß"}]'.encode("cp1252"), "images.json") == [ImportRow("a.jpg")]


def test_another_encoding_than_the_one_that_is_given_is_an_error_that_names_the_line(read):
    with pytest.raises(ImportFileError, match=r"Line 2 of images.csv is not in the encoding ascii") as caught:
        read("image_url\né.jpg", encoding="ascii")
    assert "rows that are in the catalogue already are skipped" in str(caught.value)


def test_a_utf_16_file_that_is_cut_in_half_a_character_names_the_line(read):
    with pytest.raises(ImportFileError, match=r"Line 3 of images\.csv is not in the encoding utf-16-le"):
        read("image_url\na.jpg\nb.jpg".encode("utf-16")[:-1])


def test_an_encoding_that_does_not_exist_says_so(read):
    with pytest.raises(ImportFileError, match="There is no encoding 'utf-9'"):
        read("image_url\n", encoding="utf-9")


def test_a_file_without_lines_is_refused_before_it_fills_the_memory(read):
    with pytest.raises(ImportFileError, match=r"Line 2 of images\.csv has more than 1048576 characters"):
        read("image_url\n" + "x" * (1 << 21))


@given(st.lists(st.tuples(NOTE, st.booleans()), max_size=8), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]))
def test_no_text_in_another_column_disturbs_rows_or_line_numbers(tmp_path_factory, notes, mark, end):
    path = tmp_path_factory.getbasetemp() / "notes.csv"
    expected = []
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerow(["note", "image_url", "temple_id"])
        for note, is_good in notes:
            file.flush()
            line = len(re.findall("\r\n|\r|\n", path.read_bytes().decode())) + 1
            writer.writerow([note, URL if is_good else "ftp://h/x.jpg", "T"])
            expected.append(ImportRow(URL, temple_id="T") if is_good else line)
    rows = read_csv(path, Columns())
    assert [row if isinstance(row, ImportRow) else row.line for row in rows] == expected


# --- JSON -------------------------------------------------------------------------------------------------------------

ITEMS = [{"image_url": URL, "sku_id": "A"}, {"image_url": "b.jpg", "extra": [1, {"x": None}]}]
ROWS = [ImportRow(URL, "A"), ImportRow("b.jpg")]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ITEMS),
        json.dumps(ITEMS, indent=2),
        json.dumps({"images": ITEMS}),
        json.dumps({"images": ITEMS, "total": 2}, indent="\t"),
        "\n".join(map(json.dumps, ITEMS)),
        "\r\n\r\n".join(map(json.dumps, ITEMS)) + "\r\n",
        "\ufeff" + json.dumps(ITEMS),
    ],
)
def test_lists_images_objects_and_lines_are_read_alike(read, text):
    assert read(text, "images.json") == ROWS


def test_an_empty_list_has_no_rows(read):
    assert read("[]", "images.json") == []


def test_other_keys_can_be_given(read):
    assert read('[{"link": "a.jpg", "article": 5}]', "i.json", Columns("link", "article")) == [ImportRow("a.jpg", "5")]


def test_bad_items_of_a_list_are_reported_by_line_and_the_good_ones_kept(read):
    rows = read(
        '[\n  {"image_url": "a.jpg"},\n  {\n    "image_url": null\n  },\n  17,\n  "x.jpg", [], null,\n'
        '  {"image_url": "b.jpg", "sku_id": 1.5}, {"sku": 1},\n  {"image_url": "\\ud800.jpg"},\n'
        '  {"image_url": "c.jpg"}\n]\n',
        "images.json",
    )
    assert rows == [
        ImportRow("a.jpg"),
        BadRow(3, "image_url is missing"),
        BadRow(6, "int where an object belongs"),
        BadRow(7, "str where an object belongs"),
        BadRow(7, "list where an object belongs"),
        BadRow(7, "NoneType where an object belongs"),
        BadRow(8, "sku_id is a float, not a text"),
        BadRow(8, "image_url is missing"),
        BadRow(9, "image_url has a line break, a control character or half a surrogate pair"),
        ImportRow("c.jpg"),
    ]


def test_a_bad_line_of_json_lines_is_reported_and_the_good_ones_kept(read):
    rows = read('{"image_url": "a.jpg"}\n{"image_url": "b.jpg"\n\n[1]\n{"image_url": "c.jpg"}\n', "images.json")
    assert [row.image_url for row in rows if isinstance(row, ImportRow)] == ["a.jpg", "c.jpg"]
    assert [(row.line, row.reason) for row in rows if isinstance(row, BadRow)] == [
        (2, "not valid JSON: Expecting ',' delimiter"),
        (4, "list where an object belongs"),
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "is empty"),
        ('[{"image_url": "a.jpg"}', "line 1 of images.json is not valid JSON: .*rows that are in the catalogue"),
        ('[\n{"image_url": "a.jpg"},\n{"image_url": ', "begins on line 3 of images.json is not valid JSON"),
        ("[\n1,\n2\n,x]", "begins on line 4 of images.json is not valid JSON: Expecting value"),
        ("[1]\n[2]", "Something follows the list that ends on line 1"),
        ("[" * 100_000, "not valid JSON: .*recursion"),
        ('{"total": 2, "images": []}', "with that key first"),
        ('{\n  "image_url": "a.jpg"\n}', "nor an object on each line"),
        ("image_url\na.jpg\n", "neither a JSON list of objects"),
        ("17", "neither a JSON list of objects"),
    ],
)
def test_what_is_not_such_json_is_an_error_that_says_where(read, text, error):
    with pytest.raises(ImportFileError, match=error):
        read(text, "images.json")


def test_an_item_that_is_far_too_long_is_refused_before_it_fills_the_memory(read):
    with pytest.raises(
        ImportFileError, match=r"begins on line 1 of images\.json is not valid JSON: Unterminated string"
    ):
        read('["' + "x" * (1 << 23) + '"]', "images.json")


@settings(max_examples=50)
@given(st.lists(st.integers(0, 70_000), max_size=6), st.integers(0, 20), st.sampled_from([None, 1]))
def test_items_are_whole_wherever_a_block_ends(tmp_path_factory, lengths, shift, indent):
    path = tmp_path_factory.getbasetemp() / "blocks.json"
    items = [{"image_url": "a.jpg", "pad": "é" * (length + shift), "n": length} for length in lengths] + [12345678]
    path.write_text(json.dumps(items, indent=indent, ensure_ascii=False), encoding="utf-8")
    rows = list(read_json(path, Columns(sku_id="n")))
    assert [row.sku_id for row in rows if isinstance(row, ImportRow)] == [str(length) for length in lengths]
    assert isinstance(rows[-1], BadRow)
    assert len(rows) == len(items)


def test_a_number_that_lies_over_two_blocks_is_one_item(read):
    assert len(read("[" + ",".join(["12345678"] * 20_000) + "]", "images.json")) == 20_000


@pytest.mark.parametrize("form", ["csv", "list", "lines"])
def test_memory_does_not_grow_with_the_file(tmp_path, form):
    path = tmp_path / f"images.{'csv' if form == 'csv' else 'json'}"
    with path.open("w") as file:
        file.write({"csv": "image_url,sku_id\n", "list": "[", "lines": ""}[form])
        for number in range(10_000):
            url = f"https://cdn.example.com/{'x' * 400}/{number}.jpg"
            item = json.dumps({"image_url": url, "sku_id": f"S{number}"})
            file.write({"csv": f"{url},S{number}\n", "list": f"{',' * bool(number)}{item}", "lines": f"{item}\n"}[form])
        file.write("]" if form == "list" else "")
    reader = read_csv if form == "csv" else read_json
    tracemalloc.start()
    try:
        assert sum(isinstance(row, ImportRow) for row in reader(path, Columns())) == 10_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 4_000_000
    assert peak < 1_500_000
