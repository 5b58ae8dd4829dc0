"""Runs every query of the dashboard against a Prometheus that scrapes the servers, and compares it with them.

    queries.py PROMETHEUS_URL DASHBOARD RULES SECONDS METRICS_URL...

SECONDS is how long ago the traffic began. Knows: what Grafana puts in place of its variables. Does not know: which
traffic there was.
"""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request

PATIENCE = 60  # seconds
ROWS = ["Who is connected", "What is slow", "What is refused and why", "Queues and memory", "Bridged servers"]
UNITS = {"none", "short", "percentunit", "s", "bytes", "Bps", "cps", "reqps", "mps"}
# Labels whose values come from a list in the program, or from Prometheus. A principal comes from the operator, who
# asked for it; their number is bounded.
LABELS = {"reason", "status", "cause", "limit", "method", "le", "version", "principal"}
PRINCIPALS = {"alice", "bob", "other"}
SERIES_MAX = 1000  # of one server

prometheus, dashboard_file, rules_file, seconds = sys.argv[1:5]
metrics_urls = sys.argv[5:]
failed = []


def check(name, wrong):
    """`wrong` is what is not as it should be; nothing, if all is well."""
    if wrong:
        failed.append(name)
    print(f"{'FAIL' if wrong else 'ok  '} {name}{f': {wrong}' if wrong else ''}", flush=True)


def fetch(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return response.read().decode()


def api(path, **parameters):
    return json.loads(fetch(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"))["data"]


def samples(text):
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def families(text):
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))


scraped = [fetch(url) for url in metrics_urls]
exported = {name: kind for text in scraped for name, kind in families(text).items()}
dashboard = json.load(open(dashboard_file))
panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def named_in(expression):
    """The families that an expression names."""
    names = set(re.findall(r"\bmcp_sse_\w+", expression))
    histograms = {name for name, kind in exported.items() if kind == "histogram"}
    base = lambda name: re.sub(r"_(bucket|count|sum)$", "", name)
    return {base(name) if base(name) in histograms else name for name in names}


# ---- the dashboard itself ------------------------------------------------------------------------------


def overlaps(a, b):
    a, b = a["gridPos"], b["gridPos"]
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def mistakes_of_layout():
    every = dashboard["panels"]
    for at, panel in enumerate(every):
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            yield f"{panel['title']} is wider than the grid"
        for other in every[:at]:
            if overlaps(panel, other):
                yield f"{panel['title']} is on {other['title']}"


def mistakes_of_panels():
    for panel in panels:
        defaults, targets = panel["fieldConfig"]["defaults"], panel["targets"]
        unit = defaults.get("unit") or panel["options"]["yAxis"]["unit"]
        if unit not in UNITS:
            yield f"{panel['title']}: unit {unit}"
        if not panel["description"].endswith("."):
            yield f"{panel['title']}: its description is no sentence"
        if panel["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield f"{panel['title']}: its data source is not the variable"
        if len({target["refId"] for target in targets}) != len(targets) or not targets:
            yield f"{panel['title']}: refIds"
        for target in targets:
            selectors = re.findall(r"\bmcp_sse_\w+(\{[^}]*\})?", target["expr"])
            if not all(found.startswith('{job=~"$job", instance=~"$instance"') for found in selectors):
                yield f"{panel['title']}: a selector without $job and $instance"


def repeated(values):
    values = list(values)
    return sorted({value for value in values if values.count(value) > 1})


check("dashboard: its rows are the questions", [row["title"] for row in dashboard["panels"] if row["type"] == "row"] != ROWS)
check("dashboard: no panel is outside the grid or on another one", list(mistakes_of_layout()))
check("dashboard: each panel has a description, a unit and the data source", list(mistakes_of_panels()))
check("dashboard: ids are unique", repeated(panel["id"] for panel in dashboard["panels"]))
check("dashboard: titles are unique", repeated(panel["title"] for panel in panels))

shown = set().union(*(named_in(target["expr"]) for panel in panels for target in panel["targets"]))
check("dashboard: each exported metric is shown", sorted(exported.keys() - shown))
check("dashboard: each shown metric is exported", sorted(shown - exported.keys()))
ruled = named_in(open(rules_file).read())
check("rules: each metric is exported", sorted(ruled - exported.keys()))

# ---- what is exported ----------------------------------------------------------------------------------

wrong = []
for url, text in zip(metrics_urls, scraped):
    if len(samples(text)) > SERIES_MAX:
        wrong.append(f"{url}: {len(samples(text))} series")
    for name in samples(text):
        labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', name))
        if labels.keys() - LABELS or labels.get("principal", "other") not in PRINCIPALS:
            wrong.append(name)
check(f"metrics: only known labels, and at most {SERIES_MAX} series of a server", wrong)

# ---- what Prometheus has -------------------------------------------------------------------------------

targets = api("targets")["activeTargets"]
check("Prometheus: each server is up", [(t["scrapeUrl"], t["lastError"]) for t in targets if t["health"] != "up"] or len(targets) != len(metrics_urls))
rules = [rule for group in api("rules")["groups"] for rule in group["rules"]]
check("Prometheus: each rule is evaluated", [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] or not rules)
metadata = api("metadata")
check("Prometheus: each metric has a type and a help text", sorted(
    name for name, kind in exported.items()
    if not any(found["type"] == kind and found["help"] for found in metadata.get(name, []))
))


def differences():
    """Counters of posts, refusals and sessions that differ from what the servers export now."""
    found = []
    for url in metrics_urls:
        instance = urllib.parse.urlsplit(url).netloc
        for name, value in samples(fetch(url)).items():
            if re.match(r"mcp_sse_(posts|refusals|sessions_opened|sessions_ended|frames_queued)\w*_total", name):
                series = name.rstrip("}") + ("," if "{" in name else "{") + f'instance="{instance}"}}'
                got = api("query", query=series)["result"]
                if [float(sample["value"][1]) for sample in got] != [value]:
                    found.append(f"{series}: {value}, and Prometheus has {got}")
    return found


end = time.monotonic() + PATIENCE
while (wrong := differences()) and time.monotonic() < end:
    time.sleep(0.2)
check("Prometheus: its counters are those of the servers", wrong)

# ---- every query ---------------------------------------------------------------------------------------


def values_of(variable):
    """The values that Grafana finds for a variable `label_values(SELECTOR, LABEL)`."""
    selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
    return api(f"label/{label}/values", **{"match[]": substituted(selector)})


now = time.time()
start = now - float(seconds)
variables = {"$__rate_interval": "10s", "$__range": f"{math.ceil(now - start)}s"}


def substituted(expression):
    for name in sorted(variables, key=len, reverse=True):
        expression = expression.replace(name, variables[name])
    return expression


for variable in dashboard["templating"]["list"]:
    if variable["type"] == "query":
        values = values_of(variable)
        check(f"dashboard: variable {variable['name']} has values", not values)
        # "All" is a regular expression in a string of PromQL.
        variables[f"${variable['name']}"] = "(" + "|".join(re.escape(value).replace("\\", "\\\\") for value in values) + ")"

for panel in panels:
    for target in panel["targets"]:
        name = f"query: {panel['title']} {target['refId']}"
        expression = substituted(target["expr"])
        if "$" in expression:
            check(name, f"an unknown variable: {expression}")
            continue
        try:
            if target["instant"]:
                result = api("query", query=expression, time=now)["result"]
                found = [series["value"] for series in result]
            else:
                result = api("query_range", query=expression, start=start, end=now, step="1s")["result"]
                found = [value for series in result for value in series["values"]]
        except urllib.error.HTTPError as error:
            check(name, error.read().decode())
            continue
        check(name, not any(math.isfinite(float(value)) for _, value in found) and f"no data: {expression}")
        legend = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        missing = {label for label in legend for series in result if label not in series["metric"]}
        if missing:
            check(f"{name}: its legend", f"series without the labels {missing}")

sys.exit(1 if failed else 0)
