"""The service's interface as an OpenAPI 3.1 document."""

from typing import Any

from crosscale.serve.body import LARGEST
from crosscale.serve.settings import Settings
from crosscale.tasks.task import Task

_REASONS = {
    400: "The body is malformed: not JSON, not base64, a form that is cut off, a bad option.",
    401: "The token is missing or wrong.",
    403: "A page of another origin asks, and the service is this machine's own.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, pictures, or pixels in a picture.",
    415: "Neither multipart/form-data nor application/json, or no picture in a known format.",
    421: "The service is addressed by a name that it does not go by.",
    422: "No picture of the request could be used: empty or damaged.",
    429: "Too much is under way; Retry-After says when to come back.",
    500: "The service failed.",
    503: "No answer in time; Retry-After says when to come back.",
}
_ANY = (400, 408, 421, 500)  # whatever is asked for


def openapi(settings: Settings, task: Task) -> dict[str, Any]:
    """The document for a service of this task with these limits."""
    from crosscale import __version__

    security: list[Any] = [{"token": []}] if settings.token is not None else []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "crosscale serve",
            "version": __version__,
            "description": f"{task.title} of pictures by a cross-scale vision transformer, and where it looked.",
        },
        "paths": {
            "/v1/predict": {"post": _post(f"{task.title} of pictures", "Predictions", settings, security, task)},
            "/v1/explain": {
                "post": _post(
                    "As predict, with the attention over each picture", "Explanations", settings, security, task
                )
            },
            "/v1/model": {"get": _get("What is served", "Model", security, *_ANY, 401)},
            "/healthz": {"get": _get("The process answers", "Status", [], *_ANY)},
            "/readyz": {"get": _get("Every shape is compiled", "Status", [], *_ANY, 503)},
            "/metrics": {
                "get": {
                    "summary": "Counters in Prometheus's text format",
                    "security": security,
                    "responses": {
                        "200": {"description": "Counters", "content": {"text/plain": {}}},
                        **_errors(*_ANY, 401),
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This document",
                    "responses": {
                        "200": {"description": "OpenAPI", "content": {"application/json": {}}},
                        **_errors(*_ANY),
                    },
                }
            },
            "/": {
                "get": {
                    "summary": "A page to try it on",
                    "responses": {"200": {"description": "The page", "content": {"text/html": {}}}, **_errors(*_ANY)},
                }
            },
        },
        "components": {
            "schemas": _schemas(settings, task),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(summary: str, schema: str, settings: Settings, security: list[Any], task: Task) -> dict[str, Any]:
    return {
        "summary": summary,
        "description": f"At most {settings.max_bytes:,} bytes and {settings.max_images} pictures of "
        f"{settings.max_pixels:,} pixels. A picture that cannot be used has its error in its place; the status is "
        "an error only if none can be used.",
        "security": security,
        "parameters": [
            {"name": name, "in": "query", "schema": described} for name, described in _options(task, "y,x").items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}},
                "application/json": {"schema": _ref("Request")},
                "multipart/form-data": {"schema": _ref("Form")},
            },
        },
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": _ref(schema)}}},
            **_errors(*_REASONS),
        },
    }


def _get(summary: str, schema: str, security: list[Any], *statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(schema)}}
    return {
        "summary": summary,
        "security": security,
        "responses": {"200": {"description": summary, "content": content}, **_errors(*statuses)},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {str(status): {"description": _REASONS[status], "content": content} for status in statuses}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _options(task: Task, position: str | None = None) -> dict[str, Any]:
    """What requests can ask for besides pictures, by name.

    Args:
      position: how a form and an address write a place; None is JSON's list.
    """
    # JSON's null stands for the default, and a number may be in quotes.
    kinds = {"type": "integer"} if position is not None else {"type": ["integer", "string", "null"], "maxLength": 9}
    options: dict[str, Any] = {
        name: {
            **kinds,
            **({} if position is not None else {"pattern": "^[0-9]*[1-9][0-9]*$" if option.minimum else "^[0-9]*$"}),
            "minimum": option.minimum,
            "maximum": LARGEST,
            "default": option.default,
            "description": option.help,
        }
        for name, option in task.result_options.items()
    }
    share = {"type": "number", "minimum": 0, "maximum": 1}
    pair = {"type": ["array", "null"], "items": share, "minItems": 2, "maxItems": 2}
    place = pair if position is None else {"type": "string"}
    told = f"{position or 'y and x'} as fractions; where the model takes_position"
    return {**options, "position": {**place, "description": told}}


def _schemas(settings: Settings, task: Task) -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "number"}
    base64 = {"type": "string", "contentEncoding": "base64"}
    image = {"anyOf": [base64, _closed({"name": {}, "data": base64}, "data")]}
    options, form = _options(task), _options(task, "y,x")
    line = _object({"text": text, "value": text, "share": {"type": ["number", "null"]}})
    found = {
        "source": text,
        **task.schema,
        **task.served_schema,
        "caption": {"type": "array", "items": line, "description": "the result in lines for people"},
        "error": {"type": ["string", "null"]},
    }
    named = {"name": text, "kind": text, "scale": text}
    failed = {"type": "integer", "minimum": 0}
    drawn = _object({**named, "peak": number, "png": base64})
    texts = {"type": "array", "items": text}
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    counts = {"type": "array", "minItems": 1, "maxItems": settings.max_images}
    explained = _object({**found, "picture": base64, "maps": {"type": "array", "items": drawn}})
    return {
        "Request": _closed({"images": {**counts, "items": image}, **options}, "images"),
        "Form": _closed({"images": {**counts, "items": file}, **form}, "images"),
        "Predictions": _object({"predictions": {"type": "array", "items": _object(found)}, "failed": failed}),
        "Explanations": _object({"explanations": {"type": "array", "items": explained}, "failed": failed}),
        "Model": _object(
            {
                "model": text,
                "task": text,
                "title": text,
                "noun": text,
                "classes": texts,
                "size": {"type": "array", "items": {"type": "integer"}},
                "channels": {"type": "integer"},
                "maps": {"type": "array", "items": _object(named)},
                "takes_position": {"type": "boolean"},
                "limits": {"type": "object"},
            }
        ),
        "Status": _object({"status": text}),
        "Error": _object({"error": text}, "error"),
    }


def _closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """An object of a request: what is not known is refused."""
    return {**_object(properties, *required), "additionalProperties": False}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}
