"""The fault matrix: every fault, what is expected under it, and the tests that hold it.

    python -m tests.faults.matrix            # the tests, for pytest
    python -m tests.faults.matrix --table    # the rows

A test is named by its file below `tests` and its function. `bug` names tests in which a bug is planted that the
oracle of the row must notice.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

E1 = "each event has exactly one outcome, in order"


@dataclass(frozen=True)
class Row:
    """One fault, or one kind of them."""

    number: int
    fault: str
    expected: str
    tests: tuple[str, ...]
    bug: tuple[str, ...]


def within(file: str, *names: str) -> tuple[str, ...]:
    """Tests of one file."""
    return tuple(f"tests/{file}.py::test_{name}" for name in names)


FAULTS = "integration/test_faults"
RECORDS, HOST = "integration/test_faults_records", "integration/test_faults_host"
RIGHTS = "integration/test_kafka_rights"
MODELS, KILLERS = "integration/test_faults_models", "integration/test_faults_killers"
NETWORK, CLUSTER = "integration/test_faults_network", "integration/test_faults_cluster"
REDIS, LATE, CACHE = "integration/test_redis_faults", "integration/test_redis_late_answers", "unit/cache/test_answers"
LONG_RUN, RUNNER, CHECKER = "faults/test_long_run", "unit/device/test_runner", "faults/test_checker"

POSITIONS = within(FAULTS, "wrong_positions_are_noticed")
ORDER = within(FAULTS, "a_wrong_order_is_noticed")
ZOMBIE = within(FAULTS, "a_zombie_that_is_not_fenced_is_noticed")
TORN = within(CLUSTER, "a_torn_transaction_is_noticed_where_all_is_exact_in_the_end")
DROPPED = within(RECORDS, "dead_letters_that_are_dropped_are_noticed")

ROWS = (
    Row(
        1,
        "kill -9 of a worker at every step, and at random",
        f"{E1}; its partitions are served again within 10 s",
        within(
            FAULTS,
            "kill_9_at_every_step",
            "kill_9_at_random_times_among_broken_records",
            "the_partitions_of_a_killed_worker_are_served_again_soon",
            "at_least_once_may_repeat_and_never_loses",
        ),
        POSITIONS,
    ),
    Row(
        2,
        "a worker frozen beyond its session and its transaction",
        f"what it commits late is refused; {E1}",
        within(FAULTS, "zombies_are_refused"),
        ZOMBIE,
    ),
    Row(
        3,
        "two workers of one transactional id",
        f"the older ends with 75 and says why; {E1}",
        within(FAULTS, "of_two_workers_with_one_slot_one_leaves"),
        ZOMBIE,
    ),
    Row(
        4,
        "rebalances, both protocols",
        f"{E1}; what moves is finished first",
        within(FAULTS, "from_one_worker_to_three_and_back"),
        ORDER,
    ),
    Row(
        5,
        "a batch that takes long",
        f"the group is served meanwhile, and nobody evicted; {E1}",
        within(HOST, "a_batch_longer_than_the_poll_interval_evicts_nobody")
        + within(FAULTS, "sigterm_drains_and_leaves_nothing_to_do_again", "a_second_sigterm_leaves_at_once_and_safely"),
        POSITIONS,
    ),
    Row(
        6,
        "a broker stopped, killed and frozen: one, and one of three",
        f"waited for, without a restart of a worker; {E1}",
        within(FAULTS, "a_broker_restart_is_waited_for", "the_only_broker_may_die_at_any_moment")
        + within(CLUSTER, "a_broker_of_three_goes_away_during_commits"),
        TORN,
    ),
    Row(
        7,
        "the coordinator moves during a commit",
        E1,
        within(
            CLUSTER, "a_broker_of_three_goes_away_during_commits", "a_broker_that_comes_back_holds_what_it_has_missed"
        ),
        TORN,
    ),
    Row(
        8,
        "a request is done and its answer lost, or it comes late, or twice",
        f"a new producer asks what happened; {E1}, no transaction torn",
        within(
            NETWORK,
            "a_lost_answer_to_any_request_of_a_transaction",
            "a_late_request_of_any_kind",
            "a_request_that_arrives_twice",
            "ambiguous_ends_of_transactions",
        ),
        within(NETWORK, "what_is_wrong_about_an_ambiguous_end_is_noticed"),
    ),
    Row(
        9,
        "no network, a bad one, connections cut, a name that does not resolve",
        f"no busy loop; recovered within 10 s; {E1}",
        within(
            NETWORK,
            "an_outage_is_waited_for_without_haste_and_recovered_from",
            "a_bad_line_slows_and_harms_nothing",
            "connections_that_die_again_and_again",
            "a_name_that_does_not_resolve_for_a_while",
        ),
        within(NETWORK, "a_busy_loop_in_an_outage_would_be_noticed"),
    ),
    Row(
        10,
        "a full disk: of the worker's state, of its log, of the broker",
        f"it serves on with an alarm, or waits for the broker; {E1}",
        within(
            HOST,
            "a_full_disk_costs_the_marks_and_an_alarm_and_no_answer",
            "a_full_log_disk_silences_a_worker_and_does_not_stop_it",
            "a_broker_whose_disk_is_full_is_waited_for",
        ),
        within(HOST, "a_worker_that_a_full_disk_ends_is_noticed"),
    ),
    Row(
        11,
        "the wall clock jumps by an hour, either way",
        f"no time-out, no rebalance, no stall; {E1}",
        within(HOST, "a_clock_that_jumps_an_hour_changes_nothing"),
        within(HOST, "waits_on_the_wall_clock_are_noticed"),
    ),
    Row(
        12,
        "Redis down, frozen, slow, full, read-only, refusing, forgetting",
        "answers stay right; little added latency, then the circuit opens",
        within(
            REDIS,
            "answers_stay_right_and_the_circuit_opens_and_closes",
            "a_redis_that_only_refuses_to_write_still_answers",
            "features_are_gone_quietly_and_come_back",
            "one_that_evicts_only_misses",
            "one_that_forgets_everything_only_misses",
            "an_outage_costs_little_and_not_for_long",
        ),
        within(CACHE, "no_bit_may_be_another"),
    ),
    Row(
        13,
        "cached values of a wrong type, cut, flipped, of another model or key",
        "a miss, and counted",
        within(
            REDIS, "garbage_under_our_keys_is_a_miss_and_counted_and_mended", "what_another_deployment_wrote_is_a_miss"
        ),
        within(CACHE, "the_value_of_another_key_is_a_miss", "the_value_of_another_model_is_a_miss"),
    ),
    Row(
        14,
        "a late reply of Redis on a connection that is used again",
        "no answer to another question",
        within(LATE, "a_late_reply_never_answers_the_next_question"),
        within(LATE, "a_connection_that_is_used_again_after_a_time_out_is_noticed"),
    ),
    Row(
        15,
        "ten thousand equal events at once, with nothing cached",
        "computed once a process",
        within(REDIS, "ten_thousand_equal_events_are_computed_once"),
        within("unit/engine/test_sharing", "nobody_computes_what_nobody_leads"),
    ),
    Row(
        16,
        "no GPU memory, NaN, a wrong shape, a raise, a hang, a record that kills the process",
        "a dead letter with its reason, or a new process",
        within(
            RUNNER,
            "out_of_memory_halves_until_it_fits",
            "a_row_that_is_not_finite_is_rejected_alone_without_another_run",
            "an_output_of_the_wrong_shape_is_a_failure",
            "a_culprit_among_n_costs_about_two_log_n_runs",
            "a_broken_device_is_no_poison_record",
        )
        + within(KILLERS, "a_record_that_ends_its_process_becomes_a_dead_letter"),
        within(KILLERS, "a_killer_would_stop_its_partition_for_ever_without_marks"),
    ),
    Row(
        17,
        "a worker beyond its memory, its files or its threads",
        f"it goes on, or ends with a reason; {E1} after the next start",
        within(
            HOST,
            "the_kernel_kills_a_worker_for_its_memory",
            "an_allocation_that_fails_costs_a_repetition",
            "a_worker_without_a_free_descriptor_serves_on",
            "a_worker_that_may_start_no_thread_ends_with_a_reason",
        ),
        within(HOST, "positions_ahead_of_answers_are_noticed_after_a_stop"),
    ),
    Row(
        18,
        "bad records: a corpus",
        "each a dead letter with its reason, or a documented acceptance; the next is served",
        within(RECORDS, "a_bad_record_is_a_dead_letter_and_the_next_is_served"),
        DROPPED,
    ),
    Row(
        19,
        "an answer too large, the target gone, a right taken away, a quota",
        f"a dead letter, an end with the cure, slow; {E1}",
        within(
            RECORDS,
            "an_answer_that_the_topic_refuses_stops_the_worker_and_is_not_lost",
            "an_answer_larger_than_a_record_may_be_is_a_dead_letter",
            "a_topic_that_is_gone_stops_the_worker_and_no_position_passes",
            "a_quota_makes_it_slow_and_loses_nothing",
        )
        + within(RIGHTS, "a_right_that_is_taken_away_ends_the_worker_and_is_named"),
        DROPPED,
    ),
    Row(
        20,
        "upstream: duplicates, aborted transactions, compaction, retention that overtakes",
        "read right; what is gone is an error and no silent skip",
        within(
            RECORDS,
            "what_upstream_repeats_aborts_and_compacts_is_read_right",
            "retention_that_overtakes_the_position_is_an_error",
        ),
        within(RECORDS, "a_silent_skip_is_noticed"),
    ),
    Row(
        21,
        "the topic of dead letters is gone, or forbidden",
        f"no position passes, exit 69 with its name; when it is back, {E1}",
        within(RECORDS, "a_topic_that_is_gone_stops_the_worker_and_no_position_passes")
        + within(RIGHTS, "no_position_moves_without_the_right", "with_the_right_back_every_record_is_answered_once"),
        DROPPED,
    ),
    Row(
        22,
        "model files swapped, cut, missing, linked",
        "refused at the start with 78; a running worker keeps its own",
        within(
            MODELS,
            "a_harmed_model_is_refused_before_anything_starts",
            "the_old_model_serves_while_its_file_is_swapped",
        ),
        within(MODELS, "a_swap_that_is_not_looked_for_is_noticed"),
    ),
    Row(
        23,
        "SIGTERM and SIGINT, again and again, in a rebalance, twice",
        f"exit 0 within the grace; {E1}",
        within(
            HOST,
            "sigterm_in_the_middle_of_the_work_is_clean_each_time",
            "a_signal_inside_a_rebalance_is_kept_for_after_it",
        )
        + within(FAULTS, "a_second_sigterm_leaves_at_once_and_safely"),
        within(HOST, "positions_ahead_of_answers_are_noticed_after_a_stop"),
    ),
    Row(
        24,
        "hours of mixed faults",
        f"memory, files and threads stay flat; {E1} (`make soak`)",
        within(LONG_RUN, "a_flat_line_does_not_grow_and_a_leak_does", "one_wrong_outcome_fails_the_run"),
        within(LONG_RUN, "a_flat_line_does_not_grow_and_a_leak_does"),
    ),
)
"""Rows 1 to 24."""

BESIDE = within(
    "integration/test_replay_faults",
    "a_replay_that_is_killed_at_every_step_sends_each_letter_once",
    "filters_and_kills_together_send_each_letter_once",
    "a_replay_without_its_notes_is_noticed",
) + within(HOST, "a_stuck_loop_fails_liveness_and_a_broker_that_is_away_does_not")
"""What is promised beside the rows: of dead letters that go back, and of the liveness probe."""


def node_ids() -> list[str]:
    """Every test of the matrix once, in the order of the rows."""
    return list(dict.fromkeys(name for row in ROWS for name in (*row.tests, *row.bug)) | dict.fromkeys(BESIDE))


def main() -> None:
    """Print what pytest is to run, or the rows."""
    options = argparse.ArgumentParser(prog="python -m tests.faults.matrix", description=__doc__)
    options.add_argument("--table", action="store_true", help="the rows, as a table for a README")
    if options.parse_args().table:
        print("| # | fault | expected | tests |\n|---|---|---|---|")
        print("\n".join(f"| {row.number} | {row.fault} | {row.expected} | {len(row.tests)} |" for row in ROWS))
    else:
        print("\n".join(node_ids()))


if __name__ == "__main__":
    main()
