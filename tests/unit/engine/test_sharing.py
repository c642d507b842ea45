import pytest

from streamer.engine.ledger import Ledger
from streamer.engine.sharing import Sharing
from streamer.errors import Reason
from streamer.records import Cached, Record, Rejected
from streamer.slices import sliced

ANSWER = b"1"
FAILURE = Rejected(Reason.MODEL_ERROR, "m", "E")


class Setup:
    def __init__(self):
        self.ledger = Ledger()
        self.sharing = Sharing()
        self.offset = 0

    def item(self, partition=0, key=b"k"):
        (rows,) = self.ledger.open(sliced([Record("t", partition, self.offset, b"", b"", None, 0)]))
        (made,) = rows
        self.offset += 1
        made.columns.content_keys[0] = key
        return made

    def settle(self, item, outcome):
        item.settle(outcome)
        return self.sharing.answered(item, outcome)

    def give_up(self, partition):
        self.ledger.forget([partition])
        self.sharing.forget()


@pytest.fixture
def setup():
    return Setup()


def test_nobody_computes_what_nobody_leads(setup):
    assert setup.sharing.follow(setup.item()) is False


def test_equal_items_follow_until_the_answer_comes(setup):
    leader, follower, other = setup.item(), setup.item(), setup.item(key=b"other")
    setup.sharing.lead(leader)
    assert setup.sharing.follow(follower) is True
    assert setup.sharing.follow(other) is False
    assert setup.settle(leader, ANSWER) == [follower]


def test_until_it_is_durable_an_answer_is_shared_at_once(setup):
    leader = setup.item()
    setup.sharing.lead(leader)
    setup.settle(leader, ANSWER)
    assert setup.sharing.follow(setup.item()) == Cached(b"1")
    setup.sharing.end(leader)
    assert setup.sharing.follow(setup.item()) is False


def test_a_failure_is_not_shared(setup):
    leader, follower = setup.item(), setup.item()
    setup.sharing.lead(leader)
    setup.sharing.follow(follower)
    assert setup.settle(leader, FAILURE) == [follower]
    assert setup.sharing.follow(setup.item()) is False


def test_a_leader_of_a_partition_that_was_given_up_leads_nobody_new(setup):
    leader = setup.item(partition=0)
    setup.sharing.lead(leader)
    setup.give_up(0)
    assert setup.sharing.follow(setup.item(partition=1)) is False


def test_it_still_answers_those_who_follow_from_another_partition(setup):
    leader, follower = setup.item(partition=0), setup.item(partition=1)
    setup.sharing.lead(leader)
    setup.sharing.follow(follower)
    setup.give_up(0)
    assert setup.settle(leader, ANSWER) == [follower]
    assert setup.sharing.follow(setup.item(partition=1)) is False


def test_an_answer_that_will_never_be_durable_is_let_go(setup):
    leader = setup.item(partition=0)
    setup.sharing.lead(leader)
    setup.settle(leader, ANSWER)
    setup.give_up(0)
    assert setup.sharing.follow(setup.item(partition=1)) is False


def test_ending_one_item_does_not_end_another_of_its_key(setup):
    first, second = setup.item(), setup.item()
    setup.sharing.lead(first)
    setup.sharing.lead(second)
    setup.sharing.end(first)
    assert setup.sharing.follow(setup.item()) is True
