"""The application behind `./estate`: every command with its options, nothing of their work.

A command imports what it runs only when it runs, so that `--help` stays quick. What it calls
returns nothing or an exit code, and raises `EstateError` for what the user can mend.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from rehearsal import paths
from rehearsal.errors import EstateError, UsageError

app = typer.Typer(
    name="estate",
    help="Bring the AI platform estate up on this machine, and prove that it works.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RAW = {"allow_extra_args": True, "ignore_unknown_options": True}

Name = Annotated[
    str,
    typer.Option(
        "--name", "-n", help="Name of the rehearsal; two of them run side by side.", metavar="NAME"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="File for the JSON result.", dir_okay=False)
]


def _call(target: str, /, *args: Any, **kwargs: Any) -> None:
    """Import `module:function`, call it, and end with the exit code that it returns."""
    if "name" in kwargs:
        paths.check_name(kwargs["name"])
    module, _, function = target.partition(":")
    run: Callable[..., int | None] = getattr(import_module(module), function)
    code = run(*args, **kwargs)
    if code:
        raise typer.Exit(code)


@app.command(rich_help_panel="The estate")
def up(
    name: Name = "local",
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="A profile beside the core (README has them); repeat it or separate by commas."
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every profile.")] = False,
    port_base: Annotated[
        int | None,
        typer.Option(help="First of the loopback ports of this rehearsal, 1024 to 65000."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use the cache only; fail where it lacks something.")
    ] = False,
) -> None:
    """Bring the estate up: tools, cluster, declaration, checks. Run again, it repairs."""
    profiles = [part for value in profile or [] for part in value.split(",") if part]
    _call(
        "rehearsal.up:up",
        name=name,
        profiles=profiles,
        all_=all_,
        port_base=port_base,
        offline=offline,
    )


@app.command(rich_help_panel="The estate", context_settings=RAW)
def preview(context: typer.Context, name: Name = "local") -> None:
    """Show what `up` would change; further options go to `pulumi preview` (such as --diff)."""
    _call("rehearsal.up:preview", name=name, args=list(context.args))


@app.command(rich_help_panel="Proof")
def rehearse(
    environment: Annotated[str, typer.Argument(help="configs/Pulumi.ENVIRONMENT.yaml.")],
    keep: Annotated[bool, typer.Option("--keep", help="Leave it for kubectl and pulumi.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use the cache only; fail where it lacks something.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try another environment on simulated nodes: schemas, admission, quotas, scheduling."""
    _call(
        "rehearsal.rehearse:rehearse",
        environment,
        keep=keep,
        as_json=as_json,
        offline=offline,
    )


@app.command(rich_help_panel="The estate")
def status(name: Name = "local", as_json: AsJson = False) -> None:
    """Show what runs, what is real or simulated, and where to click."""
    _call("rehearsal.commands:status", name=name, as_json=as_json)


@app.command(rich_help_panel="The estate")
def down(name: Name = "local") -> None:
    """Take the rehearsal away; nothing of it stays but the cache."""
    _call("rehearsal.commands:down", name=name)


@app.command(rich_help_panel="The estate")
def logs(
    component: Annotated[
        str, typer.Argument(help="A component, a pod or a process of the control plane.")
    ] = "",
    name: Name = "local",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
) -> None:
    """Print the logs of one component, or list what has logs."""
    _call("rehearsal.commands:logs", name=name, component=component, follow=follow)


@app.command(rich_help_panel="The estate")
def env(name: Name = "local") -> None:
    """Print the shell lines for pulumi and kubectl: `source <(./estate env)`."""
    _call("rehearsal.commands:env", name=name)


@app.command(rich_help_panel="Proof")
def verify(
    name: Name = "local",
    prove: Annotated[
        bool, typer.Option("--prove", help="Break each check's subject, see it red, restore it.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only checks whose id starts so; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the checks that the components declare, against the running estate."""
    _call("rehearsal.verify:run", name=name, prove=prove, only=only or [], as_json=as_json)


@app.command(rich_help_panel="Proof")
def demo(
    name: Name = "local",
    messages: Annotated[int, typer.Option(help="Messages to send.", min=1)] = 600,
    rate: Annotated[float, typer.Option(help="Messages per second.", min=0.1)] = 50.0,
) -> None:
    """Replay a real sensor series through MQTT and Kafka into PostgreSQL; count every message."""
    _call("rehearsal.demo:run", name=name, messages=messages, rate=rate)


@app.command(rich_help_panel="Proof")
def drill(
    which: Annotated[
        list[str] | None, typer.Argument(help="Drills to run; none: list them.")
    ] = None,
    name: Name = "local",
    out: Out = None,
    count: Annotated[
        int | None,
        typer.Option(help="Rounds of `interruptions` (20) or `rounds` (5); of `images`, 2000."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the moments of `interruptions` (1); of `images`, else new ones."),
    ] = None,
) -> None:
    """Break something for real, under writes, and measure outage and loss."""
    _call("rehearsal.drill:run", name=name, which=which or [], out=out, count=count, seed=seed)


@app.command(rich_help_panel="Proof")
def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="estate: a green rehearsal; engine: Pulumi beside kubectl; serving: models."
        ),
    ] = "estate",
    name: Name = "local",
    count: Annotated[
        int, typer.Option(help="Deployments of `bench engine`, and ConfigMaps.", min=1, max=2000)
    ] = 500,
    out: Out = None,
) -> None:
    """Measure rates and latencies, or what Pulumi costs; the JSON carries the commit."""
    if what == "estate":
        _call("rehearsal.bench:run", name=name, out=out)
    elif what == "engine":
        _call("rehearsal.bench_engine:run", count, out)
    elif what == "serving":
        _call("rehearsal.bench_serving:run", name=name, out=out)
    else:
        raise UsageError("bench", repr(what), "use estate, engine or serving")


@app.command(rich_help_panel="Proof", context_settings=RAW)
def test(
    context: typer.Context,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="unit, contract, browser or state; repeatable. All of them without it."),
    ] = None,
) -> None:
    """Run the project's tests, linters included; what follows `--` goes to pytest."""
    _call("rehearsal.testing:run", layers=layer or [], args=list(context.args))


@app.command(rich_help_panel="Machine", context_settings=RAW)
def tools(
    context: typer.Context,
    action: Annotated[
        str,
        typer.Argument(help="list; build [TOOL...]; path TOOL; lock [SET...]; prune (old builds)."),
    ] = "list",
) -> None:
    """Find or build the tools (pulumi, kubectl, the control plane); show their state."""
    _call("rehearsal.tool_commands:run", action, list(context.args))


@app.command(rich_help_panel="Machine", context_settings=RAW)
def images(
    context: typer.Context,
    action: Annotated[str, typer.Argument(help="list; build [IMAGE...]; sbom IMAGE.")] = "list",
) -> None:
    """Build the container images from packages; show their digests and bills of materials."""
    _call("rehearsal.images:command", action, list(context.args))


@app.command(rich_help_panel="The estate")
def backup(
    name: Name = "local",
    to_folder: Annotated[
        Path | None,
        typer.Option(help="Folder in which the backup gets one of its own.", file_okay=False),
    ] = None,
) -> None:
    """Write messages, databases and objects into a folder that describes itself."""
    _call("rehearsal.backup.commands:backup", name=name, to_folder=to_folder)


@app.command(rich_help_panel="The estate")
def restore(
    to: Annotated[str, typer.Option("--to", help="The rehearsal to fill.", metavar="NAME")],
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="The backup; without it the newest one.", file_okay=False),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete the data that the rehearsal holds.")
    ] = False,
) -> None:
    """Bring a backup into a rehearsal, and compare every row, message and object."""
    paths.check_name(to, "--to")
    _call("rehearsal.backup.commands:restore", to, from_, replace)


@app.command(rich_help_panel="The estate")
def upload(
    paths_: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Images, or folders of them.")
    ] = None,
    name: Name = "local",
    batch: Annotated[
        bool, typer.Option("--batch", help="Many small images in one upload.")
    ] = False,
    connections: Annotated[
        int | None, typer.Option(min=1, max=256, help="Uploads at a time; 64 of batches, else 8.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="The device that the images are from.", metavar="DEVICE")
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Print a token for the browser page, send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send images into the lake; run again after an interruption, it goes on from there."""
    if token:
        _call("rehearsal.upload:print_token", name=name, device=device)
    else:
        _call(
            "rehearsal.upload:run",
            paths_ or [],
            name=name,
            batch=batch,
            connections=connections,
            device=device,
            as_json=as_json,
        )


@app.command(rich_help_panel="The estate")
def token(
    name: Name = "local",
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    subject: Annotated[str, typer.Option(help="Whom it speaks for.")] = "estate",
) -> None:
    """Print a token for the lake's REST API, good for 15 minutes."""
    _call("rehearsal.token:run", name=name, role=role, subject=subject)


model_app = typer.Typer(
    name="model",
    help="Versions of models in an OCI registry: signed, never changed, read by digest.",
    no_args_is_help=True,
)
app.add_typer(model_app, rich_help_panel="The estate")
_Model = Annotated[str, typer.Argument(metavar="MODEL")]
_Version = Annotated[str, typer.Argument(metavar="VERSION", help="Its number, or a digest.")]
_Registry = Annotated[
    str | None,
    typer.Option(
        help="https://HOST:PORT/PATH, else $ESTATE_MODEL_REGISTRY, else the rehearsal's.",
        metavar="URL",
    ),
]
_Ca = Annotated[
    Path | None,
    typer.Option(help="Authorities to trust instead of certifi's.", dir_okay=False, exists=True),
]
_Trust = Annotated[
    list[Path] | None,
    typer.Option(
        help="A public key (PEM, as cosign.pub); repeatable. One must have signed it; else the "
        "rehearsal's.",
        dir_okay=False,
        exists=True,
    ),
]


def _place(
    name: str, registry: str | None, ca: Path | None, trust: list[Path] | None = None
) -> dict[str, Any]:
    """Which registry, as `model_repo.commands` takes it."""
    return {"name": name, "registry": registry, "ca": ca, "trust": trust or []}


@model_app.command("add")
def model_add(
    folder: Annotated[
        Path,
        typer.Argument(help="Has the files, and version.yaml.", file_okay=False, exists=True),
    ],
    version: Annotated[int, typer.Option(min=1, help="Number of the version.")],
    key: Annotated[
        Path | None,
        typer.Option(
            help="Private key (PEM, ECDSA P-256) that signs, else the rehearsal's.",
            dir_okay=False,
            exists=True,
        ),
    ] = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Of the key.", dir_okay=False, exists=True)
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            help="Commit of the training code, all 40 hex digits; else the folder's.",
            metavar="COMMIT",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Store a version and sign it; the same again changes nothing, another one is refused."""
    _call(
        "model_repo.commands:add",
        *(folder, version, key, passphrase_file, revision, as_json),
        **_place(name, registry, ca),
    )


@model_app.command("train")
def model_train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="digits, embedder or anomaly.")],
    out: Annotated[Path, typer.Option(help="Folder for its four folders.", file_okay=False)],
) -> None:
    """Train a reference model, and write it in four formats: each time the same bytes."""
    _call("rehearsal.training:command", model, out)


@model_app.command("list")
def model_list(
    model: _Model,
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    as_json: AsJson = False,
) -> None:
    """List a model's versions; 1 when one of them does not verify."""
    _call("model_repo.commands:list_", model, as_json, **_place(name, registry, ca, trust))


@model_app.command("show")
def model_show(
    model: _Model,
    version: _Version,
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    as_json: AsJson = False,
) -> None:
    """Say all that is written of a version, once its signature was found."""
    place = _place(name, registry, ca, trust)
    _call("model_repo.commands:show", model, version, as_json, **place)


@model_app.command("verify")
def model_verify(
    model: _Model,
    version: _Version,
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of a version, and compare it with its digest and signature."""
    place = _place(name, registry, ca, trust)
    _call("model_repo.commands:show", model, version, as_json, every_byte=True, **place)


@model_app.command("pull")
def model_pull(
    model: _Model,
    version: _Version,
    folder: Annotated[Path, typer.Argument(help="A new folder for its files.")],
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
) -> None:
    """Write a version's files into a folder, which appears whole or not at all."""
    place = _place(name, registry, ca, trust)
    _call("model_repo.commands:pull", model, version, folder, **place)


_Models = Annotated[
    Path | None,
    typer.Option(
        "--models",
        help="Folder with a folder for each model; else model_repo/models.",
        file_okay=False,
        exists=True,
        show_default=False,
    ),
]
_Environments = Annotated[
    list[str] | None, typer.Option("--environment", help="Who takes it; repeatable.", metavar="ENV")
]
_EdgeGroups = Annotated[
    list[str] | None,
    typer.Option("--edge-group", help="Who takes it; repeatable.", metavar="GROUP"),
]
_NewContract = Annotated[
    bool, typer.Option("--allow-new-contract", help="Its inputs or outputs may be others.")
]


@model_app.command("promote")
def model_promote(
    model: _Model,
    version: _Version,
    environment: _Environments = None,
    edge_group: _EdgeGroups = None,
    new_group: Annotated[
        bool, typer.Option("--new-group", help="An edge group may be one that is begun here.")
    ] = False,
    allow_new_contract: _NewContract = False,
    models: _Models = None,
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    as_json: AsJson = False,
) -> None:
    """Write a version to a model's model.yaml, once every byte of it was verified."""
    _call(
        "model_repo.declared_commands:promote_",
        *(model, version, environment or [], edge_group or [], new_group, allow_new_contract),
        *(models, as_json),
        **_place(name, registry, ca, trust),
    )


@model_app.command("rollback")
def model_rollback(
    model: _Model,
    environment: _Environments = None,
    edge_group: _EdgeGroups = None,
    to: Annotated[int | None, typer.Option(min=1, help="Else the version before.")] = None,
    allow_new_contract: _NewContract = False,
    models: _Models = None,
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    as_json: AsJson = False,
) -> None:
    """Write the version that was declared before, by Git, to a model's model.yaml."""
    _call(
        "model_repo.declared_commands:rollback",
        *(model, environment or [], edge_group or [], to, allow_new_contract),
        *(models, as_json),
        **_place(name, registry, ca, trust),
    )


@model_app.command("declared")
def model_declared(
    environment: _Environments = None,
    edge_group: _EdgeGroups = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the registry.")] = False,
    models: _Models = None,
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    as_json: AsJson = False,
) -> None:
    """List the version that each environment and edge group takes; 1 when one does not verify."""
    _call(
        "model_repo.declared_commands:declared_",
        *(environment or [], edge_group or [], offline, models, as_json),
        **_place(name, registry, ca, trust),
    )


@model_app.command("gc")
def model_gc(
    model: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="Else every one that is declared."),
    ] = None,
    keep: Annotated[
        int, typer.Option(min=1, help="Of the last numbers, and of model.yaml's last commits.")
    ] = 5,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; else they are shown.")] = False,
    models: _Models = None,
    trust: _Trust = None,
    name: Name = "local",
    registry: _Registry = None,
    ca: _Ca = None,
    as_json: AsJson = False,
) -> None:
    """Show the versions in the registry that nothing refers to; delete them with --yes.

    In the rehearsal's own registry it keeps what the rehearsal serves, too. Of another one's it
    knows only files and Git: what clusters serve of it must be declared in them.
    """
    place = _place(name, registry, ca, trust)
    _call("model_repo.declared_commands:gc", model or [], keep, yes, models, as_json, **place)


@model_app.command("load")
def model_load(
    model: _Model,
    name: Name = "local",
    rate: Annotated[float, typer.Option(min=0.1, max=5000, help="Requests per second.")] = 200.0,
    for_: Annotated[
        float, typer.Option("--for", min=1, max=86_400, help="Seconds.", metavar="SECONDS")
    ] = 60.0,
    protocol: Annotated[str, typer.Option(help="http or grpc.")] = "http",
    poisson: Annotated[
        bool, typer.Option("--poisson", help="Independent arrivals instead of even ones.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send requests to a served model, and judge every answer; 1 when one of them failed."""
    _call(
        "rehearsal.load:run",
        model,
        name=name,
        rate=rate,
        seconds=for_,
        protocol=protocol,
        poisson=poisson,
        as_json=as_json,
    )


@app.command(rich_help_panel="Machine")
def doctor(
    as_json: AsJson = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the registries.")] = False,
) -> None:
    """Say what this machine has and lacks, and what follows from it."""
    _call("rehearsal.doctor:run", as_json=as_json, offline=offline)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (1 failed, 2 wrong use, 130 interrupted)."""
    # As Ctrl-C: what was begun is ended in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(args=argv, prog_name="estate")
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        if code == 130:
            _complain("interrupted; run the same command again")
        return code
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again")
        return 130
    except EstateError as error:
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:  # `./estate logs | head`: no error of ours, but no output either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        _complain(unexpected(error))
        return 1
    return 0


def unexpected(error: Exception) -> str:
    """Return one line for an error nobody foresaw; the traceback goes to a file in the cache."""
    kind = type(error).__name__
    words = " ".join(str(error).split())[:200]
    trace = "".join(traceback.format_exception(error))
    try:
        folder = paths.ensure(paths.cache() / "errors", "cache")
        log = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        log.write_text(f"{_command_line()}\n\n{trace}", encoding="utf-8")
    except (OSError, EstateError):  # nowhere to keep it: then on the screen, not lost
        return f"{kind}: {words}; please report it with this:\n{trace}"
    return f"{kind}: {words}; please report it with {log}"


def _command_line(environ: Mapping[str, str] = os.environ) -> str:
    versions = f"Python {sys.version.split()[0]}, typer {typer.__version__}"
    return f"estate {' '.join(sys.argv[1:])}\n{versions}, in {environ.get('PWD', os.curdir)}"


def _complain(line: str) -> None:
    sys.stdout.flush()
    print(f"estate: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
