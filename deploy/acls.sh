#!/bin/sh
# Every right that streamer needs on a Kafka with ACLs, one a line, and no more. It prints the commands that give them:
#
#   PRINCIPAL=User:lead-scoring SOURCE=crm.leads.events.v1 TARGET=crm.leads.scores.v1 GROUP=streamer-lead-scoring \
#     BOOTSTRAP=kafka:9093 ADMIN=admin.properties sh deploy/acls.sh worker        (look at them; then: ... | sh)
#
# Roles: worker (streamer run and check), lag, produce, tail, replay, topics, windows, days (SOURCE is what they are made
# of, TARGET what the worker reads), backfill (TARGET is that of the worker with .backfill, or --target; make it first).
# GROUP is kafka.group_id, or streamer-<worker>. tests/integration/test_kafka_rights.py and test_more_rights.py give
# exactly this list to each role, and take every line away once, to see that just that fails, with an error that names it.
#
# Read and Write bring Describe along. No role needs Alter, Delete, or a right on the cluster. Take --add for --remove to
# take a right back.
set -eu

right() { # OPERATION RESOURCE NAME [prefixed]
  printf "%s --bootstrap-server '%s' --command-config '%s' --add --allow-principal '%s' " \
    "${KAFKA_ACLS:-kafka-acls.sh}" "${BOOTSTRAP:-localhost:9092}" "${ADMIN:-admin.properties}" "${PRINCIPAL:?User:name}"
  printf -- "--operation %s --%s '%s' --resource-pattern-type %s\n" "$1" "$2" "$3" "${4:-literal}"
}

worker() {
  right Read topic "${SOURCE:?the topic of events}"
  right Read group "${GROUP:?kafka.group_id, or streamer-WORKER}"
  right Write topic "${TARGET:?the topic of predictions}"
  right Write topic "dlq.$SOURCE"
  right Write transactional-id "$GROUP." prefixed # its replicas: <group>.<slot>; not with delivery = "at_least_once"
}

lag() {
  right Read topic "${SOURCE:?the topic of events}" # for the age of the oldest event that waits
  right Describe group "${GROUP:?kafka.group_id, or streamer-WORKER}"
}

produce() {
  right Write topic "${SOURCE:?the topic of events}"
}

tail() {
  right Read topic "${TOPIC:?the topic to follow}"
  right Describe group streamer-tail
}

replay() {
  right Read topic "dlq.${SOURCE:?the topic of events}"
  right Read group "streamer-replay-dlq.$SOURCE"
  right Write topic "$SOURCE"
  right Write transactional-id "streamer-replay-dlq.$SOURCE"
}

windows() {
  right Read topic "${SOURCE:?the topic of events}"
  right Read group "${GROUP:?kafka.group_id, or streamer-WORKER}.windows." prefixed # one for each version of the windows
  right Read topic "$GROUP.windows." prefixed # what is counted, to go on from
  right Write topic "$GROUP.windows." prefixed
}

days() {
  right Read topic "${SOURCE:?the topic that days are made of}"
  right Read topic "${TARGET:?the topic of the worker's events}" # the last day that was sent, to go on from
  right Write topic "$TARGET"
  right Read group "${GROUP:?kafka.group_id, or streamer-WORKER}.days"
  right Write transactional-id "$GROUP.days"
}

backfill() {
  right Read topic "${SOURCE:?the topic of events}"
  right Read group "${GROUP:?kafka.group_id, or streamer-WORKER}.backfill." prefixed # one for each range
  right Write topic "${TARGET:?the topic of predictions}"
  right Write topic "dlq.$SOURCE"
  right Write transactional-id "$GROUP.backfill." prefixed
}

topics() { # once, by who deploys: streamer topics apply
  for topic in "${SOURCE:?the topic of events}" "${TARGET:?the topic of predictions}" "dlq.$SOURCE"; do
    right Create topic "$topic"
    right Describe topic "$topic"
  done
}

case "${1:-}" in
  worker | lag | produce | tail | replay | topics | windows | days | backfill) "$1" ;;
  *) echo "usage: sh $0 worker|lag|produce|tail|replay|topics|windows|days|backfill (names in variables: see its first lines)" >&2; exit 2 ;;
esac
