"""The proxy of image transfer: tokens at the door, one replica for each upload.

HAProxy verifies the signature, the end and the audience of a token on every request. tusd keeps
an upload's state in the object store, so every replica can go on with it, but two must not write it
at once: requests of one upload go to the replica where it began, whose ordinal is in its name, and
as long as that one is not well to another, by a consistent hash of the name. Every pod has its own
proxy, which leads to its own tusd or to a peer's proxy. A sender that keeps its connection so has
no second proxy between itself and tusd: docs/decisions/0023 has what that cost.
"""

from __future__ import annotations

from components import shell
from components.datalake.transfer_config import (
    ALGORITHM,
    AUDIENCE,
    BASE_PATH,
    CLIENTS_PORT,
    METRICS_PORT,
    PEERS_PORT,
    SERVICE_PORT,
    TUSD_PORT,
    TransferConfig,
)

RUN = "/run/proxy"
TLS, TRUST, TOKENS = "/proxy/tls", "/proxy/trust", "/proxy/tokens"
CONFIG = "/proxy/config"
PUBLIC_KEY = f"{RUN}/tokens.pem"
SENDER, DEVICE = "X-Estate-Sender", "X-Estate-Device"
PAGE = ("/", "/index.html", "/upload.js", "/upload.css", "/tus.min.js")
"""What needs no token: the page that asks for one."""
_CERTIFICATE = f"ssl crt {TLS}/tls.crt alpn http/1.1"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _refused(text: str, condition: str) -> str:
    return (
        "  http-request return status 401 content-type application/json "
        f'string \'{{"error": "{text}"}}\' hdr WWW-Authenticate Bearer if {condition}'
    )


def _verified(open_: str = "") -> str:
    """Lines that let nobody pass without a good token, but to what the condition leaves open."""
    claim = "http_auth_bearer,jwt_payload_query"
    device = f"{{ {claim}('$.device') -m found }}"
    refusals = (
        ("no token", "{ http_auth_bearer -m found }"),
        (
            f"signed by another algorithm than {ALGORITHM}",
            f"{{ http_auth_bearer,jwt_header_query('$.alg') -m str {ALGORITHM} }}",
        ),
        (
            "not signed by the estate",
            f'{{ http_auth_bearer,jwt_verify("{ALGORITHM}","{PUBLIC_KEY}") -m int 1 }}',
        ),
        ("the token has expired", "{ var(txn.left) -m int gt 0 }"),
        (
            "the token is for something else",
            f"{{ {claim}('$.aud') -m str {AUDIENCE} }}",
        ),
    )
    return "\n".join(
        [
            "  http-request set-var(txn.now) date",
            f"  http-request set-var(txn.left) {claim}('$.exp','int'),sub(txn.now)",
            *(_refused(text, f"{open_}!{good}") for text, good in refusals),
            # What the service believes about the sender is what the token says.
            f"  http-request set-header {SENDER} %[http_auth_bearer,jwt_payload_query('$.sub')]",
            f"  http-request del-header {DEVICE}",
            f"  http-request set-var(txn.device) {claim}('$.device')",
            f"  http-request set-header {DEVICE} %[var(txn.device)] if {device}",
        ]
    )


def _homes(config: TransferConfig, name: str) -> str:
    """Which replica is an upload's own; HAProxy balances when that one is down, or is no more."""
    return "\n".join(
        f"  use-server {name}-{ordinal} if {{ var(txn.home) -m str {ordinal} }}"
        for ordinal in range(config.replicas)
    )


def _servers(config: TransferConfig, name: str, headless: str, domain: str) -> str:
    """A server for each replica: its own tusd is asked directly, a peer's by way of its proxy."""
    lines = []
    for ordinal in range(config.replicas):
        pod = f"{name}-{ordinal}"
        host = f"{pod}.{headless}.{domain}"
        checked = f"id {ordinal + 1} check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions"
        tls = (
            "resolvers cluster init-addr none ssl verify required "
            f"ca-file {TRUST}/ca.crt verifyhost {host} sni str({host})"
        )
        lines += [
            f'  .if streq("$HOSTNAME","{pod}")',
            f"    server {pod} 127.0.0.1:{TUSD_PORT} {checked}",
            "  .else",
            f"    server {pod} {host}:{PEERS_PORT} {checked} {tls}",
            "  .endif",
        ]
    return "\n".join(lines)


def haproxy_cfg(
    config: TransferConfig, name: str, headless: str, domain: str, *, verified: bool = True
) -> str:
    """haproxy.cfg; not `verified` lets everybody in (the fault of the token's check)."""
    tokens, own = (_verified("!page "), _verified()) if verified else ("", "")
    files = BASE_PATH.rstrip("/")
    return f"""\
global
  log stdout format raw local0 notice
  maxconn 4000
  hard-stop-after 15m
  ssl-load-extra-del-ext
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-server-options ssl-min-ver TLSv1.2
  tune.bufsize 65536

defaults
  mode http
  log global
  option dontlognull
  option redispatch
  retries 3
  timeout connect 2s
  timeout http-request 15s
  timeout http-keep-alive 75s
  timeout queue 15s
  # A sender may be silent for as long as tusd waits; the store may take its time at the end.
  timeout client 75s
  timeout server 180s

resolvers cluster
  parse-resolv-conf
  hold valid 2s
  hold nx 2s
  hold obsolete 5s
  resolve_retries 3
  timeout resolve 1s
  timeout retry 1s

frontend clients
  bind :{CLIENTS_PORT} {_CERTIFICATE}
  http-response set-header Strict-Transport-Security max-age=31536000
  http-response set-header X-Content-Type-Options nosniff
  http-response set-header Referrer-Policy no-referrer
  http-response set-header Content-Security-Policy "{_POLICY}"
  acl page path {" ".join(PAGE)}
  acl receipt path_beg /receipts/
{tokens}
  http-request return status 404 if !page !receipt !{{ path {files} }} !{{ path_beg {BASE_PATH} }}
  http-request deny deny_status 405 unless {{ method GET HEAD OPTIONS POST PATCH }}
  # It would make another method of a POST, past the line above.
  http-request del-header X-HTTP-Method-Override
  # What begins begins here; what goes on goes where it was, however its name is written.
  http-request set-var(txn.key) path,url_dec,field(3,/)
  http-request set-var(txn.home) var(txn.key),field(2,-)
  acl new path {files} {BASE_PATH}
  http-request set-var(txn.key) uuid if new
  http-request set-var(txn.home) env(HOSTNAME),field(-1,-) if new
  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request del-header Forwarded
  use_backend page if page or receipt
  default_backend replicas

backend replicas
  balance hash var(txn.key)
  hash-type consistent
  option httpchk
  http-check send meth GET uri /alive ver HTTP/1.1 hdr Host {name}
{_homes(config, name)}
{_servers(config, name, headless, domain)}

frontend peers
  bind :{PEERS_PORT} {_CERTIFICATE}
  monitor-uri /alive
  monitor fail if {{ nbsrv(own) lt 1 }}
{own}
  default_backend own

backend own
  option httpchk
  http-check send meth GET uri /alive ver HTTP/1.1 hdr Host {name}
  server tusd 127.0.0.1:{TUSD_PORT} check inter 1s fall 2 rise 1

backend page
  server service 127.0.0.1:{SERVICE_PORT}

frontend metrics
  bind :{METRICS_PORT} {_CERTIFICATE}
  monitor-uri /alive
  http-request use-service prometheus-exporter if {{ path /proxy }}
  http-request deny status 404 unless {{ path /tusd /service }}
  use_backend tusd-metrics if {{ path /tusd }}
  default_backend service-metrics

backend tusd-metrics
  http-request set-path /metrics
  server tusd 127.0.0.1:{TUSD_PORT}

backend service-metrics
  http-request set-path /metrics
  server service 127.0.0.1:{SERVICE_PORT}
"""


SERVE = shell.haproxy(
    f"{CONFIG}/haproxy.cfg",
    watched=f"{TLS}/tls.crt {TRUST}/ca.crt {TOKENS}/tls.crt",
    changed="certificates, trust, the tokens' key",
    prepare=f"""\
openssl x509 -in {TOKENS}/tls.crt -pubkey -noout > {PUBLIC_KEY}.new
mv {PUBLIC_KEY}.new {PUBLIC_KEY}
""",
)
