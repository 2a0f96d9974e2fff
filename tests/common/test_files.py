"""Outputs are whole or absent, also when a process is killed while it writes."""

import os

import pytest

from cyclescan.common import files
from cyclescan.common.errors import InputError


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_and_a_folder_are_replaced(tmp_path, durable):
    for content in ("one", "two"):
        files.write_text(tmp_path / "file", content, durable)
        with files.replacing(tmp_path / "folder", durable) as temporary:
            (temporary / "sub").mkdir(parents=True)
            (temporary / "sub" / "file").write_text(content)
        assert (tmp_path / "file").read_text() == content
        assert (tmp_path / "folder/sub/file").read_text() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_durable_waits_for_content_then_name(tmp_path, monkeypatch):
    """Every file and folder of the output before it has its name, the folder that holds the name afterwards."""
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    with files.replacing(tmp_path / "out", durable=True) as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("content")
    assert synced == [str(temporary / "file"), str(temporary), str(tmp_path)]
    synced.clear()
    files.write_text(tmp_path / "plain", "")
    assert synced == []


def test_recover_puts_right_what_killed_processes_left(tmp_path):
    (tmp_path / ".0123abcd.tmp.half").mkdir()
    (tmp_path / ".0123abcd.tmp.half" / "file").write_text("")
    (tmp_path / ".0123abcd.tmp.config.json").write_text("{")
    (tmp_path / ".0123abcd.old.lost").mkdir()
    (tmp_path / ".0123abcd.old.lost" / "file").write_text("kept")
    (tmp_path / ".0123abcd.old.there").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / ".hidden").write_text("of the user")
    (tmp_path / ".0123.tmp.other").write_text("of another program")
    files.recover(tmp_path, "there")
    assert len(list(tmp_path.iterdir())) == 6
    files.recover(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".0123.tmp.other", ".hidden", "lost", "there"]
    assert (tmp_path / "lost" / "file").read_text() == "kept"


def test_a_folder_is_held_by_one(tmp_path):
    with files.alone_in(tmp_path, "busy"):
        with pytest.raises(InputError, match="busy"), files.alone_in(tmp_path, "busy"):
            pass
    with files.alone_in(tmp_path, "busy"):
        pass


def test_what_is_not_the_writers_own_is_refused(tmp_path):
    def is_ours(path):
        return files.begins_with(path, "volume,mae") or files.states(path, "notice", "step")

    for name, text in (("table.csv", "volume,mae,psnr\n"), ("facts.json", '{"notice": "x", "step": 3}'), ("empty", "")):
        (tmp_path / name).write_text(text)
        files.refuse_foreign(tmp_path / name, is_ours, "result")
    files.refuse_foreign(tmp_path / "new", is_ours, "result")
    others = {
        "a.csv": "volume,ma",
        "b.json": '{"notice": "x"}',
        "c.json": '["notice", "step"]',
        "d.json": "{",
        "e": "\0",
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name} exists and is no result, so it is not replaced"):
            files.refuse_foreign(tmp_path / name, is_ours, "result")
    with pytest.raises(InputError, match="is a folder"):
        files.refuse_foreign(tmp_path, lambda path: True, "result")
