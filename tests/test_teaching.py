"""Every notebook says how long it takes and how to teach it, and the paths fit their time."""

import json
import re
from pathlib import Path

import pytest

from dsmem import teaching

ROOT = Path(__file__).resolve().parents[1]
LESSONS = {each.number: each for each in teaching.lessons()}
every_lesson = pytest.mark.parametrize("lesson", LESSONS.values(), ids=lambda lesson: lesson.number)


def test_every_notebook_is_a_lesson():
    assert list(LESSONS) == [path.stem[:2] for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]


@every_lesson
def test_notes_say_something(lesson):
    assert 10 <= lesson.minutes <= 90 and 0 <= lesson.exercises <= 30
    assert all(number in LESSONS and number < lesson.number for number in lesson.needs)
    assert all(40 <= len(words) <= 600 and words.endswith(".") for words in (lesson.say, lesson.stumble, lesson.skip))


@every_lesson
def test_the_notebook_promises_the_same_minutes(lesson):
    [path] = (ROOT / "notebooks").glob(f"{lesson.number}_*.ipynb")
    texts = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    need = texts[0].partition("What you'll need.")[2]
    assert lesson.minutes == int(re.search(r"(\d+) minutes", need)[1])
    assert lesson.exercises == int(re.search(r"(\d+) more for the exercise", need)[1])
    headings = re.findall(r"^### \d+\. .* \((\d+) minutes, (?:easy|medium|hard)\)$", "\n".join(texts), re.MULTILINE)
    assert lesson.exercises == sum(map(int, headings))


@pytest.mark.parametrize("page", ["README.md", "notebooks/00_start_here.ipynb"])
def test_the_maps_tell_the_same_minutes(page):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\n", "\n")
    told = dict(re.findall(r"\| \[(\d\d) [^|]+\| [^|]+ \| (\d+) \|", text))
    assert {number: str(lesson.minutes) for number, lesson in LESSONS.items()}.items() <= ({"00": "50"} | told).items()


@pytest.mark.parametrize("path", teaching.PATHS)
def test_a_path_fits_its_time(path):
    minutes, numbers = teaching.PATHS[path]
    known = [LESSONS[number] for number in numbers if number in LESSONS]
    assert sum(lesson.minutes for lesson in known) <= minutes
    assert all(set(lesson.needs) <= set(numbers) for lesson in known)


def test_notes_that_lack_something_are_refused(tmp_path, refuses):
    (tmp_path / "00_x.ipynb").write_text(json.dumps({"metadata": {"teaching": {"minutes": 5}}, "cells": []}))
    refuses(lambda: teaching.lessons(tmp_path), "'exercises'", "00_x.ipynb")


def test_the_page_holds_every_note():
    page = teaching.page()
    assert all(lesson.title.split(":")[0] in page.replace("&#x27;", "'") for lesson in LESSONS.values())


def test_a_prompt_shows_every_note_and_path():
    text = " ".join(teaching.notes().split())
    words = [words for each in LESSONS.values() for words in (each.say, each.stumble, each.skip)]
    assert all(" ".join(each.split()) in text for each in words)
    assert all(f"{path}: 00" in text for path in teaching.PATHS)
