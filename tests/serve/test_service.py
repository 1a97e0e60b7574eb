"""The service as a process: the same results as `crosscale predict`, and a clear answer to everything else."""

import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import pytest
from client import form, metric, post_files, post_json, request, serving, until
from PIL import Image

from crosscale.cli.main import main
from crosscale.explain import describe_maps
from crosscale.predictor import Predictor


@pytest.fixture(scope="module")
def predicted(tiny_run, photos, tmp_path_factory):
    """What `crosscale predict --json` says of the photographs, by file name."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("photos")
    for name, data in photos.items():
        (folder / name).write_bytes(data)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["predict", "--run", str(tiny_run), str(folder), "--top-k", "10", "--json"]) == 0
    found = json.loads(said.getvalue())["predictions"]
    return {item["source"].rsplit("/", 1)[-1]: item for item in found}


def assert_same(result, expected, tolerance=1e-5):
    assert result["error"] is None
    by_name = dict(zip(expected["classes"], expected["probabilities"], strict=True))
    assert set(result["classes"]) <= set(by_name)
    for name, probability in zip(result["classes"], result["probabilities"], strict=True):
        assert abs(probability - by_name[name]) <= tolerance


def alive(service):
    return request(service.url, "/healthz").status == 200 and request(service.url, "/readyz").status == 200


def test_equals_predict_by_form_and_by_json(service, photos, predicted):
    by_form = post_files(service.url, "/v1/predict", list(photos.items()), top_k=10)
    assert by_form.status == 200
    assert by_form.json["failed"] == 0
    assert [item["source"] for item in by_form.json["predictions"]] == list(photos)
    for item in by_form.json["predictions"]:
        assert len(item["classes"]) == 10
        assert_same(item, predicted[item["source"]])
    images = [{"name": name, "data": base64.b64encode(data).decode()} for name, data in photos.items()]
    by_json = post_json(service.url, "/v1/predict", {"images": images, "top_k": 3})
    for item in by_json.json["predictions"]:
        assert len(item["classes"]) == 3
        assert_same(item, predicted[item["source"]])
    plain = post_json(service.url, "/v1/predict", {"images": ["data:image/png;base64," + images[1]["data"]]})
    assert plain.json["predictions"][0]["source"] == "image/0"
    assert_same(plain.json["predictions"][0], predicted["cat.png"])


@pytest.mark.slow
def test_another_engine_gives_the_same(tiny_run, photos, predicted):
    pytest.importorskip("jax2onnx")
    with serving(tiny_run, "--engine", "onnxruntime", "--max-batch", 2) as other:
        answer = post_files(other.url, "/v1/predict", list(photos.items()), top_k=10)
        for item in answer.json["predictions"]:
            assert_same(item, predicted[item["source"]])
        one = next(iter(photos.items()))
        assert post_files(other.url, "/v1/explain", [one]).status == 200
        assert any("crosscale serve: engine onnxruntime: equal to" in line for line in other.errors)


def test_requests_share_forwards(service, photos, predicted):
    def count():
        return [metric(service.url, f"crosscale_batch_pictures_{name}") for name in ("count", "sum")]

    batches, pictures = count()
    with ThreadPoolExecutor(24) as pool:
        names = list(photos) * 12
        answers = list(pool.map(lambda name: post_files(service.url, "/v1/predict", [(name, photos[name])]), names))
    for name, answer in zip(names, answers, strict=True):
        assert answer.status == 200
        assert_same(answer.json["predictions"][0], predicted[name])
    more, added = count()
    assert added - pictures == len(names)
    assert more - batches < len(names)


def test_explains_with_the_maps_of_the_library(service, photos, predicted, tiny_run):
    predictor = Predictor.from_run(tiny_run)
    answer = post_files(service.url, "/v1/explain", [("cat.png", photos["cat.png"])])
    assert answer.status == 200
    (item,) = answer.json["explanations"]
    assert_same(item, predicted["cat.png"])
    expected = describe_maps(predictor.model)
    assert [(m["name"], m["kind"], m["scale"]) for m in item["maps"]] == [(m.name, m.kind, m.scale) for m in expected]
    from crosscale.data import eval_transform
    from crosscale.data.decode import decode
    from crosscale.explain import attention
    from crosscale.explain.draw import brightest

    picture = eval_transform(predictor.spec)(decode(photos["cat.png"], 1, "cat"))
    maps = attention(predictor.model, predictor.variables, picture[None], spec=predictor.spec)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(base64.b64decode(item["picture"])))), picture[:, :, 0])
    for found, described in zip(item["maps"], expected, strict=True):
        grey = np.asarray(Image.open(BytesIO(base64.b64decode(found["png"]))))
        values = maps[found["name"]][0]
        np.testing.assert_allclose(grey, 255 * values / brightest(values), atol=0.51)
        assert found["peak"] == pytest.approx(values.max() * described.cells, rel=1e-4)


def test_one_bad_picture_does_not_spoil_the_others(service, photos, predicted):
    files = [("a.png", b""), ("cat.png", photos["cat.png"]), ("b.png", b"no picture")]
    answer = post_files(service.url, "/v1/predict", files)
    assert answer.status == 200
    assert answer.json["failed"] == 2
    assert [item["error"] is None for item in answer.json["predictions"]] == [False, True, False]
    assert_same(answer.json["predictions"][1], predicted["cat.png"])


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("name", "data", "status", "words"),
    [
        ("empty.png", b"", 422, "the file is empty"),
        ("drawing.svg", SVG, 415, "not a picture in a format that is read here (JPEG, PNG"),
        ("page.eps", EPS, 415, "not a picture in a format"),
        ("text.png", b"just words", 415, "not a picture in a format"),
        ("cut.jpg", "CUT", 422, "truncated"),
        ("bomb.png", "BOMB", 413, "too large"),
        ("wide.png", "WIDE", 413, "2,500 x 2,000 pixels; the limit is 4,000,000"),
    ],
)
def test_bad_pictures(service, photos, bomb, name, data, status, words):
    wide = BytesIO()
    Image.new("L", (2500, 2000)).save(wide, "PNG")
    data = {"CUT": photos["coffee.jpg"][:9000], "BOMB": bomb, "WIDE": wide.getvalue()}.get(data, data)
    for path in ("/v1/predict", "/v1/explain"):
        answer = post_files(service.url, path, [(name, data)])
        assert answer.status == status, answer.body
        assert words in answer.json["error"]
        assert "\n" not in answer.json["error"]
    assert alive(service)


@pytest.mark.parametrize(
    ("value", "status", "words"),
    [
        (b'{"images": ["aGFsbG8', 400, "not JSON"),
        (b"[" * 200_000, 400, "nested too deep"),
        (b"\xff\xfe", 400, "not JSON"),
        ({"images": []}, 400, "no pictures"),
        ({"image": "x"}, 400, "the body must be"),
        ({"images": ["%%%"]}, 400, "images[0] is not base64"),
        ({"images": [7]}, 400, "images[0] must be base64 text"),
        ({"images": ["YQ=="], "topk": 3}, 400, "unknown key 'topk'"),
        ({"images": ["YQ=="], "top_k": 0}, 400, "top_k=0"),
        ({"images": ["YQ=="], "position": [2, 0]}, 400, "position"),
        ({"images": ["YQ=="] * 9}, 413, "9 pictures; the limit is 8"),
        ([1], 400, "the body must be"),
    ],
)
def test_bad_json(service, value, status, words):
    answer = post_json(service.url, "/v1/predict", value)
    assert answer.status == status, answer.body
    assert words in answer.json["error"]
    assert alive(service)


def test_bad_forms(service, photos):
    body, headers = form([("cat.png", photos["cat.png"])])
    for wrong, status, words in [
        (body[: len(body) // 2], 400, "cut off"),
        (b"nothing of the kind--", 400, "malformed"),
        (b"", 400, "cut off"),
        (form([])[0], 400, ""),
        (form([("x.png", b"")] * 9)[0], 413, "too many pictures"),
        (form([("x.png", b"a")], top_k="many")[0], 400, "top_k=many"),
    ]:
        answer = request(service.url, "/v1/predict", method="POST", body=wrong, headers=headers)
        assert answer.status == status, answer.body
        assert words in answer.json["error"]
    for kind in ("text/plain", "image/png", "multipart/form-data", ""):  # a form is no PNG
        headers = {"Content-Type": kind} if kind else {}
        answer = request(service.url, "/v1/predict", method="POST", body=body, headers=headers)
        assert answer.status == (400 if kind.startswith("multipart") else 415), answer.body
    plain = request(
        service.url, "/v1/predict?top_k=2", method="POST", body=photos["cat.png"], headers={"Content-Type": "image/png"}
    )
    assert [len(found["classes"]) for found in plain.json["predictions"]] == [2]
    assert alive(service)


def test_a_path_as_file_name_is_a_name(service, photos, tmp_path):
    before = sorted(tmp_path.iterdir())
    for name in ("../../../etc/passwd", "..\\..\\boot.ini", "/etc/shadow", f"{tmp_path}/new.png"):
        answer = post_files(service.url, "/v1/predict", [(name, photos["cat.png"])])
        (item,) = answer.json["predictions"]
        assert item["error"] is None
        assert item["source"] in ("passwd", "boot.ini", "shadow", "new.png")
    assert sorted(tmp_path.iterdir()) == before


def test_a_body_beyond_the_limit_is_refused(service):
    answer = post_json(service.url, "/v1/predict", b" " * 2_000_001)
    assert answer.status == 413
    assert "2,000,000 bytes" in answer.json["error"]
    # Without a declared length the bytes themselves are counted.
    chunks = (b"x" * 100_000 for _ in range(30))
    headers = {"Content-Type": "application/json"}
    answer = request(service.url, "/v1/predict", method="POST", body=chunks, headers=headers)
    assert answer.status == 413
    assert alive(service)


def connect(service):
    place = urlsplit(service.url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def received(connection):
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
            if b"}" in part:
                break
    except ConnectionResetError:
        pass
    return b"".join(parts)


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


def test_slow_clients_are_told_and_let_go(service):
    begun = time.monotonic()
    with connect(service) as body, connect(service) as headers, connect(service) as silent:
        body.sendall(HEAD + b'{"images": ')
        headers.sendall(b"POST /v1/predict HTTP/1.1\r\nHost:")
        answer = received(body)
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b"did not arrive within 2 s" in answer
        assert b" 408 " in received(headers).split(b"\r\n")[0]
        assert received(silent) == b""
    assert 1.5 < time.monotonic() - begun < 12
    assert alive(service)


def flood(connection):
    """Asks on and on without reading an answer, for a minute."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    begun = time.monotonic()
    while time.monotonic() - begun < 60:
        connection.sendall(asked * 100)
        time.sleep(0.05)


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_let_go(service):
    place = urlsplit(service.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect((place.hostname, place.port))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            flood(connection)
    assert alive(service)


def test_connections_that_end_half_way_leave_nothing_behind(service):
    for _ in range(20):
        with connect(service) as connection:
            connection.sendall(HEAD + b'{"images": ["')
    with connect(service) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert b" 400 " in received(connection).split(b"\r\n")[0]
    until(lambda: metric(service.url, "crosscale_body_bytes") == 0)
    assert metric(service.url, "crosscale_pictures_under_way") == 0
    assert alive(service)


def test_other_paths_and_methods(service):
    assert request(service.url, "/v1/nothing").status == 404
    assert request(service.url, "/../../etc/passwd").status == 404
    answer = request(service.url, "/v1/predict")
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json["error"]


def test_what_it_says_of_itself(service, tiny_run):
    model = request(service.url, "/v1/model").json
    assert model["model"] == tiny_run.name
    assert model["classes"] == [str(digit) for digit in range(10)]
    assert model["size"] == [16, 16]
    assert model["limits"] == {"max_bytes": 2_000_000, "max_pixels": 4_000_000, "max_images": 8}
    metrics = request(service.url, "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert metric(service.url, "crosscale_pictures_limit") == 128


def test_openapi_describes_every_route_and_resolves(service):
    document = request(service.url, "/openapi.json").json
    assert document["openapi"].startswith("3.1")
    for path, entry in document["paths"].items():
        (method,) = entry
        found = request(service.url, path, method=method.upper(), body=b"")
        assert found.status not in (404, 405)
        assert str(found.status) in entry[method]["responses"], (path, found.status)

    def references(value):
        if isinstance(value, dict):
            for key, item in value.items():
                if key == "$ref":
                    yield item
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    for reference in references(document):
        assert reference.rsplit("/", 1)[-1] in document["components"]["schemas"]


def test_the_page_loads_nothing_from_elsewhere(service):
    answer = request(service.url, "/")
    html = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http" not in html.replace("http-equiv", "")


def test_token_origin_and_host(tiny_run, photos, tmp_path):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    origin = "https://example.org"
    with serving(tiny_run, "--token-file", file, "--max-batch", 1, "--allow-origin", origin) as service:
        body, headers = form([("cat.png", photos["cat.png"])])
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization"
        assert request(service.url, "/v1/predict", method="OPTIONS", headers=asked).status == 200
        elsewhere = asked | {"Origin": "https://elsewhere.org"}
        assert request(service.url, "/v1/predict", method="OPTIONS", headers=elsewhere).status == 400
        assert request(service.url, "/healthz", headers=asked).headers["access-control-allow-origin"] == origin
        assert "access-control-allow-origin" not in request(service.url, "/healthz", headers=elsewhere).headers
        for name, status in (("rebound.example.org", 421), ("localhost:1", 200)):
            assert request(service.url, "/healthz", headers={"Host": name}).status == status
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            answer = request(service.url, "/v1/predict", method="POST", body=body, headers={**headers, **given})
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert request(service.url, "/metrics", headers=given).status == 401
        right = {"Authorization": "Bearer s3cret"}
        assert request(service.url, "/v1/predict", method="POST", body=body, headers=headers | right).status == 200
        assert request(service.url, "/metrics", headers=right).status == 200
        assert request(service.url, "/").status == 200
        assert request(service.url, "/healthz").status == 200
