// Takes the server's log, which comes over stderr, into ours. Knows the form of its lines and nothing else.

import * as readline from "node:readline";
import type { Readable } from "node:stream";
import type { LogOutputChannel } from "vscode";

/** `2026-11-21 18:23:10,386 INFO umbrella_lsp.server: id=34 ...`; our own channel adds the time. */
const LINE = /^[\d-]+ [\d:,]+ (?<level>[A-Z]+) (?<text>.*)$/;

/** Logs what `stderr` says, each line at its own level: a traceback, which names none, as errors. */
export function relay(stderr: Readable, log: LogOutputChannel): void {
  readline.createInterface({ input: stderr, crlfDelay: Infinity }).on("line", (line) => {
    const { level = "", text = line } = LINE.exec(line)?.groups ?? {};
    switch (level) {
      case "DEBUG":
        return log.debug(text);
      case "INFO":
        return log.info(text);
      case "WARNING":
        return log.warn(text);
      default:
        return log.error(text);
    }
  });
}
