"""What the page shows of films: predict's numbers, the reader's messages, nothing left behind."""

import base64
import csv
import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from serving_helpers import encode, make_run, pixels

from medcolor_tf.demo import main as demo_main
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.predict import PredictConfig
from medcolor_tf.runs import folder as runs
from medcolor_tf.runs.decision import Decision, ObservationDecision, save_decision
from medcolor_tf.serving import film, film_html, web
from medcolor_tf.serving.contract import NOTICE
from medcolor_tf.serving.predict import predict

pytestmark = pytest.mark.slow
EVIL = "<img src=x onerror=alert(1)>${x}`.png"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("film") / "run")


@pytest.fixture(scope="module")
def model(run_dir):
    return film.load_run_model(str(run_dir))


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    for i in range(2):
        (folder / f"film{i}.png").write_bytes(encode(pixels(40, 36, seed=i), "PNG"))
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_numbers_and_messages_are_those_of_predict(model, run_dir, films, tmp_path):
    answers = [model.answer(path) for path in sorted(films.iterdir())]
    out = tmp_path / "out.csv"
    assert predict(PredictConfig(str(run_dir), (str(films),), str(out))) == (3, 1)
    ours, theirs = rows_of(film.to_csv(answers, model)), rows_of(out.read_text())
    for our, their in zip(ours, theirs, strict=True):
        assert our["error"] == their["error"]
        assert our["warnings"] == their["warnings"]
        for name in model.spec.observations:
            if not our["error"]:
                assert float(our[name]) == pytest.approx(float(their[name]), abs=2e-6)
    assert [bool(answer.error) for answer in answers] == [True, False, False]
    captions = [caption.splitlines()[0] for caption, _ in answers[1].panels]
    assert captions == ["image", "colorized", "Edema", "Pleural Effusion"]
    assert answers[0].panels == ()


def test_a_decision_is_shown_and_written_as_predict_does(model, run_dir, films, tmp_path):
    entries = {
        "Edema": ObservationDecision(0.125, "platt", 0.5, -0.25, 9, 9),
        "Pleural Effusion": ObservationDecision(None, reason="too few"),
    }
    data = {"name": "d", "fingerprint": "f", "split": "valid", "uncertain_policy": {}}
    data |= {"images": 18, "patients": 18}
    digests = runs.weights_digests(run_dir)
    decision = Decision("evaluate", "youden", "best", 7, digests, data, entries)
    save_decision(decision, tmp_path / "other")
    file = str(tmp_path / "other" / runs.DECISION)
    decided = film.load_run_model(str(run_dir), decision=file)
    assert ("decision", decision.describe()) in decided.card
    answers = [decided.answer(path) for path in sorted(films.iterdir())]
    first, second = answers[1].findings
    chance = first.probability
    expected = sigmoid(0.5 * np.log(chance / (1 - chance)) - 0.25)
    assert first.calibrated == pytest.approx(expected, abs=1e-5)
    word = "positive" if expected >= 0.125 else "negative"
    assert (first.threshold, first.decision) == (0.125, word)
    assert (second.threshold, second.decision) == (None, "")
    assert second.calibrated is None, "nothing was changed in it"
    captions = [caption for caption, _ in answers[1].panels]
    assert ["calibrated" in caption for caption in captions] == [False, False, True, False]
    page = film_html.answers_html(decided, answers[1:2])
    assert f"<td>{word}</td>" in page
    assert "12.5 %" in page
    assert "undecided" in page

    out = tmp_path / "out.csv"
    predict(PredictConfig(str(run_dir), (str(films),), str(out), decision=file))
    ours, theirs = rows_of(film.to_csv(answers, decided)), rows_of(out.read_text())
    assert [*ours[0]] == [name for name in theirs[0] if name not in ("colorized", "explained")]
    for name in ("decision Edema", "decision Pleural Effusion"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    assert float(ours[1]["calibrated Edema"]) == pytest.approx(
        float(theirs[1]["calibrated Edema"]), abs=2e-6
    )


def test_no_name_becomes_code_or_a_formula(model, tmp_path):
    (tmp_path / "x").write_bytes(b"no image")
    answers = [model.answer(tmp_path / "x", EVIL), model.answer(tmp_path / "x", "=1+1")]
    page = film_html.answers_html(model, answers)
    assert "<img src=x" not in page
    assert "${" not in page
    assert "`" not in page
    (content,) = re.findall(r"href='data:text/csv;charset=utf-8;base64,([^']+)'", page)
    rows = rows_of(base64.b64decode(content).decode())
    assert [row["path"] for row in rows] == [EVIL, "'=1+1"]


def test_uploads_are_gone_once_they_are_answered(model, films, tmp_path, monkeypatch):
    outside = tmp_path / "outside.png"
    outside.write_bytes(encode(pixels(40, 36), "PNG"))
    paths = [str(path) for path in sorted(films.iterdir())]
    page = web.answer_files(model, [*paths, str(outside)], films)
    assert "3 films" in page
    assert "outside" not in page  # nothing but uploads is read
    assert outside.is_file()
    assert not films.is_dir() or not any(films.iterdir())

    def fail(*args, **more):
        raise RuntimeError("of a model")

    films.mkdir(exist_ok=True)
    (films / "film.png").write_bytes(b"x")
    broken = SimpleNamespace(answer=fail)
    with pytest.raises(RuntimeError):
        web.answer_files(broken, [str(films / "film.png")], films)  # pyright: ignore
    assert not (films / "film.png").exists()


def test_the_card_names_no_folder(model, run_dir):
    text = film_html.card_html(model)
    assert "Edema, Pleural Effusion" in text
    assert str(run_dir) not in text
    assert str(run_dir.parent.name) not in text
    assert NOTICE in film_html.notice_html()


def test_flags_that_cannot_be_met(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    multi = make_run(tmp_path / "multi", channels=2, colorizer="none")
    for words, message in (
        ((), "expected one of --run_dir (a run folder) and --model"),
        (("--run_dir=a", "--model=b"), "received both"),
        (("--model=a", "--decision=none"), "--decision goes with --run_dir"),
        (("--run_dir=a", "--port=70000"), "--port=70000: expected 0 to 65535"),
        (("--run_dir=a",), "a/model.json: no such file; expected a run folder"),
        (("--model=a",), "--model=a: no assets.extra/model.json in it; expected the folder"),
        ((f"--run_dir={multi}",), "the model takes 2 channels; expected one of 1"),
    ):
        assert demo_main(list(words)) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert demo_main([f"--run_dir={multi}"]) == 2
    assert "pip install 'medcolor_tf[demo]'" in capsys.readouterr().err
