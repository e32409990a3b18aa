"""Archives that mean harm, or were damaged, are refused with one line before a byte of them is unpacked."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable

import pytest

from dao_flows.crate.archive import MIB, MOMENT, Archive, CrateError, Limits, limits, write_archive
from dao_flows.errors import SettingsError

SMALL = Limits(members=20, document_mib=1, file_mib=2, total_mib=3)


def zipped(*members: tuple[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None, **options) -> bytes:
    """An archive of these members; `change` may make the last one's entry lie."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for number, (name, content) in enumerate(members):
            info = zipfile.ZipInfo(name, MOMENT)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change is not None and number == len(members) - 1:
                change(info)
            archive.writestr(info, content)
    return buffer.getvalue()


def opened(data: bytes, bounds: Limits = SMALL) -> Archive:
    return Archive(io.BytesIO(data), "x.zip", bounds)


def one_line(error: pytest.ExceptionInfo[CrateError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.startswith("x.zip")
    return text


def test_what_was_written_is_read(tmp_path):
    large = tmp_path / "weights"
    large.write_bytes(bytes(range(256)) * 5000)
    path = tmp_path / "x.zip"
    write_archive(path, {"b/c.json": b"{}", "a.json": b"[1]", "w.safetensors": large}, lambda file: None)
    with path.open("rb") as file:
        archive = Archive(file, "x.zip", SMALL)
        assert archive.sizes == {"a.json": 3, "b/c.json": 2, "w.safetensors": 1_280_000}
        assert archive.read("a.json") == b"[1]"
        assert b"".join(archive.stream("w.safetensors")) == large.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_same_members_give_the_same_bytes(tmp_path):
    members = {"a.json": b"[1]" * 1000, "b.json": b"{}"}
    for name, content in (("1.zip", members), ("2.zip", dict(reversed(members.items())))):
        write_archive(tmp_path / name, content, lambda file: None)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_nothing_is_left_of_an_archive_that_is_not_finished(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"what was there")

    def refuse(file):
        assert zipfile.is_zipfile(file)
        raise CrateError("no")

    with pytest.raises(CrateError):
        write_archive(path, {"a.json": b"[1]"}, refuse)
    with pytest.raises(FileNotFoundError):
        write_archive(path, {"a.json": tmp_path / "missing"}, lambda file: None)
    assert [file.name for file in tmp_path.iterdir()] == ["x.zip"]
    assert path.read_bytes() == b"what was there"


@pytest.mark.parametrize(
    "name",
    [
        "../a.json",
        "a/../../b.json",
        "/etc/a.json",
        "..\\a.json",
        "a\\..\\..\\b.json",
        "\\a.json",
        "C:/a.json",
        "c:a.json",
        "..",
    ],
)
def test_names_that_climb_out(name):
    with pytest.raises(CrateError, match=r"climbs out of the archive") as error:
        opened(zipped(("a.json", b"{}"), (name, b"{}")))
    one_line(error)


@pytest.mark.parametrize(
    "name",
    [
        "a\\b.json",
        "./a.json",
        "a//b.json",
        "a/./b.json",
        ".hidden",
        "a/.hidden",
        "-rf",
        "a b.json",
        "é.json",
        "a\n.json",
        "a\x1b[2J.json",
        "a" * 201,
        "a;b.json",
        "CON:",
        "a\u202e.json",
    ],
)
def test_names_that_no_crate_uses(name):
    with pytest.raises(CrateError, match=r"has a name that no crate uses") as error:
        opened(zipped(("a.json", b"{}"), (name, b"{}")))
    assert "\x1b" not in one_line(error)


def test_a_name_with_a_nul():
    data = zipped(("a.json", b"{}"), ("bXc.json", b"{}")).replace(b"bXc.json", b"b\0c.json")
    with pytest.raises(CrateError, match="no crate uses"):
        opened(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_collide():
    with pytest.raises(CrateError, match=r"'a\.json' is there twice"):
        opened(zipped(("a.json", b"{}"), ("a.json", b"[]")))
    with pytest.raises(CrateError, match=r"'A.json' differs from 'a.json' in case alone"):
        opened(zipped(("a.json", b"{}"), ("A.json", b"[]")))
    with pytest.raises(CrateError, match="is a file and a folder"):
        opened(zipped(("a", b"{}"), ("a/b.json", b"[]")))
    with pytest.raises(CrateError, match="is a file and a folder"):
        opened(zipped(("A", b"{}"), ("a/b/c.json", b"[]")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
@pytest.mark.parametrize("system", [0, 3])
def test_special_files(kind, system):
    def change(info):
        info.create_system, info.external_attr = system, (kind | 0o777) << 16

    with pytest.raises(CrateError, match="is a link or another special file"):
        opened(zipped(("a.json", b"../../etc/passwd"), change=change))


def test_folders_are_passed_over_unless_they_hold_something():
    assert opened(zipped(("a/", b""), ("a/b.json", b"{}"))).sizes == {"a/b.json": 2}
    with pytest.raises(CrateError, match="is a folder with content"):
        opened(zipped(("a/", b"content")))


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    """The archive with a field of its last directory entry overwritten."""
    at = data.rindex(b"PK\x01\x02") + offset
    return data[:at] + struct.pack(layout, value) + data[at + struct.calcsize(layout) :]


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_encrypted_members(flag):
    with pytest.raises(CrateError, match=r"'a\.json' is encrypted"):
        opened(patched(zipped(("a.json", b"{}")), 8, "<H", flag))


@pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 97])
def test_other_ways_of_packing(method):
    with pytest.raises(CrateError, match=r"other than deflate|damaged"):
        opened(patched(zipped(("a.json", b"{}")), 10, "<H", method))


def test_a_zip_bomb():
    with pytest.raises(CrateError, match="zip bomb"):
        opened(zipped(("a.json", bytes(2 * MIB))))
    with pytest.raises(CrateError, match=r"'a.json' has 3 MiB; DAO_FLOWS_CRATE_FILE_MIB allows 2"):
        opened(zipped(("a.json", bytes(3 * MIB))))


def test_a_document_may_not_be_as_large_as_a_file():
    import random

    archive = opened(zipped(("a.json", random.Random(0).randbytes(MIB + 1))))
    with pytest.raises(CrateError, match="DAO_FLOWS_CRATE_DOCUMENT_MIB allows 1"):
        archive.read("a.json")


def test_all_members_together_are_limited():
    import random

    content = random.Random(0).randbytes(MIB)
    with pytest.raises(CrateError, match="unpacks to 4 MiB; DAO_FLOWS_CRATE_TOTAL_MIB allows 3"):
        opened(zipped(*((f"{n}.json", content) for n in range(4))))


def test_too_many_members():
    with pytest.raises(CrateError, match="21 members; DAO_FLOWS_CRATE_MEMBERS allows 20"):
        opened(zipped(*((f"{n}.json", b"") for n in range(21))))
    data = zipped(*((f"{n:0150}.json", b"") for n in range(60)))
    with pytest.raises(CrateError, match="more members than"):  # before zipfile reads the directory
        opened(data[:-12] + struct.pack("<H", 5) + data[-10:])


def test_a_size_that_is_not_true_is_found():
    content = b"0123456789" * 100
    for declared in (999, 1001, 10):
        archive = opened(patched(zipped(("a.json", content)), 24, "<L", declared))
        with pytest.raises(CrateError, match=r"is damaged at 'a\.json'"):
            archive.read("a.json")


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x05\x06" + bytes(10), b"no archive at all" * 10])
def test_what_is_no_archive(data):
    with pytest.raises(CrateError, match="no zip archive"):
        opened(data)


def test_an_archive_that_is_cut_or_goes_on():
    data = zipped(("a.json", b"{}"), ("b.json", b"{}"))
    for end in range(len(data)):
        with pytest.raises(CrateError):
            opened(data[:end])
    with pytest.raises(CrateError, match="something behind its end"):
        opened(data + b"#!/bin/sh")


def test_limits_are_settings(monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_CRATE_MEMBERS", "3")
    assert limits().members == 3
    monkeypatch.setenv("DAO_FLOWS_CRATE_MEMBERS", "no")
    with pytest.raises(SettingsError, match="DAO_FLOWS_CRATE_MEMBERS"):
        limits()
