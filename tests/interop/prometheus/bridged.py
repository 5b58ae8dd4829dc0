"""A server on stdio that answers each request with its params, or misbehaves as the variable MODE says."""

import json
import os
import sys
import time

mode = os.environ.get("MODE", "")
if mode == "deaf":
    time.sleep(1000)
if mode == "fails":
    sys.exit(3)
if mode == "killed":
    os.kill(os.getpid(), 9)
if mode == "prints":
    print("this is no message", flush=True)
    print(json.dumps({"jsonrpc": "2.0", "method": "x" * (17 << 20)}), flush=True)  # longer than a line may be
print("started", file=sys.stderr, flush=True)

for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "exit":
        sys.exit(3)
    if "id" in message and "method" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": message.get("params", {})}), flush=True)
