"""An identity provider small enough to read: signed tokens for the client whose secret is right, over https."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import trustme
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.services.process import HOST

LIFE_S = 300
KEY_ID = "tests"


class TokenServer:
    """`url` is the token endpoint, for the OAuth 2 grant client_credentials; the public key lies in `jwks`."""

    issuer = "https://tests.example"
    audience = "kafka"
    client_id = "streamer-client"

    def __init__(self, ca: trustme.CA, jwks: Path, subject: str) -> None:
        self.secret = "right-client-secret"
        self._subject = subject
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        jwks.write_text(json.dumps({"keys": [self._public()]}))
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(HOST, "localhost").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self) -> str:
        """A JSON Web Token (RFC 7519), signed with RS256."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": self._subject,
            "scope": "kafka",
            "iat": now,
            "exp": now + LIFE_S,
        }
        signed = f"{_encoded({'alg': 'RS256', 'typ': 'JWT', 'kid': KEY_ID})}.{_encoded(claims)}"
        return f"{signed}.{_base64(self._key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"

    def _public(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        parts = {
            name: _base64(value.to_bytes((value.bit_length() + 7) // 8))
            for name, value in (("n", numbers.n), ("e", numbers.e))
        }
        return {"kty": "RSA", "kid": KEY_ID, "alg": "RS256", "use": "sig", **parts}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
                expected = "Basic " + base64.b64encode(f"{outer.client_id}:{outer.secret}".encode()).decode()
                known = self.headers.get("Authorization") == expected
                if known and said.get("grant_type") == ["client_credentials"]:
                    self._answer(200, {"access_token": outer.token(), "token_type": "Bearer", "expires_in": LIFE_S})
                else:
                    self._answer(401, {"error": "invalid_client", "error_description": "unknown client or secret"})

            def _answer(self, status: int, body: dict[str, object]) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        return Handler


def _encoded(part: dict[str, object]) -> str:
    return _base64(json.dumps(part).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
