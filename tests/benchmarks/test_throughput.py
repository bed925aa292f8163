import json

from benchmarks import throughput


def test_every_setting_is_measured_against_one_by_one_and_gives_its_metrics(tmp_path, capsys):
    arguments = ["--images", "3", "--rounds", "1", "--batch", "1", "2", "--workers", "0", "--json"]
    throughput.main([*arguments, str(tmp_path / "report.json"), "MODEL.CLIP.TEMPLATES", "none"])
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["results"]) == [
        f"{model}, {data}"
        for model in ("cliptrase", "san_cliptrase")
        for data in ("scenes_one_size", "scenes_mixed_sizes")
    ]
    for rows in report["results"].values():
        assert [(row["batch"], row["workers"]) for row in rows] == [(1, 0), (2, 0)]
        assert rows[0]["times as fast"] == {"median": 1, "least": 1, "most": 1}
        assert all(row["metrics differ by"] < 0.05 for row in rows)
    assert "scenes_mixed_sizes" in capsys.readouterr().out
