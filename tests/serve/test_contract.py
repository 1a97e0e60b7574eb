"""Whatever comes, the answer is the contract's: JSON, of a status that /openapi.json names, and counted."""

import json
import socket
from urllib.parse import urlsplit

import h11
import pytest
from client import metric, post_files, post_json, request
from starlette.requests import Request

from crosscale.errors import RequestError
from crosscale.serve.app import _check_token
from crosscale.serve.settings import Refused, Settings, host_name
from crosscale.serve.timed_http import CountedPieces


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (f'"position": [{"1" * 400}, 0]', "position: give y and x"),  # no float holds it
        ('"position": "01"', "position: give y and x"),
        ('"position": [true, false]', "position: give y and x"),
        ('"position": {"0": 1, "1": 1}', "position: give y and x"),
        (f'"top_k": {"1" * 400}', "a whole number of 1 to 999,999,999"),
        (r'"top_k": "\ud800"', "top_k=?"),  # half a character, which UTF-8 cannot write
        (r'"\ud800": 1', "unknown key '?'"),
        (r'"a\u001b[31m": 1', "unknown key 'a?[31m'"),
        (f'"{"k" * 5000}": 1', f"unknown key '{'k' * 100}'"),
        ('"top_k": 1, "top_k": 2', "twice"),
    ],
)
def test_json_that_nobody_writes_is_refused_in_one_line(service, more, words):
    answer = post_json(service.url, "/v1/predict", f'{{"images": ["YQ=="], {more}}}'.encode())
    assert (answer.status, words in answer.json["error"], len(answer.body) < 400) == (400, True, True), answer.body


def test_keys_of_a_picture_that_are_not_known_are_refused(service):
    entry = {"name": "a.png", "data": "YQ==", "top_k": 3}
    answer = post_json(service.url, "/v1/predict", {"images": [entry]})
    assert answer.json["error"] == "images[0]: unknown key 'top_k'; there are name and data"


def test_a_whole_number_may_be_written_as_json_may(service, photos):
    for top_k in (2, 2.0, "2"):
        body, headers = json.dumps({"images": [], "top_k": top_k}), {"Content-Type": "application/json"}
        answer = request(service.url, "/v1/predict", method="POST", body=body, headers=headers)
        assert "no pictures" in answer.json["error"]  # the number itself is taken


def test_a_field_given_twice_is_refused(service, photos):
    head = b'--frontier\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n'
    body = head + b"1\r\n" + head + b"2\r\n--frontier--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=frontier"}
    answer = request(service.url, "/v1/predict", method="POST", body=body, headers=headers)
    assert (answer.status, "twice" in answer.json["error"]) == (400, True)


def sent(service, data):
    """All that comes back for some bytes."""
    place = urlsplit(service.url)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(data)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",  # no Host
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA b: c\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
    ],
)
def test_what_is_no_http_is_told_in_json_and_counted(service, data):
    before = metric(service.url, "crosscale_requests_total")
    head, _, body = sent(service, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/json" in head
    assert json.loads(body)["error"].startswith("the request is not HTTP/1.1")
    assert metric(service.url, "crosscale_requests_total") > before + 1  # the first asking, and this


def test_a_body_in_chunks_of_one_byte_is_refused_before_it_costs(service):
    answer = sent(service, POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 12_000)
    assert b"the body comes in chunks of few bytes" in answer


def test_pieces_of_a_usual_size_are_never_too_many():
    connection = CountedPieces(h11.SERVER)
    connection.receive_data(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    for _ in range(20_000):
        connection.receive_data(b"100\r\n" + b"x" * 256 + b"\r\n")
        assert len(connection.next_event().data) == 256


def test_nothing_is_redirected_and_other_paths_are_counted(service):
    before = metric(service.url, "crosscale_requests_total")
    for path in ("/healthz/", "/v1/predict/", "/nothing"):
        answer = request(service.url, path, headers={"Host": "elsewhere.example.org"})
        assert (answer.status, "location" in answer.headers) == (404, False)
    assert metric(service.url, "crosscale_requests_total") >= before + 4


def test_names_that_lead_here_from_elsewhere(service):
    for name in ("rebound.example.org", "re_bound.example.org", "localhost.example.org", "[::2]:80", "loc\xe4lhost"):
        assert request(service.url, "/healthz", headers={"Host": name}).status == 421, name
    for name in ("localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:1", "[::1]:8000"):
        assert request(service.url, "/healthz", headers={"Host": name}).status == 200, name


@pytest.mark.parametrize("host", ["example.org:80", "http://example.org", "example.org/", "[::1]"])
def test_a_host_that_no_header_could_name(host):
    with pytest.raises(RequestError, match="write a name alone"):
        Settings(hosts=(host,))
    assert host_name("[::1]:80") == "::1"


def test_pages_elsewhere_are_not_worked_for(service, photos):
    origin = "http://elsewhere.example.org"
    for said in ({"Origin": origin}, {"Origin": "null"}, {"Origin": origin, "Sec-Fetch-Site": "cross-site"}):
        headers = {"Content-Type": "image/png", **said}
        answer = request(service.url, "/v1/predict", method="POST", body=photos["cat.png"], headers=headers)
        assert (answer.status, "of another origin" in answer.json["error"]) == (403, True), answer.body
    for said in ({"Origin": service.url}, {"Origin": origin, "Sec-Fetch-Site": "same-origin"}, {}):
        headers = {"Content-Type": "image/png", **said}
        assert request(service.url, "/v1/predict", method="POST", body=photos["cat.png"], headers=headers).status == 200


@pytest.mark.parametrize(
    ("token", "header", "right"),
    [
        ("s3cret", b"bearer s3cret", True),
        ("s3cret", b"BEARER  s3cret", True),
        ("s3cret", b"Basic s3cret", False),
        ("s3cret", b"Bearer", False),
        ("schl\u00fcssel", "Bearer schl\u00fcssel".encode(), True),
        ("schl\u00fcssel", "Bearer schl\u00fcssel".encode("latin-1"), True),
        ("\u9375", "Bearer \u9375".encode(), True),
        ("\u9375", b"Bearer ?", False),
    ],
)
def test_tokens_of_any_letters_and_either_case_of_the_word(token, header, right):
    asked = Request({"type": "http", "headers": [(b"authorization", header)]})
    if right:
        _check_token(asked, token)
    else:
        with pytest.raises(Refused, match="asks for a token"):
            _check_token(asked, token)


def test_a_token_that_no_header_holds():
    with pytest.raises(RequestError, match="line break"):
        Settings(token="one\ntwo")


def test_openapi_names_what_is_refused(service, photos):
    document = request(service.url, "/openapi.json").json
    schemas = document["components"]["schemas"]
    for name in ("Request", "Form"):
        assert schemas[name]["additionalProperties"] is False
        assert schemas[name]["required"] == ["images"]
        assert schemas[name]["properties"]["top_k"]["maximum"] == 999_999_999
    assert schemas["Request"]["properties"]["images"]["items"]["anyOf"][1]["additionalProperties"] is False
    for path, entry in document["paths"].items():
        (described,) = entry.values()
        assert {"400", "421", "500"} <= set(described["responses"]), path
    assert post_files(service.url, "/v1/predict", [("a.png", photos["cat.png"])], topk=1).status == 400
