import msgspec
import pytest
import redis

from streamer.cache.answers import FORM, TAG_BYTES, VALUE_BYTES_MAX, ContentKey, NearCache, Payoff, RedisCache
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


class Kept:
    """A Redis that keeps what it is told, and answers that, or `answer` if it has one."""

    def __init__(self, answer=None):
        self.values = {}
        self.ttl_ms = []
        self.answer = answer
        self.asked = 0
        self.connection_pool = self

    def disconnect(self):
        self.disconnected = True

    def mget(self, names):
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.values.get(name, self.answer) for name in names]

    def pipeline(self, transaction):
        assert not transaction
        return self

    def set(self, name, value, px):
        self.values[name] = value
        self.ttl_ms.append(px)

    def execute(self):
        """Nothing is sent."""


def cache_over(client, secret=b"s", bad_values=lambda count: None, ttl_s=10, clock=None):
    clock = clock or ManualClock()
    near = NearCache(clock, 10, 10)
    return RedisCache(client, near, Payoff(lambda: 1.0), clock=clock, secret=secret, ttl_s=ttl_s, bad_values=bad_values)


@pytest.mark.parametrize("error", [redis.TimeoutError(), redis.ConnectionError(), redis.ResponseError("OOM")])
def test_a_failing_redis_is_a_miss_and_soon_is_not_asked(error):
    client = Kept(error)
    cache = cache_over(client)
    for _ in range(10):
        assert cache.get_many([KEY]) == [None]
    assert client.asked == 3
    assert cache.circuit() == ("open", 3)
    assert client.disconnected


ANSWER = b'{"x":1}'


OTHER = b"\x01" * 16
NAME = b"streamer:answer:" + KEY


def stored(answer=ANSWER, key=KEY, **kwargs):
    """What a cache writes for an answer."""
    client = Kept()
    cache_over(client, **kwargs).put_many([(key, answer)])
    (value,) = client.values.values()
    return value


def read(value, key=KEY, **kwargs):
    """What a cache makes of a value, and how many bad ones it counted."""
    counted = []
    answers = cache_over(Kept(value), bad_values=counted.append, **kwargs).get_many([key])
    return answers, counted


def test_what_was_stored_is_found_by_another_process():
    assert read(stored()) == ([ANSWER], [])


def test_what_is_not_there_is_not_bad():
    assert read(None) == ([None], [])


GARBAGE = [b"", b"x" * 16, b"x" * 17, b"x" * 40, 7, ["list"], ANSWER]


@pytest.mark.parametrize("value", GARBAGE)
def test_what_we_did_not_write_is_a_miss_and_counted(value):
    assert read(value) == ([None], [1])


def test_no_bit_may_be_another():
    value = stored()
    for bit in range(8 * len(value)):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        assert read(bytes(flipped)) == ([None], [1]), bit


def test_no_part_is_the_whole():
    value = stored()
    for length in range(len(value)):
        assert read(value[:length]) == ([None], [1])
    assert read(value + b" ") == ([None], [1])


def test_the_value_of_another_key_is_a_miss():
    assert read(stored(), key=OTHER) == ([None], [1])


def test_the_value_of_another_model_is_a_miss():
    ours, theirs = content(digest="d"), content(digest="e")
    assert read(stored(key=theirs.of((1,))), key=ours.of((1,))) == ([None], [1])


@pytest.mark.parametrize("secret", [b"t", b"s" * 65, b""])
def test_who_has_another_secret_cannot_write_an_answer(secret):
    assert read(stored(secret=secret)) == ([None], [1])


def test_all_of_a_long_secret_counts():
    assert content(secret=b"s" * 64 + b"a").of((1,)) != content(secret=b"s" * 64 + b"b").of((1,))


def test_a_hash_of_features_is_no_tag():
    """Whoever chooses an event sees its key in Redis: by the same secret, but never a checksum."""
    value = stored()
    assert value[:1] == FORM
    assert not msgspec.msgpack.encode(("w", "d", "S")).startswith(FORM)


def test_bad_values_of_one_look_up_are_counted_together_and_the_rest_is_found():
    client = Kept()
    counted = []
    cache_over(client).put_many([(KEY, ANSWER), (OTHER, ANSWER)])
    client.values[NAME] = b"bad"
    cache = cache_over(client, bad_values=counted.append)
    assert cache.get_many([KEY, OTHER, b"\x02" * 16]) == [None, ANSWER, None]
    client.values.clear()
    client.answer = b"bad"
    assert cache.get_many([KEY, b"\x02" * 16, OTHER]) == [None, None, ANSWER], "the near cache knows it"
    assert counted == [1, 2]
    assert cache.circuit() == ("closed", 0), "it answers; what it says is another matter"


def test_an_answer_that_is_too_long_is_not_stored_and_not_believed():
    longest = VALUE_BYTES_MAX - len(FORM) - TAG_BYTES
    value = stored(b"x" * longest)
    assert read(value) == ([b"x" * longest], [])
    client = Kept()
    cache = cache_over(client)
    cache.put_many([(KEY, b"x" * (longest + 1)), (OTHER, ANSWER)])
    assert list(client.values) == [b"streamer:answer:" + OTHER]
    assert read(FORM + cache._tag(KEY, b"x" * (longest + 1)) + b"x" * (longest + 1)) == ([None], [1])


def test_answers_stored_together_expire_apart():
    client = Kept()
    cache_over(client, ttl_s=10).put_many([(bytes([number]) * 16, ANSWER) for number in range(200)])
    assert 9_000 <= min(client.ttl_ms) < 9_500 < 10_500 < max(client.ttl_ms) <= 11_000


def test_the_shortest_life_is_a_millisecond():
    client = Kept()
    cache_over(client, ttl_s=0.0001).put_many([(KEY, ANSWER)])
    assert client.ttl_ms == [1]


@pytest.mark.parametrize("count", [0, 2])
def test_fewer_or_more_answers_than_keys_are_a_failure(count):
    client = Kept()
    client.mget = lambda names: [None] * count
    cache = cache_over(client)
    assert cache.get_many([KEY]) == [None]
    assert cache.circuit() == ("closed", 1)
