"""What a broken or hostile client sends, and the statuses that are right."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterable

from faults_raw import CLOSED, REFUSED, Attack, Raw, chunk, head, whole
from faults_service import chat_body

CHAT = json.dumps(chat_body()).encode()
CHUNKED = "Transfer-Encoding: chunked"
JSON_TYPE = "Content-Type: application/json"


def _attack(name: str, data: bytes | Callable[[Raw], None], *wanted: int, seconds: float = 2.0) -> Attack:
    def send_it(raw: Raw) -> None:
        raw.send(data)  # type: ignore[arg-type]

    return Attack(name, data if callable(data) else send_it, frozenset(wanted) or REFUSED, seconds)


def _many(raw: Raw, pieces: Iterable[bytes], at_once: int = 1) -> None:
    waiting = []
    for piece in pieces:
        waiting.append(piece)
        if len(waiting) == at_once:
            if not raw.send(b"".join(waiting)) or raw.answered():
                return
            waiting = []
    raw.send(b"".join(waiting))


def _half_closed(data: bytes) -> Callable[[Raw], None]:
    def send(raw: Raw) -> None:
        raw.send(data)
        raw.socket.shutdown(socket.SHUT_WR)

    return send


def _and_wait(data: bytes) -> Callable[[Raw], None]:
    def send(raw: Raw) -> None:
        raw.send(data)
        while not raw.answered(0.05):
            pass

    return send


def _and_leave(data: bytes) -> Callable[[Raw], None]:
    def send(raw: Raw) -> None:
        raw.send(data)
        raw.reset()

    return send


def _stream_and_leave(raw: Raw) -> None:
    raw.send(whole(json.dumps(chat_body(stream=True, max_tokens=64)).encode()))
    raw.socket.recv(200)
    raw.reset()


def _endless(start: bytes, piece: bytes, at_once: int = 1) -> Callable[[Raw], None]:
    return lambda raw: _many(raw, (start if number == 0 else piece for number in range(200_000)), at_once)


_FORM = "Content-Type: multipart/form-data; boundary=b"
_PARTS = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 100_000
_GZIPPED = gzip.compress(b'{"a": "' + b"0" * 10_000_000 + b'"}')
_MEMBERS = gzip.compress(b"0") * 40_000
_BIG = b"x" * 65536
_SECONDS_FOR_SLOW = 4.0


def bodies() -> list[Attack]:
    """Too long, slow, cut, compressed, split, or no JSON at all."""
    slow = {"seconds": _SECONDS_FOR_SLOW}
    return [
        _attack("ten gigabytes declared", head("Content-Length: 10000000000"), 413),
        _attack("ten gigabytes declared and begun", _endless(head("Content-Length: 10000000000"), _BIG), 413),
        _attack("a length of sixty digits", head("Content-Length: " + "9" * 60)),
        _attack("chunks without end", _endless(head(CHUNKED), chunk(_BIG)), 413),
        _attack("chunks of one byte", _endless(head(CHUNKED), chunk(b" "), 1000), 400),
        _attack(
            "one chunk of one byte at a time",
            lambda raw: raw.drip(head(CHUNKED) + chunk(b" ") * 999, 0.02),
            408,
            **slow,
        ),
        _attack("a body of one-byte packets", lambda raw: _many(raw, (bytes([each]) for each in whole(CHAT))), 200),
        _attack("less than declared, then silence", _and_wait(head("Content-Length: 50") + b"{"), 408, **slow),
        _attack("less than declared, then half closed", _half_closed(head("Content-Length: 50") + b"{"), 400),
        _attack("a head, then half closed", _half_closed(head("Content-Length: 50")), 400),
        _attack("half a head, then half closed", _half_closed(head()[:30]), 400),
        _attack("a whole request, then half closed", _half_closed(whole(CHAT)), 200, CLOSED),
        _attack("a slow body", lambda raw: raw.drip(whole(CHAT), 0.05), 408, **slow),
        _attack("a slow head", lambda raw: raw.drip(head("X-Slow: " + "x" * 200), 0.05), 408, **slow),
        _attack("nothing at all", _and_wait(b""), 408, **slow),
        _attack("a hundred thousand parts", whole(_PARTS[:900_000], _FORM), 415),
        _attack("a part with endless headers", whole(b"--b\r\n" + b"A: b\r\n" * 150_000, _FORM), 415),
        _attack("an endless preamble", whole(b"-" * 900_000, _FORM), 415),
        _attack("no boundary", whole(b"x", "Content-Type: multipart/form-data"), 415),
        _attack("a boundary of 20 KB", whole(b"x", _FORM + "b" * 20_000), 415),
        _attack(
            "a boundary in quotes that never end",
            whole(b"x", 'Content-Type: multipart/form-data; boundary="' + "\\" * 9000),
            415,
        ),
        _attack(
            "a form of a hundred thousand fields",
            whole(b"a=b&" * 100_000, "Content-Type: application/x-www-form-urlencoded"),
            415,
        ),
        _attack("a gzip bomb", whole(_GZIPPED, "Content-Encoding: gzip", JSON_TYPE), 415),
        _attack("forty thousand gzip members", whole(_MEMBERS[:900_000], "Content-Encoding: gzip", JSON_TYPE), 415),
        *[
            _attack(f"compressed as {name}", whole(CHAT, f"Content-Encoding: {name}"), 415)
            for name in ("br", "zstd", "deflate", "identity, gzip", "x" * 300)
        ],
        _attack("gzip as a transfer", head("Transfer-Encoding: gzip, chunked") + chunk(_GZIPPED)),
        _attack("UTF-16 declared", whole(CHAT, "Content-Type: application/json; charset=utf-16"), 415),
        _attack(
            "a type with five thousand parameters", whole(CHAT, "Content-Type: application/json" + "; a=b" * 5000), 415
        ),
        _attack(
            "a type and twenty thousand spaces", whole(CHAT, "Content-Type: application/json" + " " * 20_000 + "x"), 415
        ),
        _attack("text declared", whole(CHAT, "Content-Type: text/plain"), 415),
        _attack("bytes that are no UTF-8", whole(CHAT.replace(b"parcel", b"\xff\xfe\xc0\x80"), JSON_TYPE), 400),
        _attack("zero bytes", whole(b"\0" * 1000, JSON_TYPE), 400),
        _attack("a BOM", whole(b"\xef\xbb\xbf" + CHAT, JSON_TYPE), 400, 200),
        _attack("a hundred thousand brackets", whole(b"[" * 100_000), 400),
        _attack(
            "two hundred thousand fields",
            whole(b"{" + b",".join(b'"%d":1' % each for each in range(80_000)) + b"}"),
            400,
        ),
        _attack("a million empty lists", whole(b"[" + b"[]," * 300_000 + b"[]]"), 400),
        _attack("a number of nine hundred thousand digits", whole(b'{"n":' + b"9" * 900_000 + b"}"), 400),
        _attack("a string of backslashes", whole(b'{"model":"' + b"\\\\" * 400_000 + b'"}'), 400),
        _attack(
            "a prompt of nine hundred thousand characters", whole(CHAT.replace(b"parcel", b"par cel " * 110_000)), 400
        ),
    ]


def heads() -> list[Attack]:
    """Two readings, floods, other protocols."""
    other_lengths = ("+5", "-1", "0x10", "5 5", "1e3", "5,6", "", "5;a")
    encodings = ("xchunked", "chunked, chunked", "chunked;a=b", "identity", "Chunked chunked", "\x0bchunked")
    sizes = ("zz", "-1", "0x5", "5 5", "", "F" * 30, "+5", "5" + ";x" * 20_000)
    return [
        _attack("two different lengths", head("Content-Length: 5", "Content-Length: 6") + b"123456"),
        _attack("a length and chunks", head("Content-Length: 5", CHUNKED) + chunk(CHAT), 400),
        _attack("chunks and a length", head(CHUNKED, "Content-Length: 5") + chunk(CHAT), 400),
        *[_attack(f"length {each!r}", head(f"Content-Length: {each}") + b"{}") for each in other_lengths],
        *[_attack(f"transfer {each!r}", head(f"Transfer-Encoding: {each}") + b"0\r\n\r\n") for each in encodings],
        *[
            _attack(f"chunk size {each[:9]!r}", head(CHUNKED) + each.encode() + b"\r\n{}\r\n0\r\n\r\n")
            for each in sizes
        ],
        _attack("a chunk that runs on", head(CHUNKED) + b"2\r\n{}{}{}{}\r\n0\r\n\r\n"),
        _attack("endless trailers", _endless(head(CHUNKED) + b"0\r\n", b"A: b\r\n", 500)),
        _attack("ten thousand header lines", head(*["A: b"] * 10_000)),
        _attack("a hundred and one header lines", head(*["A: b"] * 101, method="GET", path="/health"), 400),
        _attack("a header of a megabyte", head("A: " + "b" * 2**20)),
        _attack("a header without end", _endless(b"GET / HTTP/1.1\r\nA: ", _BIG)),
        _attack("endless header lines", _endless(b"GET / HTTP/1.1\r\n", b"A: b\r\n", 500)),
        _attack("a path of a megabyte", head(method="GET", path="/" + "a" * 2**20)),
        _attack("a zero byte in the path", head(method="GET", path="/v1/\0models")),
        _attack("bytes above 127 in the path", head(method="GET", path="/v1/\xff\xfe")),
        _attack("a zero byte in a header", head("A: b\0c", method="GET", path="/health")),
        _attack("a carriage return in a header", head("A: b\rC: d", method="GET", path="/health")),
        _attack("a header name with a space", head("A B: c", method="GET", path="/health")),
        _attack("a space before the colon", head("Content-Length : 5") + b"12345"),
        _attack("two hosts", head("Host: evil.example", method="GET", path="/health")),
        _attack("no host", head(method="GET", path="/health", host=False)),
        _attack("another site's whole address", head(method="GET", path="http://evil.example/health"), 401, 403, 404),
        _attack("HTTP/0.9", b"GET /health\r\n\r\n"),
        _attack("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        _attack("HTTP/9.9", b"GET /health HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", *REFUSED, 505),
        _attack("TLS", bytes.fromhex("16030100c8010000c40303") + b"\0" * 190),
        _attack("noise", bytes(range(256)) * 300),
        _attack(
            "a WebSocket",
            head("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==", method="GET", path="/v1/x"),
        ),
        _attack(
            "HTTP/2 in clear text",
            head("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", method="GET", path="/v1/x"),
        ),
        _attack("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        _attack("a promise of too much", head("Expect: 100-continue", "Content-Length: 9000000"), 413),
        _attack(
            "five thousand ranges",
            head("Range: bytes=" + "0-," * 5000 + "0-", method="GET", path="/v1/models"),
            200,
            *REFUSED,
        ),
        _attack("a reversed range", head("Range: bytes=9-1,-,a-b", method="GET", path="/v1/models"), 200, *REFUSED),
        _attack("a big body without a key", _endless(head("Content-Length: 900000", key=False), _BIG), 401),
        _attack(
            "a thousand requests at once",
            lambda raw: _many(raw, [head(method="GET", path="/v1/models")] * 1000, 1000),
            200,
            CLOSED,
        ),
        _attack(
            "a request behind the last one",
            head("Connection: close", method="GET", path="/v1/models") * 2,
            200,
            *REFUSED,
        ),
        _attack("gone in the middle of a stream", _stream_and_leave, CLOSED),
        _attack("gone in the middle of a body", _and_leave(head("Content-Length: 5000") + b"{"), CLOSED),
        _attack("gone at once", Raw.reset, CLOSED),
    ]
