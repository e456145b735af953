from xdc_tf import files


def test_writing_text_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "report.json"
    files.write_text(str(path), "old")
    files.write_text(str(path), "new, with ä")
    assert path.read_text(encoding="utf-8") == "new, with ä"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
