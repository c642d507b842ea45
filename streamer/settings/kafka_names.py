"""Which settings of librdkafka a user may pass through, and which not, with the reason.

An allow-list: librdkafka has settings that load a library, run a shell command or replace the broker.
"""

from __future__ import annotations

from ipaddress import ip_address

REFUSED = {
    "plugin.library.paths": "it loads code into this process",
    "sasl.kerberos.kinit.cmd": "it runs a shell command",
    "ssl.engine.location": "it loads code into this process",
    "ssl.engine.id": "it loads code into this process",
    "ssl.providers": "it loads code into this process",
    "enable.sasl.oauthbearer.unsecure.jwt": "it accepts tokens that nobody signed",
    "ssl.endpoint.identification.algorithm": "the broker's certificate is always checked against its name",
    "enable.ssl.certificate.verification": "the broker's certificate is always checked; set ssl.ca.location",
    "test.mock.num.brokers": "it replaces the broker without a word",
    "debug": "it logs what records hold",
    "bootstrap.servers": "set kafka.bootstrap_servers",
    "group.id": "set kafka.group_id",
    "auto.offset.reset": "set kafka.start",
    "transactional.id": "set kafka.slot",
    "client.id": "streamer sets it",
    "isolation.level": "streamer reads committed records only",
    "enable.auto.commit": "streamer commits offsets together with the outcomes of their records",
    "enable.auto.offset.store": "streamer commits offsets together with the outcomes of their records",
    "allow.auto.create.topics": "streamer topics apply makes topics",
    "enable.idempotence": "streamer's producers are always idempotent",
    "acks": "streamer's producers wait for all replicas",
    "partition.assignment.strategy": "streamer needs cooperative-sticky",
}
"""Name to the reason; every other name that is not in `CLIENT_SETTINGS` is refused too."""

_NAMES = """
    batch.num.messages batch.size broker.address.family broker.address.ttl client.dns.lookup client.rack
    compression.codec compression.level compression.type connections.max.idle.ms delivery.timeout.ms
    enable.metrics.push fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes
    fetch.queue.backoff.ms fetch.wait.max.ms group.instance.id group.protocol group.remote.assignor
    heartbeat.interval.ms https.ca.location https.ca.pem linger.ms log.connection.close
    max.partition.fetch.bytes max.poll.interval.ms message.max.bytes message.timeout.ms metadata.max.age.ms
    metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy queue.buffering.max.kbytes
    queue.buffering.max.messages queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages
    receive.message.max.bytes reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms
    retry.backoff.max.ms retry.backoff.ms
    sasl.kerberos.keytab sasl.kerberos.min.time.before.relogin sasl.kerberos.principal
    sasl.kerberos.service.name sasl.mechanism sasl.mechanisms sasl.oauthbearer.assertion.algorithm
    sasl.oauthbearer.assertion.claim.aud sasl.oauthbearer.assertion.claim.exp.seconds
    sasl.oauthbearer.assertion.claim.iss sasl.oauthbearer.assertion.claim.jti.include
    sasl.oauthbearer.assertion.claim.nbf.seconds sasl.oauthbearer.assertion.claim.sub
    sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.jwt.template.file
    sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
    sasl.oauthbearer.assertion.private.key.pem sasl.oauthbearer.client.credentials.client.id
    sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.client.id
    sasl.oauthbearer.client.secret sasl.oauthbearer.config sasl.oauthbearer.extensions
    sasl.oauthbearer.grant.type sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method
    sasl.oauthbearer.scope sasl.oauthbearer.sub.claim.name sasl.oauthbearer.token.endpoint.url
    sasl.password sasl.username security.protocol session.timeout.ms
    socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails socket.nagle.disable
    socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms
    ssl.ca.certificate.stores ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem
    ssl.cipher.suites ssl.crl.location ssl.curves.list ssl.key.location ssl.key.password ssl.key.pem
    ssl.keystore.location ssl.keystore.password ssl.sigalgs.list
    statistics.interval.ms sticky.partitioning.linger.ms topic.metadata.refresh.interval.ms
    transaction.timeout.ms
"""

CLIENT_SETTINGS = frozenset(_NAMES.split())


def is_loopback(server: str) -> bool:
    """Whether `server` (`host:port`, `host`, `[::1]:port`, perhaps with `scheme://`) is this machine."""
    host = server.strip().partition("://")[2] or server.strip()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_secret(key: str) -> bool:
    """Whether the value of a setting must not be shown."""
    words = ("secret", "password", "passphrase", "key.pem", "oauthbearer.config", "oauthbearer.extensions")
    return key in ("cache.url", "http.token") or any(word in key for word in words)
