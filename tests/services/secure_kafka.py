"""A real broker that lets nobody in: TLS, three ways to say who one is, and a list of rights (ACLs).

Its `bootstrap` is a door for the tests alone: plaintext on loopback, whose nameless user may do everything. Workers
come by `sasl` (SCRAM-SHA-512 and OAUTHBEARER over TLS) or by `mtls` (a client certificate), and may do what they
were given, and nothing else.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import trustme
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.services.kafka_service import CLUSTER_ID, SETTINGS, Kafka, fetch_jars, find_java
from tests.services.process import HOST, LocalProcess, Process, ServiceError, free_ports
from tests.services.token_server import TokenServer

ACLS = Path(__file__).parents[2] / "deploy" / "acls.sh"
PASSWORD = "right-password-hunter2"
USER = "streamer"
"""Whoever the worker comes as: the SCRAM user, the certificate's name and the token's subject."""
AGREE_S = 10.0


class Right(NamedTuple):
    """One line of an ACL list: `user` may do `operation` to a resource."""

    operation: str
    resource: str
    name: str
    pattern: str = "literal"
    user: str = f"User:{USER}"

    def binding(self) -> AclBinding:
        return AclBinding(
            ResourceType[self.resource.upper().replace("-", "_")],
            self.name,
            ResourcePatternType[self.pattern.upper()],
            self.user,
            "*",
            AclOperation[self.operation.upper().replace("-", "_")],
            AclPermissionType.ALLOW,
        )

    def filter(self) -> AclBindingFilter:
        binding = self.binding()
        return AclBindingFilter(
            binding.restype,
            binding.name,
            binding.resource_pattern_type,
            binding.principal,
            binding.host,
            binding.operation,
            binding.permission_type,
        )


def rights(role: str, **names: str) -> list[Right]:
    """The rights of a role as `deploy/acls.sh` gives them: the list that is shipped is the one that is tested."""
    done = subprocess.run(
        ["sh", str(ACLS), role],
        env={"PATH": os.environ["PATH"], "PRINCIPAL": f"User:{USER}", **names},
        capture_output=True,
        text=True,
        check=True,
    )
    return [_right(shlex.split(line)) for line in done.stdout.splitlines()]


def _right(words: list[str]) -> Right:
    said = dict(pairwise(words))
    assert "--add" in words
    resource = next(name for name in ("topic", "group", "transactional-id") if f"--{name}" in words)
    name, pattern = said[f"--{resource}"], said["--resource-pattern-type"]
    return Right(said["--operation"], resource, name, pattern, said["--allow-principal"])


class SecureKafka(Kafka):
    """The broker, the authority that vouches for it, and who may do what there."""

    def __init__(self, process: Process, ports: list[int], ca: trustme.CA, tokens: TokenServer, folder: Path) -> None:
        super().__init__(f"{HOST}:{ports[0]}", process)
        self.sasl, self.mtls = f"{HOST}:{ports[1]}", f"{HOST}:{ports[2]}"
        self.sasl_by_another_name = f"127.0.0.2:{ports[1]}"
        self.ca, self.tokens, self._folder = ca, tokens, folder
        self.ca_file = str(folder / "ca.pem")

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def certificate(self, name: str = USER, ca: trustme.CA | None = None, **more: Any) -> dict[str, str]:
        """A new client certificate, as librdkafka's settings name its files."""
        issued = (ca or self.ca).issue_cert(f"{name}@test.example", common_name=name, **more)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        issued.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
        issued.private_key_pem.write_to_path(str(folder / "client.key"))
        return {
            "ssl.certificate.location": str(folder / "client.pem"),
            "ssl.key.location": str(folder / "client.key"),
        }

    def by_scram(self) -> dict[str, str]:
        """What librdkafka needs to come by `sasl` with a password."""
        return {
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": self.ca_file,
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": USER,
            "sasl.password": PASSWORD,
        }

    def by_token(self) -> dict[str, str]:
        """What it needs to come by `sasl` with a token, which it fetches itself."""
        return {
            "security.protocol": "sasl_ssl",
            "ssl.ca.location": self.ca_file,
            "https.ca.location": self.ca_file,
            "sasl.mechanisms": "OAUTHBEARER",
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.client.id": self.tokens.client_id,
            "sasl.oauthbearer.client.secret": self.tokens.secret,
            "sasl.oauthbearer.token.endpoint.url": self.tokens.url,
        }

    def by_certificate(self) -> dict[str, str]:
        """What it needs to come by `mtls`."""
        return {"security.protocol": "ssl", "ssl.ca.location": self.ca_file, **self.certificate()}

    def set_password(self, password: str, user: str = USER) -> None:
        """Give a SCRAM user a password."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change: Any = UserScramCredentialUpsertion(user, info, password.encode())
        self.admin.alter_user_scram_credentials([change])[user].result(AGREE_S)

    def grant(self, rights: Iterable[Right]) -> None:
        bindings = [right.binding() for right in rights]
        for done in self.admin.create_acls(bindings).values():
            done.result(AGREE_S)
        self._wait_for(bindings, present=True)

    def revoke(self, rights: Iterable[Right]) -> None:
        given = list(rights)
        for done in self.admin.delete_acls([right.filter() for right in given]).values():
            if not done.result(AGREE_S):
                raise ServiceError("a right that nobody has cannot be taken away: the test's list is wrong")
        self._wait_for([right.binding() for right in given], present=False)

    def close(self) -> None:
        self.tokens.close()
        super().close()

    def _wait_for(self, bindings: list[AclBinding], *, present: bool) -> None:
        """The controller has agreed; the broker that decides hears of it a moment later."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        deadline = time.monotonic() + AGREE_S
        while time.monotonic() < deadline:
            with suppress(KafkaException):
                known = set(self.admin.describe_acls(everything).result(AGREE_S))
                if all((binding in known) == present for binding in bindings):
                    return
            time.sleep(0.05)
        raise ServiceError("the broker has not heard of a change of rights")


def start_secure_kafka(heap_mb: int = 512) -> SecureKafka:
    """A KRaft broker on the local JVM, with its certificate, its token server, and no rights given to anybody."""
    java, jars = find_java(), fetch_jars()
    folder = Path(tempfile.mkdtemp(prefix="streamer-secure-kafka-"))
    ports = free_ports(4)
    ca = trustme.CA()
    tokens = TokenServer(ca, folder / "jwks.json", USER)
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    pem = folder / "broker.pem"  # PKCS #8 key and certificate in one file, as Kafka's PEM keystore wants them
    issued = ca.issue_cert(HOST, "localhost")
    pem.write_bytes(_pkcs8(issued.private_key_pem.bytes()) + b"".join(p.bytes() for p in issued.cert_chain_pems))
    settings = {
        **SETTINGS,
        **_security(ports, pem, folder / "ca.pem", folder / "jwks.json", tokens),
        "log.dirs": str(folder / "data"),
    }
    properties = folder / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    run = [
        java,
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-Dlog4j2.level=WARN",
        f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{folder / 'jwks.json'}",
        "-cp",
        f"{jars}/*",
    ]
    kafka = SecureKafka(LocalProcess([*run, "kafka.Kafka", str(properties)], folder), ports, ca, tokens, folder)
    done = subprocess.run(
        [*run, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        kafka.close()
        raise ServiceError(f"Kafka could not format its storage:\n{(done.stdout + done.stderr)[-2000:]}")
    kafka.launch()
    kafka.set_password(PASSWORD)
    return kafka


def _security(ports: list[int], pem: Path, ca: Path, jwks: Path, tokens: TokenServer) -> dict[str, str]:
    tests, sasl, mtls, controller = ports
    modules = "org.apache.kafka.common.security"
    return {
        "node.id": "1",
        "process.roles": "broker,controller",
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "TESTS",
        # 127.0.0.2 leads to the same door, and the certificate does not name it.
        "listeners": f"TESTS://{HOST}:{tests},SASL://0.0.0.0:{sasl},MTLS://{HOST}:{mtls},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"TESTS://{HOST}:{tests},SASL://{HOST}:{sasl},MTLS://{HOST}:{mtls}",
        "listener.security.protocol.map": "TESTS:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,MTLS:SSL",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ANONYMOUS",  # who comes by TESTS or CONTROLLER, which are on loopback
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(pem),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca),
        "listener.name.mtls.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": r"RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{modules}.scram.ScramLoginModule required;",
        "listener.name.sasl.oauthbearer.sasl.jaas.config": (
            f'{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="nobody";'
        ),
        "listener.name.sasl.oauthbearer.sasl.server.callback.handler.class": (
            f"{modules}.oauthbearer.OAuthBearerValidatorCallbackHandler"
        ),
        "listener.name.sasl.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": f"file://{jwks}",
        "listener.name.sasl.oauthbearer.sasl.oauthbearer.expected.audience": tokens.audience,
        "listener.name.sasl.oauthbearer.sasl.oauthbearer.expected.issuer": tokens.issuer,
        "connection.failed.authentication.delay.ms": "20",
    }


def _pkcs8(key_pem: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(key_pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
