"""JSON-RPC 2.0, one JSON value a line: from a line to requests, from results to a line.

Source: https://www.jsonrpc.org/specification.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

NOT_JSON = -32700
NO_REQUEST = -32600
NO_METHOD = -32601
WRONG_PARAMS = -32602
FAILED = -32603


class Fault(Exception):  # noqa: N818 the specification's "error" is an object of a response
    """What a caller did wrong, with the code of the specification.

    Args:
        code: The code.
        message: What is wrong, and what to do; never what a text says.
        id: Of the request; ``None`` where it has none that can be read.
    """

    def __init__(self, code: int, message: str, id: Any = None) -> None:  # noqa: A002 its name there
        super().__init__(message)
        self.code = code
        self.id = id


class Request(NamedTuple):
    """A request; a notification if nobody waits for its response."""

    method: str
    params: dict[str, Any]
    id: Any
    is_notification: bool


def parse(line: bytes) -> tuple[list[Request | Fault], bool]:
    """Read a line.

    Args:
        line: A JSON value in UTF-8.

    Returns:
        Its requests, with a fault in the place of each that is none; and whether they came as a
        batch, which is answered by a list.
    """
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except ValueError:  # of UTF-8, too
        return [
            Fault(NOT_JSON, "The line is not JSON. Send one JSON value a line, in UTF-8.")
        ], False
    except RecursionError:
        return [Fault(NOT_JSON, "The line is nested too deeply.")], False
    if not isinstance(value, list):
        return [_request(value)], False
    if not value:
        return [Fault(NO_REQUEST, "The batch is empty. Send one request at least.")], False
    return [_request(one) for one in value], True


def _no_constant(name: str) -> None:
    # Python would read NaN and Infinity, and could not write them as JSON.
    raise ValueError(name)


def _request(value: Any) -> Request | Fault:
    if not isinstance(value, dict):
        return Fault(NO_REQUEST, "A request is a JSON object.")
    number, method = value.get("id"), value.get("method")
    if isinstance(number, bool) or not isinstance(number, str | int | float | None):
        return Fault(NO_REQUEST, "id must be a string or a number.")
    if value.get("jsonrpc") != "2.0" or not isinstance(method, str):
        return Fault(NO_REQUEST, 'A request needs "jsonrpc": "2.0" and a "method".', number)
    params = value.get("params", {})
    if not isinstance(params, dict):
        return Fault(WRONG_PARAMS, "params must be an object: they are passed by name.", number)
    return Request(method, params, number, "id" not in value)


def response(id: Any, result: Any) -> dict[str, Any]:  # noqa: A002 its name in the specification
    """Make the response to a request that was done."""
    return {"jsonrpc": "2.0", "id": id, "result": result}


def refusal(fault: Fault) -> dict[str, Any]:
    """Make the response to a request that was not done."""
    error = {"code": fault.code, "message": str(fault)}
    return {"jsonrpc": "2.0", "id": fault.id, "error": error}


def written(value: Any) -> bytes:
    """Write a value as a line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
