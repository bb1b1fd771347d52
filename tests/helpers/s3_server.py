"""An S3 that runs on the loopback (moto's server), and a way to it that breaks off."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import boto3
from moto.server import ThreadedMotoServer

KEY, SECRET = "AKIAPLANTEDKEYFORTEST", "planted/Secret0Key0Of0Tests0xyz"


class Store:
    """A server with one account that may read; its requests are checked from `lock` on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any-other"
        )

    def put(self, bucket: str, files: dict[str, bytes]) -> None:
        """Write files into a new bucket."""
        self._client.create_bucket(Bucket=bucket)
        for name, content in files.items():
            self._client.put_object(Bucket=bucket, Key=name, Body=content)

    def lock(self) -> tuple[str, str]:
        """Check every request from now on; returns the key and the secret of an account that may read."""
        people = boto3.client(
            "iam",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any-other",
        )
        people.create_user(UserName="reader")
        may = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*", "s3:Head*"], "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
        people.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=document)
        made = people.create_access_key(UserName="reader")["AccessKey"]
        self._ask("reset-auth", b"0")
        return made["AccessKeyId"], made["SecretAccessKey"]

    def open(self) -> None:
        """Check nothing any more."""
        self._ask("reset-auth", b"1000000")

    def _ask(self, what: str, body: bytes) -> None:
        headers = {"Content-Type": "text/plain"}  # a form would be taken apart
        asked = urllib.request.Request(f"{self.url}/moto-api/{what}", body, headers, method="POST")
        urllib.request.urlopen(asked, timeout=10).close()


@contextmanager
def store() -> Iterator[Store]:
    """A server that runs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Store(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def breaking_way(url: str, after: int, times: int) -> Iterator[str]:
    """The address of a way to a server that is cut so many bytes into an answer, so many times; it then stays whole."""
    target = url.removeprefix("http://").partition(":")
    listener = socket.create_server(("127.0.0.1", 0))
    left = [times]

    def carry(client: socket.socket) -> None:
        with client, socket.create_connection((target[0], int(target[2]))) as server:
            back = threading.Thread(target=_give_back, args=(server, client, after, left), daemon=True)
            back.start()
            with suppress(OSError):
                while piece := client.recv(1 << 16):
                    server.sendall(piece)
            back.join(10)

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=carry, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _give_back(server: socket.socket, client: socket.socket, after: int, left: list[int]) -> None:
    passed = 0
    with suppress(OSError):
        while piece := server.recv(1 << 14):
            passed += len(piece)
            client.sendall(piece)
            if passed > after and left[0] > 0:
                left[0] -= 1
                client.shutdown(socket.SHUT_RDWR)
                server.shutdown(socket.SHUT_RDWR)
                return
