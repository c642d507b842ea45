import pytest
import redis

from streamer.cache import ContentKey, NearCache, Payoff, RedisCache
from streamer.testing import ManualClock

KEY = b"\x00" * 16  # its first byte is in every sample


def content(secret=b"s", worker="w", digest="d", schema="S"):
    return ContentKey(secret, worker, digest, schema)


def test_equal_features_have_equal_keys():
    assert content().of((1, "a", None)) == content().of((1, "a", None))


@pytest.mark.parametrize("other", [(1, "a", 0), (1.0, "a", None), ("1", "a", None), (1, "a"), (True, "a", None)])
def test_different_features_have_different_keys(other):
    assert content().of((1, "a", None)) != content().of(other)


@pytest.mark.parametrize("other", [{"secret": b"t"}, {"worker": "x"}, {"digest": "e"}, {"schema": "T"}])
def test_another_secret_worker_model_or_schema_has_other_keys(other):
    assert content().of((1,)) != content(**other).of((1,))


def test_near_entries_expire_and_are_bounded():
    clock = ManualClock()
    near = NearCache(clock, 2, 10.0)
    near.put_many([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
    assert near.get_many([b"a", b"b", b"c"]) == [None, b"2", b"3"]
    clock.sleep(11)
    assert near.get_many([b"c"]) == [None]


def test_looking_up_pays_until_shown_otherwise():
    payoff = Payoff(lambda: 0.001)
    payoff.observe(1000, 0, 1.0)
    assert payoff.pays()
    payoff.observe(1500, 0, 1.0)
    assert not payoff.pays()


def test_a_rare_hit_on_a_slow_model_pays():
    payoff = Payoff(lambda: 0.010)
    payoff.observe(3000, 30, 0.25)
    assert payoff.pays()
    slow_lookups = Payoff(lambda: 0.010)
    slow_lookups.observe(3000, 30, 0.35)
    assert not slow_lookups.pays()


def test_while_it_does_not_pay_only_a_sample_of_the_keys_takes_part():
    payoff = Payoff(lambda: 0.001)
    payoff.observe(3000, 0, 1.0)
    taking_part = [first for first in range(256) if payoff.takes(bytes([first]) + b"rest")]
    assert len(taking_part) == Payoff.SAMPLE


def test_it_pays_again_when_the_sample_hits():
    payoff = Payoff(lambda: 0.001)
    payoff.observe(3000, 0, 1.0)
    for _ in range(20):
        payoff.observe(1000, 900, 0.01)
    assert payoff.pays()


class Broken:
    """A Redis that answers what it is told."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0
        self.connection_pool = self

    def disconnect(self):
        self.disconnected = True

    def mget(self, names):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer for _ in names]


def cache_over(client):
    clock = ManualClock()
    return RedisCache(client, NearCache(clock, 10, 10), Payoff(lambda: 1.0), clock=clock, secret=b"s", ttl_s=10)


@pytest.mark.parametrize("error", [redis.TimeoutError(), redis.ConnectionError(), redis.ResponseError("OOM")])
def test_a_failing_redis_is_a_miss_and_soon_is_not_asked(error):
    client = Broken(error)
    cache = cache_over(client)
    for _ in range(10):
        assert cache.get_many([KEY]) == [None]
    assert client.asked == 3
    assert cache.circuit() == ("open", 3)
    assert client.disconnected


GARBAGE = [b"", b"x" * 16, b"x" * 40, 7, ["list"], None]


@pytest.mark.parametrize("value", GARBAGE)
def test_what_we_did_not_write_is_a_miss(value):
    assert cache_over(Broken(value)).get_many([KEY]) == [None]


def test_the_value_of_another_key_is_a_miss():
    writer = cache_over(Broken(None))
    answer = b'{"x":1}'
    client = Broken(writer._tag(KEY, answer) + answer)
    assert cache_over(client).get_many([KEY]) == [answer]
    assert cache_over(client).get_many([b"\x01" * 16]) == [None]
