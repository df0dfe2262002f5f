import pytest

from data_prep.tables import read_list, read_table
from medcolor_tf.errors import InputError


def write(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'a,b\n1,"x, y"\n'),
        ("t.tsv", "a\tb\n1\tx, y\n"),
        ("t.txt", "a;b\n1;x, y\n"),
        ("t.csv", b'\xef\xbb\xbfa,b\r\n1,"x, y"\r\n\r\n'),
    ],
)
def test_delimiters_quotes_and_byte_order_mark(tmp_path, name, content):
    table = read_table(write(tmp_path, content, name), ("b", "a"))
    assert table.columns["a"].tolist() == ["1"]
    assert table.columns["b"].tolist() == ["x, y"]


def test_lines_are_those_of_the_file(tmp_path):
    table = read_table(write(tmp_path, 'a,b\n1,"two\nlines"\n\n3,x\n'), ("a",))
    assert table.lines.tolist() == [3, 5]
    assert table.where(1).endswith("t.csv line 5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty file"),
        ("a,b\n", "a header but no rows"),
        ("a,c\n1,2\n", r"no column 'b'.*the file has 'a', 'c'"),
        ("a,b,b\n1,2,3\n", "2 columns are called 'b'"),
        ("a,b\n1,2\n1\n", r"line 3: expected 2 cells as in the header, got 1"),
        ("a,b\n1,2,3\n", r"line 2: expected 2 cells as in the header, got 3"),
        (b"a,b\n\xff\xfe,2\n", "not a UTF-8 text file"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not a UTF-8 text file .*expected a table with commas"),
        ('a,b\n1,"2\n3,4\n5,6\n', r"line 4: not a table \(unexpected end of data\)"),
        ('a,b\n"1"x,2\n', r"line 2: not a table \(',' expected after '\"'\)"),
        ('a,b\n1,"2\n3,4"\n', r"line 3: the cell of column 'b' has a line break in it"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path, content), ("a", "b"))


def test_missing_file_and_empty_list(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv", ("a",))
    with pytest.raises(InputError, match="empty file"):
        read_list(write(tmp_path, "\n"))


def test_near_column_is_suggested(tmp_path):
    with pytest.raises(InputError, match="did you mean 'Pleural Effusion'"):
        read_table(write(tmp_path, "Pleural Effusion,x\n1,2\n"), ("Pleural effusion",))
