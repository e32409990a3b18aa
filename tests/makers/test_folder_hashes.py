"""Hashes of what a code left in its folder."""

import hashlib
import os

from dao_flows.makers.machine.folder_hashes import entry_hash, folder_hashes


def test_files_links_and_what_is_neither(tmp_path):
    (tmp_path / "outdata").mkdir()
    (tmp_path / "outdata" / "out_WFK").write_bytes(os.urandom(3 * 2**20 + 7))
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "there").symlink_to("outdata")
    os.mkfifo(tmp_path / "pipe")
    found = folder_hashes(tmp_path)
    whole = hashlib.sha256((tmp_path / "outdata" / "out_WFK").read_bytes()).hexdigest()
    assert found == {
        "outdata/out_WFK": whole,
        "empty": hashlib.sha256().hexdigest(),
        "link": "link to empty",
        "there": "link to outdata",
    }
    assert entry_hash(tmp_path / "pipe") is None


def test_names_of_any_bytes(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.out")).write_text("x")
    (name,) = folder_hashes(tmp_path)
    name.encode()
