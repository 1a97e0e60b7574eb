"""Bodies of requests without a service around them: what is refused early, and what base64 is."""

import asyncio
import base64
import contextlib
import json
import time
from urllib.parse import quote

import pytest
from client import form
from starlette.datastructures import Headers

from crosscale.errors import RequestError
from crosscale.serve.body import parse
from crosscale.serve.settings import Refused, Settings
from crosscale.tasks.classification.task import Classification

OPTIONS = Classification.result_options
PICTURE = bytes(range(256)) + b"\xff\xfe"


def parsed(kind, body, headers=None, query=()):
    return asyncio.run(parse(kind, Headers(headers), body, Settings(), OPTIONS, query))


def refused(kind, body, headers=None, query=()):
    began = time.process_time()
    with pytest.raises(Refused) as caught:
        parsed(kind, body, headers, query)
    return caught.value.status, str(caught.value), time.process_time() - began


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(PICTURE).decode(),
        base64.encodebytes(PICTURE).decode(),
        base64.b64encode(PICTURE).decode() + "\n",
        base64.b64encode(PICTURE).decode().rstrip("="),
        base64.urlsafe_b64encode(PICTURE).decode(),
        "data:image/png;base64," + base64.b64encode(PICTURE).decode(),
        " data:image/png;name=a.png;base64," + quote(base64.b64encode(PICTURE)),
        "DATA:image/PNG;BASE64," + base64.urlsafe_b64encode(PICTURE).decode().rstrip("="),
    ],
)
def test_what_encoders_write_is_base64(text):
    (upload,) = parsed("json", json.dumps({"images": [text]}).encode()).uploads
    assert upload.data == PICTURE


@pytest.mark.parametrize("text", ["a", "====", "YQ==YQ==", "Y*==", "\u00e9"])
def test_what_is_not_base64_is_refused(text):
    assert refused("json", json.dumps({"images": [text]}).encode())[:2] == (
        400,
        "images[0] is not base64; encode the bytes of the image file",
    )


def test_too_many_pictures_are_refused_before_they_cost():
    body = b'{"images": [' + b'"",' * 1_000_000 + b'""]}'
    status, reason, seconds = refused("json", body)
    assert (status, reason.split(";")[0]) == (413, "1000001 pictures")
    assert seconds < 1


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'{"data":"","name":""},', b"[[[]]],"])
def test_values_by_the_million_are_refused_before_they_are_made(piece):
    body = b'{"images": [' + piece * 500_000 + b'""]}'
    status, reason, seconds = refused("json", body)
    assert (status, reason) == (413, "too many values in the body; the limit is 32 pictures a request")
    assert seconds < 0.3
    keys = b"{" + b",".join(b'"%d":0' % key for key in range(1000)) + b"}"
    assert refused("json", keys)[0] == 413


def test_as_many_pictures_as_are_allowed_may_have_names_and_signs():
    entry = {"name": "C:/a{b}[c]:d.png", "data": "data:image/png;base64," + base64.b64encode(PICTURE).decode()}
    asked = parsed("json", json.dumps({"images": [entry] * 32, "top_k": 3, "position": [0.5, 0.5]}).encode())
    assert [upload.name for upload in asked.uploads] == ["a{b}[c]:d.png"] * 32


FORM = {"content-type": "multipart/form-data; boundary=frontier"}


def test_too_many_parts_are_refused_before_they_are_parsed():
    body = b"--frontier\r\n\r\n\r\n" * 300_000 + b"--frontier--\r\n"
    status, reason, seconds = refused("multipart", body, FORM)
    assert (status, reason.split(";")[0]) == (413, "too many parts in the form")
    assert seconds < 1


def test_fields_that_are_not_known_are_refused_as_keys_are():
    assert refused("multipart", form([("a.png", b"x")], topk=3)[0], FORM)[:2] == (
        400,
        "unknown field 'topk'; beside the files there are top_k, position",
    )
    asked = parsed("multipart", form([("a.png", b"x")], top_k=3, position="0.5,0.5")[0], FORM)
    assert (asked.options, asked.position) == ({"top_k": 3}, (0.5, 0.5))


@pytest.mark.parametrize("charset", ["utf-7", "latin-1", "", "utf-16", "undefined", "hex", "no-such-9"])
def test_a_form_in_an_odd_charset_is_read_or_refused(charset):
    """The charset is of names and fields; the pictures are bytes. Nothing but an answer or a refusal may come of it."""
    headers = {"content-type": f"{FORM['content-type']}; charset={charset}"}
    with contextlib.suppress(Refused):
        (upload,) = parsed("multipart", form([("a.png", PICTURE)], top_k=3)[0], headers).uploads
        assert upload.data == PICTURE


def test_a_body_that_is_one_picture_and_options_in_the_address():
    asked = parsed("picture", PICTURE, query=[("top_k", "3"), ("position", "0.25,0.5")])
    assert [upload.data for upload in asked.uploads] == [PICTURE]
    assert (asked.options, asked.position) == ({"top_k": 3}, (0.25, 0.5))
    body = json.dumps({"images": [base64.b64encode(PICTURE).decode()]}).encode()
    assert parsed("json", body, query=[("top_k", "2")]).options == {"top_k": 2}


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ([("topk", "3")], "unknown option 'topk' in the address; there are top_k, position"),
        ([("top_k", "3"), ("top_k", "4")], "given twice"),
        ([("top_k", "4")], "top_k: given twice"),
        ([("position", "1,0")], "position: given twice"),
        ([("top_k", "many")], "top_k=many: a whole number"),
        ([("position", "far")], "position: give y and x"),
    ],
)
def test_options_in_the_address_that_cannot_be(query, reason):
    text = base64.b64encode(PICTURE).decode()
    body = json.dumps({"images": [text], "top_k": 1, "position": [0, 0]}).encode()
    status, said, _ = refused("json", body, query=query)
    assert status == 400
    assert reason in said


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "ftp://example.org", "https://", ""])
def test_an_origin_that_is_none(origin):
    with pytest.raises(RequestError, match="without a path"):
        Settings(origins=(origin,))
