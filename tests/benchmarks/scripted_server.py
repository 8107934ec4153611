"""A language server that says what a test has written for it, by the document's version. A script, run alone.

Arguments: JSON of what to answer by version ({"text": ..., "version": ..., "source": ..., "range": ...},
"hold", "twice" or null; nothing suggested for any other), and a file to note what the client does.
"""

import json
import sys
from pathlib import Path

answers, noted = json.loads(sys.argv[1]), Path(sys.argv[2])
noted.touch()
version, held = 1, []


def send(message):
    body = json.dumps({"jsonrpc": "2.0"} | message).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    sys.stdout.buffer.flush()


def note(*words):
    with noted.open("a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


def receive():
    length = 0
    while (header := sys.stdin.buffer.readline()) not in (b"\r\n", b""):
        if header.lower().startswith(b"content-length:"):
            length = int(header.split(b":")[1])
    return json.loads(sys.stdin.buffer.read(length)) if length else None


def item(answer, position):
    about = {"source": answer.get("source", "new"), "version": answer.get("version", version)}
    where = answer.get("range") or {"start": position, "end": position}
    return {"insertText": answer["text"], "range": where, "command": {"arguments": [about]}}


def suggest(request, position):
    answer = answers.get(str(version), {})
    if answer == "hold":
        held.append(request)
        return
    result = None if answer is None else {"items": [item(answer, position)] if "text" in answer else []}
    source = (answer or {}).get("source", "none")
    sys.stderr.write(f"INFO: id={request} outcome=x source={source} server_ms=2.5 passes=0\n")
    sys.stderr.flush()
    send({"id": request, "result": result})


while message := receive():
    method, params = message.get("method"), message.get("params")
    if method == "textDocument/didChange":
        version = params["textDocument"]["version"]
        note("change", version, json.dumps(params["contentChanges"]))
    elif method == "textDocument/inlineCompletion":
        note("ask", version, json.dumps(params["position"]))
        suggest(message["id"], params["position"])
    elif method == "$/cancelRequest":
        note("cancel", version)
        if params["id"] in held:
            send({"id": params["id"], "error": {"code": -32800, "message": "cancelled"}})
    elif method == "exit":
        break
    elif "id" in message:
        send({"id": message["id"], "result": {}})
