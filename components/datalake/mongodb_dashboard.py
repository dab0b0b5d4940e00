"""The documents' dashboard: FerretDB's own series; of mongod what every scrape tells."""

from __future__ import annotations

from components.dashboards import HERE, PODS, RATE, Dashboard, Panel, graph, quiet, stat
from components.datalake.mongodb_config import MongodbConfig


def mongodb_dashboard(name: str, namespace: str, config: MongodbConfig) -> Dashboard:
    """Of one set of replicas, by either implementation."""
    job = f'job=~".*/{name}"'
    pods = f"{PODS}, {job}"
    traffic, saturation, errors = _ferretdb(pods)
    if config.implementation == "community":
        traffic, saturation, errors = _scrapes(pods)
    return Dashboard(
        name=name,
        title="Documents",
        description="MongoDB's protocol: replicas, requests and failures.",
        namespace=namespace,
        source=f"up{{{job}}}",
        pods=True,
        alerts="Mongodb(ReplicasMissing|Down|RequestsFail)",
        health=[
            stat(
                "Replicas that answer",
                f"{config.replicas} are declared; look at the pods of what is missing.",
                quiet(f"count(up{{{HERE}, {job}}} == 1)"),
                red_below=config.replicas,
            ),
        ],
        traffic=traffic,
        saturation=saturation,
        errors=errors,
    )


_Rows = tuple[list[Panel], list[Panel], list[Panel]]


def _ferretdb(pods: str) -> _Rows:
    answers = f"ferretdb_client_responses_total{{{pods}, "
    return (
        [
            graph(
                "Requests by command",
                "What clients ask for.",
                "reqps",
                {
                    "{{command}}": quiet(
                        f"sum by (command) (rate(ferretdb_client_requests_total{{{pods}}}[{RATE}]))"
                    )
                },
            ),
        ],
        [
            graph(
                "Resident memory",
                "Of the server's process; the limit of its pod ends it.",
                "bytes",
                {"{{pod}}": f"process_resident_memory_bytes{{{pods}}}"},
            ),
            graph(
                "Goroutines",
                "They grow with connections and with requests that wait for PostgreSQL.",
                "short",
                {"{{pod}}": f"go_goroutines{{{pods}}}"},
            ),
        ],
        [
            graph(
                "Requests that PostgreSQL failed",
                "FerretDB's internal errors: see its log, and PostgreSQL's dashboard.",
                "reqps",
                {
                    "{{pod}}": quiet(
                        f'sum by (pod) (rate({answers}result="InternalError"}}[{RATE}]))'
                    )
                },
            ),
            graph(
                "Refused requests",
                "By the protocol's name of the error; most are the client's mistakes.",
                "reqps",
                {
                    "{{result}}": quiet(
                        f'sum by (result) (rate({answers}result!~"ok|InternalError"}}[{RATE}]))'
                    )
                },
            ),
        ],
    )


def _scrapes(pods: str) -> _Rows:
    """The agent's series have never been seen here, so none is asked for by its name."""
    return (
        [
            graph(
                "Series of each member",
                "How much a member tells; its own series are named by MongoDB's agent.",
                "short",
                {"{{pod}}": f"scrape_samples_scraped{{{pods}}}"},
            )
        ],
        [
            graph(
                "Time to answer a scrape",
                "A member that is at its limits answers late.",
                "s",
                {"{{pod}}": f"scrape_duration_seconds{{{pods}}}"},
            )
        ],
        [
            graph(
                "Members that do not answer",
                "See their pods.",
                "short",
                {"members": quiet(f"count(up{{{pods}}} == 0)")},
            )
        ],
    )
