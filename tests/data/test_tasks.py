import pytest

from san_cliptrase.data.tasks import Task, map_files, run_tasks
from san_cliptrase.errors import DataError


def copy(source, target):
    if source.stem == "7":
        raise DataError(f"{source} is damaged")
    target.write_text(source.read_text())


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_write_what_is_missing_and_tell_of_bad_sources(tmp_path, workers):
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(str(number))
    tasks = [Task(tmp_path / f"{n}.txt", tmp_path / "out" / f"{n}.txt", copy) for n in range(40)]
    tasks[3].target.parent.mkdir()
    tasks[3].target.write_text("was there")
    written, problems = run_tasks(tasks, "test", workers)
    assert written == 38
    assert problems == [f"{tmp_path / '7.txt'} is damaged"]
    assert not tasks[7].target.exists()
    assert [tasks[n].target.read_text() for n in (3, 39)] == ["was there", "39"]


def test_results_come_in_order_from_several_processes():
    assert list(map_files(abs, range(-50, 0), "test", 2)) == list(range(50, 0, -1))


def test_what_a_killed_process_left_is_cleared_when_its_file_is_written(tmp_path):
    dead = 2**22 + 1  # Linux numbers no process so high
    (tmp_path / "source").write_text("whole")
    (tmp_path / f".unfinished-{dead}-a[1].png").write_text("half")
    (tmp_path / f".unfinished-{dead}-b.png").write_text("half")
    assert run_tasks([Task(tmp_path / "source", tmp_path / "a[1].png", copy)], "copying", 1) == (1, [])
    assert {path.name for path in tmp_path.iterdir()} == {"source", f".unfinished-{dead}-b.png", "a[1].png"}
