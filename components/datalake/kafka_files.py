"""The files that a broker runs with: properties, scripts, logging, metrics."""

from __future__ import annotations

from collections.abc import Sequence

from components import shell
from components.datalake.kafka_config import ADMIN_PRINCIPAL, BROKER_PRINCIPAL, KafkaConfig

CONTROLLER_PORT = 9090
INTERNAL_PORT = 9091
CLIENTS_PORT = 9093
METRICS_PORT = 9404

SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"
RUN = "/run/kafka"
DATA = "/var/lib/kafka/data"


def server_properties(
    config: KafkaConfig, hosts: Sequence[str], *, authenticate: bool = True
) -> str:
    """What all brokers share; node.id and advertised.listeners are added at the start.

    `hosts` are the brokers' DNS names by ordinal. `authenticate=False` opens the clients'
    listener to everyone: it exists for the fault of the password check.
    """
    voters = ",".join(f"{i}@{host}:{CONTROLLER_PORT}" for i, host in enumerate(hosts))
    ports = {
        "CONTROLLER": CONTROLLER_PORT,
        "INTERNAL": INTERNAL_PORT,
        "CLIENTS": CLIENTS_PORT,
    }
    listeners = ",".join(f"{listener}://:{port}" for listener, port in ports.items())
    clients = "SASL_SSL" if authenticate else "SSL"
    lines = [
        "process.roles=broker,controller",
        f"controller.quorum.voters={voters}",
        f"listeners={listeners}",
        "controller.listener.names=CONTROLLER",
        "inter.broker.listener.name=INTERNAL",
        f"listener.security.protocol.map=CONTROLLER:SSL,INTERNAL:SSL,CLIENTS:{clients}",
    ]
    for listener, store in (("controller", "internal"), ("internal", "internal")):
        lines += _tls(listener, store, client_auth="required")
    lines += _tls("clients", "clients", client_auth="none")
    lines += [
        "listener.name.clients.sasl.enabled.mechanisms=SCRAM-SHA-512",
        f"listener.name.clients.scram-sha-512.sasl.jaas.config={SCRAM_MODULE} required;",
        "ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        f"super.users=User:{BROKER_PRINCIPAL};User:{ADMIN_PRINCIPAL}",
        "allow.everyone.if.no.acl.found=false",
        f"log.dirs={DATA}/log",
        *(f"{key}={value}" for key, value in durability(config).items()),
        # The defaults (50 each) are for many more groups than one estate has.
        "offsets.topic.num.partitions=6",
        "transaction.state.log.num.partitions=6",
        "share.coordinator.state.topic.num.partitions=3",
        f"log.segment.bytes={config.segment_mib * 1024 * 1024}",
        # A dead broker is fenced after this long: it bounds the gap of a kill -9.
        "broker.session.timeout.ms=6000",
        "broker.heartbeat.interval.ms=1000",
        "group.initial.rebalance.delay.ms=200",
        "num.network.threads=2",
        "num.io.threads=4",
        "background.threads=4",
        "num.recovery.threads.per.data.dir=2",
        # 128 MiB by default, on the heap.
        "log.cleaner.dedupe.buffer.size=8388608",
    ]
    if config.retention_gib_per_partition is not None:
        lines.append(f"log.retention.bytes={config.retention_gib_per_partition * 1024**3}")
    return "\n".join([*lines, ""])


def durability(config: KafkaConfig) -> dict[str, str]:
    """The brokers' settings that decide about loss, whoever runs them."""
    factor, minimum = str(config.replication_factor), str(config.min_insync_replicas)
    return {
        "auto.create.topics.enable": "false",
        "unclean.leader.election.enable": "false",
        "default.replication.factor": factor,
        "min.insync.replicas": minimum,
        "offsets.topic.replication.factor": factor,
        "transaction.state.log.replication.factor": factor,
        "transaction.state.log.min.isr": minimum,
        "share.coordinator.state.topic.replication.factor": factor,
        "share.coordinator.state.topic.min.isr": minimum,
    }


def _tls(listener: str, store: str, *, client_auth: str) -> list[str]:
    prefix = f"listener.name.{listener}.ssl"
    return [
        f"{prefix}.keystore.type=PEM",
        f"{prefix}.keystore.location={RUN}/{store}.pem",
        f"{prefix}.truststore.type=PEM",
        f"{prefix}.truststore.location={RUN}/{store}-trust.pem",
        f"{prefix}.client.auth={client_auth}",
    ]


STOP_WAIT_S = 60

COMMON = f"""\
# Sourced by the other scripts: the broker's own properties and its key stores.
set -euo pipefail
umask 077
run="${{KAFKA_RUN:-{RUN}}}"
ordinal="${{HOSTNAME##*-}}"
write_properties() {{
  cp /etc/kafka/server.properties "$run/server.properties.new"
  {{
    echo "node.id=$ordinal"
    echo "advertised.listeners=INTERNAL://$HOSTNAME.$KAFKA_DOMAIN:{INTERNAL_PORT},\
CLIENTS://$HOSTNAME.$KAFKA_DOMAIN:{CLIENTS_PORT}"
  }} >> "$run/server.properties.new"
  mv "$run/server.properties.new" "$run/server.properties"
}}
write_stores() {{
  # Kafka reads a PEM key store from one file: key first, then the chain.
  cat /etc/kafka-tls/internal/tls.key /etc/kafka-tls/internal/tls.crt > "$run/internal.pem"
  cat /etc/kafka-tls/internal-ca/*.crt > "$run/internal-trust.pem"
  cat /etc/kafka-tls/clients/tls.key /etc/kafka-tls/clients/tls.crt > "$run/clients.pem"
  cat /etc/kafka-tls/clients/ca.crt > "$run/clients-trust.pem"
}}
fingerprint() {{ cat /etc/kafka-tls/*/tls.crt /etc/kafka-tls/internal-ca/*.crt | cksum; }}
peers_answer() {{
  for host in $(sed -n 's/^controller.quorum.voters=//p' /etc/kafka/server.properties \
    | tr ',' '\n' | sed 's/.*@//; s/:.*//'); do
    timeout 3 bash -c "exec 3<>/dev/tcp/$host/{INTERNAL_PORT}" 2>/dev/null || return 1
  done
}}
# A metric of the broker's exporter without its decimals; nothing when it does not answer.
metric() {{
  local line value=""
  exec 3<>/dev/tcp/127.0.0.1/{METRICS_PORT} || return 0
  printf 'GET /metrics?name[]=%s HTTP/1.0\\r\\n\\r\\n' "$1" >&3
  while IFS= read -r line <&3; do
    case "$line" in "$1 "*) value="${{line##* }}" ;; esac
  done
  exec 3>&-
  echo "${{value%%.*}}"
}}
# Whether a replica of what this broker leads is not in sync; no answer is none.
behind() {{
  case "$(metric kafka_replica_manager_underreplicatedpartitions)" in
    "" | 0) return 1 ;;
  esac
}}
"""

FORMAT = f"""\
#!/bin/bash
# Formats the storage once; a formatted one costs no Java start.
source /etc/kafka-scripts/common.sh
write_properties
if [ -f {DATA}/log/meta.properties ]; then
  echo "storage is formatted"
  exit 0
fi
mkdir -p {DATA}/log
KAFKA_OPTS= /opt/kafka/bin/kafka-storage.sh format --ignore-formatted \\
  --cluster-id "$KAFKA_CLUSTER_ID" --config "$run/server.properties"
"""

SERVE = """\
#!/bin/bash
# Runs the broker. When cert-manager renews a certificate the broker stops in good order and the
# kubelet starts it again with the new one: one broker after the other, two minutes apart.
source /etc/kafka-scripts/common.sh
before="$(fingerprint)"  # of what is read below, so that no change falls between
write_properties
write_stores
/opt/kafka/bin/kafka-server-start.sh "$run/server.properties" &
broker=$!
watch() {
  while sleep 15; do
    if [ "$(fingerprint)" != "$before" ]; then
      echo "certificate renewed: restarting in $((ordinal * 120)) s"
      sleep $((ordinal * 120))
      # Never two at a time: the others must have answered, and caught up, for a while, and for a
      # longer one the higher the ordinal, so that of two who waited for a third only one goes.
      seen=0
      while [ "$seen" -le $((ordinal * 4)) ]; do
        if peers_answer && ! behind; then seen=$((seen + 1)); else seen=0; fi
        sleep 5
      done
      kill -TERM "$broker" || true
      exit 0
    fi
  done
}
"""
SERVE += shell.until_it_ends("broker", watch="watch")

STOP = f"""\
#!/bin/bash
# Before a broker is stopped. The one that was stopped before it may run again and still have to
# catch up: a third replica less would be one too few for writers. With the others gone as well
# there is nothing to wait for.
source /etc/kafka-scripts/common.sh
end=$((SECONDS + {STOP_WAIT_S}))
while behind && peers_answer && [ "$SECONDS" -lt "$end" ]; do sleep 1; done
"""

RUNNING = """\
#!/bin/bash
# Asks the broker for its state: 3 is running, 2 recovering its log, 6 and 7 shutting down.
source /etc/kafka-scripts/common.sh
state="$(metric kafka_broker_state)"
echo "broker state: ${state:-none}"
[ "$state" = 3 ]
"""

LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601}{UTC}Z %p %c{1} %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
logger.quiet.name = org.apache.kafka.clients
logger.quiet.level = warn
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
logger.appinfo.name = org.apache.kafka.common.utils.AppInfoParser
logger.appinfo.level = warn
logger.props.name = kafka.server.KafkaConfig
logger.props.level = warn
logger.state.name = state.change.logger
logger.state.level = warn
"""

JMX = """\
lowercaseOutputName: true
lowercaseOutputLabelNames: true
includeObjectNames:
  - "kafka.server:type=KafkaServer,name=BrokerState"
  - "kafka.server:type=ReplicaManager,name=*"
  - "kafka.server:type=BrokerTopicMetrics,name=*"
  - "kafka.server:type=BrokerTopicMetrics,name=*,topic=*"
  - "kafka.server:type=raft-metrics"
  - "kafka.controller:type=KafkaController,name=*"
  - "kafka.network:type=RequestMetrics,name=TotalTimeMs,request=Produce"
  - "java.lang:type=Memory"
rules:
  - pattern: "kafka.server<type=KafkaServer, name=BrokerState><>Value"
    name: kafka_broker_state
    type: GAUGE
  - pattern: "kafka.server<type=ReplicaManager, name=(\\\\w+)><>Value"
    name: kafka_replica_manager_$1
    type: GAUGE
  - pattern: "kafka.server<type=BrokerTopicMetrics, name=(\\\\w+)PerSec, topic=(.+)><>Count"
    name: kafka_topic_$1_total
    labels: { topic: "$2" }
    type: COUNTER
  - pattern: "kafka.server<type=BrokerTopicMetrics, name=(\\\\w+)PerSec><>Count"
    name: kafka_broker_$1_total
    type: COUNTER
  - pattern: "kafka.controller<type=KafkaController, name=(\\\\w+)><>Value"
    name: kafka_controller_$1
    type: GAUGE
  - pattern: "kafka.server<type=raft-metrics><>(high-watermark|commit-latency-avg)"
    name: kafka_raft_$1
    type: GAUGE
  - pattern: "kafka.network<type=RequestMetrics, name=TotalTimeMs, request=Produce><>99thPercentile"
    name: kafka_produce_latency_p99_ms
    type: GAUGE
  - pattern: "java.lang<type=Memory><HeapMemoryUsage>used"
    name: kafka_heap_used_bytes
    type: GAUGE
"""
