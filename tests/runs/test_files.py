"""Files that are replaced as a whole or appended to in one piece, and what is read from them."""

import io
import os
import time

import pytest

from decouple.runs.files import (
    append_whole,
    csv_lines,
    csv_rows,
    file_text,
    json_bytes,
    markdown_lines,
    naming_file,
    read_json,
    read_yaml,
    replace_file,
    reserve_file,
)


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "result.json"
    replace_file(path, b"old and longer")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_before_the_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    replace_file(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*result\.json"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_processes_replace_one_file_and_the_last_ones_stays(tmp_path, monkeypatch):
    path, replace = tmp_path / "result.json", os.replace

    def meanwhile(old, new):
        monkeypatch.setattr(os, "replace", replace)
        replace_file(path, b"the other's, and longer")
        assert path.read_bytes() == b"the other's, and longer"
        replace(old, new)

    monkeypatch.setattr(os, "replace", meanwhile)
    replace_file(path, b"ours")
    assert path.read_bytes() == b"ours"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_has_left_is_removed_by_a_later_replacement(tmp_path):
    path = tmp_path / "result.json"
    killed, of_old_version = tmp_path / ".result.json.12-abcdef01.tmp", tmp_path / ".result.json.tmp"
    at_work, other = tmp_path / ".result.json.13-abcdef01.tmp", tmp_path / ".other.json.12-abcdef01.tmp"
    for file in (killed, of_old_version, at_work, other):
        file.write_bytes(b"half")
    for file in (killed, of_old_version, other):
        os.utime(file, (before := time.time() - 4000, before))
    replace_file(path, b"new")
    assert set(tmp_path.iterdir()) == {path, at_work, other}


def test_a_file_that_is_reserved_has_its_size_and_what_it_held(tmp_path, monkeypatch):
    path = tmp_path / "rows"
    reserve_file(path, 10)
    path.write_bytes(b"ten bytes.")
    reserve_file(path, 20)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    reserve_file(path, 30)
    reserve_file(path, 5)
    assert path.read_bytes() == b"ten bytes." + bytes(20)


def test_a_missing_folder_is_told_with_the_path(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"path must lie in a folder that is there; got: .*missing/x'"
    ) as caught:
        replace_file(tmp_path / "missing" / "x", b"")
    assert caught.value.filename == str(tmp_path / "missing" / "x")


class Slow(io.FileIO):
    """Takes two bytes at a time, as many times as it has room for."""

    room = 100

    def write(self, content):
        if self.room == 0:
            raise OSError(28, "No space left on device")
        self.room -= 1
        return super().write(bytes(content[:2]))


def test_what_is_appended_is_there_whole_or_not_at_all(tmp_path):
    with Slow(tmp_path / "table", "ab") as file:
        append_whole(file, b"1,2,3\n")
        assert (tmp_path / "table").read_bytes() == b"1,2,3\n"
        file.room = 2
        with pytest.raises(OSError, match="No space left"):
            append_whole(file, b"4,5,6\n")
        assert (tmp_path / "table").read_bytes() == b"1,2,3\n"


def test_an_error_without_a_file_gets_its_name_and_others_stay():
    with pytest.raises(OSError, match="full: 'here'") as caught, naming_file("here"):
        raise OSError(28, "full")
    assert (caught.value.errno, caught.value.filename) == (28, "here")
    for error in (OSError(2, "none", "there"), OSError("no number")):
        with pytest.raises(OSError) as same, naming_file("here"):
            raise error
        assert same.value is error


def test_csv_comes_back_cell_by_cell_and_lacks_no_column(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(csv_lines([["a", "b"], ['comma, "quote"', "two\nlines"], [1, None]]))
    assert path.read_bytes() == b'a,b\n"comma, ""quote""","two\nlines"\n1,\n'
    assert csv_rows(path, "a", "b") == [{"a": 'comma, "quote"', "b": "two\nlines"}, {"a": "1", "b": ""}]
    with pytest.raises(ValueError, match=r"columns a, c; got .*table\.csv"):
        csv_rows(path, "a", "c")


def test_a_bar_in_a_cell_does_not_end_it():
    assert markdown_lines([["size"], ["|4|"]]) == "| size |\n|---|\n| \\|4\\| |"


def test_json_and_yaml_come_back(tmp_path):
    record = {"frames": 1000, "name": "Grüße", "failed": None, "seeds": [0, 1]}
    assert json_bytes({"frames": 1, "name": "ü"}) == '{\n  "frames": 1,\n  "name": "ü"\n}\n'.encode()
    replace_file(tmp_path / "record.json", json_bytes(record))
    assert read_json(tmp_path / "record.json") == record
    assert read_json(tmp_path / "none.json") == {}
    (tmp_path / "config.yaml").write_text("lr: 0.5\n")
    assert read_yaml(tmp_path / "config.yaml") == {"lr": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf{}", "byte-order mark"),
        (b"{\xff}", "byte 1 is 0xff"),
        (b"{", "must be whole"),
        (b"3", "must hold"),
    ],
)
def test_what_cannot_be_read_is_told_by_the_files_name(tmp_path, content, message):
    path = tmp_path / "record"
    path.write_bytes(content)
    for read in (read_json, read_yaml):
        with pytest.raises(ValueError, match=f"{path}.*{message}"):
            read(path)


def test_text_is_that_of_the_content_alone(tmp_path):
    assert file_text(tmp_path / "missing", "ä\r\n".encode()) == "ä\r\n"
