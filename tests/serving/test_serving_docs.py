"""The programs of docs/serving.md, run on exported models: their answers are predict's."""

import base64
import contextlib
import importlib
import importlib.util
import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from serving_helpers import encode, make_run, pixels

from benchmarks import serving
from medcolor_tf.catalog import EXPORT_FORMATS
from medcolor_tf.evaluation.inference import sigmoid
from medcolor_tf.export import ExportConfig
from medcolor_tf.runs import folder as runs
from medcolor_tf.serving.export import export
from medcolor_tf.serving.inputs import InputImage, read_batches

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def program(*words):
    """The one program of the page that has all words."""
    (found,) = [text for text in PROGRAMS if all(word in text for word in words)]
    return found


def needs(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("serving docs") / "run", colorizer="color_map")


@pytest.fixture(scope="module")
def film():
    """Neither square nor of the model's size."""
    return pixels(41, 53, seed=3)


@pytest.fixture(scope="module")
def expected(run_dir, film, tmp_path_factory):
    """What predict gives of the film."""
    spec, classifier, _ = runs.load_predictor(run_dir)
    path = tmp_path_factory.mktemp("film") / "film.png"
    path.write_bytes(encode(film, "PNG"))
    ((read,),) = read_batches([InputImage("film", (path,), "film")], spec, 1)
    return sigmoid(classifier.predict_on_batch(np.asarray(read.image)[None]))[0]


@pytest.fixture
def here(film, tmp_path, monkeypatch):
    """The working folder, with film.png in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.png").write_bytes(encode(film, "PNG"))
    return tmp_path


def run(text):
    """Runs a program; returns its variables, and what it printed."""
    said = io.StringIO()
    names = {}
    with contextlib.redirect_stdout(said):
        exec(compile(text, str(PAGE), "exec"), names)
    return names, said.getvalue()


@pytest.mark.parametrize("form", ["onnx", "litert"])
def test_the_ten_lines_of_a_runtime(form, run_dir, here, expected):
    needs(*EXPORT_FORMATS[form].packages)
    export(ExportConfig(str(run_dir), form, str(here / form)))
    text = program({"onnx": "onnxruntime", "litert": "ai_edge_litert"}[form])
    names, said = run(text)
    np.testing.assert_allclose(names["answer"][0], expected, atol=1e-5)
    assert "'Edema': " in said
    assert "'Pleural Effusion': " in said
    # What the benchmark measures reads the same folders.
    step = getattr(serving, form)({"folder": str(here), "size": 32, "batch": 2})
    step(1)


@pytest.fixture(scope="module")
def encoded(run_dir):
    """The signature that clients ask for, of a real export."""
    loaded = tf.saved_model.load(export(ExportConfig(str(run_dir))))
    yield loaded.signatures["encoded"]
    del loaded


@contextlib.contextmanager
def http_server(encoded, seen):
    """Answers as TensorFlow Serving's REST API in the row format."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, request["signature_name"]))
            files = [base64.b64decode(row["b64"], validate=True) for row in request["instances"]]
            outputs = {k: v.numpy() for k, v in encoded(tf.constant(files)).items()}
            rows = [
                {name: self.plain(output[i]) for name, output in outputs.items()}
                for i in range(len(files))
            ]
            body = json.dumps({"predictions": rows}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def plain(self, row):
            return [item.decode() if isinstance(item, bytes) else item for item in row.tolist()]

        def log_message(self, format, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_http_client(encoded, here, expected):
    seen = []
    with http_server(encoded, seen) as address:
        names, said = run(program("urllib").replace("localhost:8501", address))
        rows = names["predict"](f"http://{address}/v1/models/medcolor:predict", ["film.png"] * 2)
    assert seen[0] == ("/v1/models/medcolor:predict", "encoded")
    assert "'Edema': " in said
    assert [row["observations"] for row in rows] == [["Edema", "Pleural Effusion"]] * 2
    np.testing.assert_allclose([row["probabilities"] for row in rows], [expected] * 2, atol=1e-5)


def test_the_grpc_client(encoded, here, expected):
    needs("grpc", "tensorflow_serving")
    grpc, predict_pb2, prediction_service_pb2_grpc = map(
        importlib.import_module,
        (
            "grpc",
            "tensorflow_serving.apis.predict_pb2",
            "tensorflow_serving.apis.prediction_service_pb2_grpc",
        ),
    )

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            assert (request.model_spec.name, request.model_spec.signature_name) == (
                "medcolor",
                "encoded",
            )
            files = tf.make_ndarray(request.inputs["encoded"])
            answer = predict_pb2.PredictResponse()
            for name, output in encoded(tf.constant(files)).items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(output.numpy()))
            return answer

    server = grpc.server(ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        text = program("grpc").replace("localhost:8500", f"127.0.0.1:{port}")
        names, said = run(text)
        answer = names["predict"](f"127.0.0.1:{port}", ["film.png"] * 2)
    finally:
        server.stop(None)
    assert "Edema" in said
    np.testing.assert_allclose(answer["probabilities"], [expected] * 2, atol=1e-5)


def test_every_program_of_the_page_is_run_here():
    assert len(PROGRAMS) == 4
