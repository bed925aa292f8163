from benchmarks import background_threshold


def test_every_threshold_is_scored_and_the_words_after_them(tmp_path, monkeypatch, capsys):
    quick = tmp_path / "quick.yaml"  # one prompt a word
    quick.write_text(f"_BASE_: {background_threshold.CONFIG}\nMODEL:\n  CLIP:\n    TEMPLATES: none\n")
    monkeypatch.setattr(background_threshold, "CONFIG", quick)
    background_threshold.main(["--images", "2", "--thresholds", "0.01", "0.99"])
    low, high, words = capsys.readouterr().out.splitlines()
    assert low.startswith("threshold 0.01")
    assert words.startswith("words")
    assert low.split("mIoU")[1] != high.split("mIoU")[1]
