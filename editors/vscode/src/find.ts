// Where `umbrella-lsp` is: the setting, the selected Python interpreter's environment, PATH, ~/.local/bin, in
// this order.
// Knows nothing of how it is started, and shows nothing.

import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import * as os from "node:os";
import * as path from "node:path";
import * as vscode from "vscode";
import type { Python } from "./python";

const NAME = "umbrella-lsp";

/** A program that can be run, or a sentence that says why there is none. */
export type Search = { readonly program: string } | { readonly problem: string };

/** Looks for the server's program anew. */
export async function find(python: Python): Promise<Search> {
  const named = vscode.workspace.getConfiguration("umbrella").get("server.path", "").trim();
  if (named) {
    const program = await fromSetting(named);
    return program
      ? { program }
      : { problem: `umbrella.server.path names ${named}, which is not a program that can be run.` };
  }
  const program = (await firstIn(await python.folders(), NAME)) ?? (await onPath(NAME));
  return program
    ? { program }
    : { problem: `${NAME} was found neither in the environment of the selected Python nor on PATH.` };
}

async function fromSetting(named: string): Promise<string | undefined> {
  const folder = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath ?? os.homedir();
  const expanded = named
    .replace(/^~(?=$|[\\/])/, os.homedir())
    .replaceAll("${workspaceFolder}", () => folder);
  return expanded === path.basename(expanded)
    ? onPath(expanded)
    : firstIn([path.dirname(path.resolve(folder, expanded))], path.basename(expanded));
}

function onPath(name: string): Promise<string | undefined> {
  const folders = (process.env.PATH ?? "").split(path.delimiter).filter((folder) => path.isAbsolute(folder));
  // An editor that no shell has started often lacks the one folder where users put programs of their own.
  return firstIn([...folders, path.join(os.homedir(), ".local", "bin")], name);
}

async function firstIn(folders: string[], name: string): Promise<string | undefined> {
  const file = process.platform === "win32" && !path.extname(name) ? `${name}.exe` : name;
  for (const folder of folders) {
    const program = path.join(folder, file);
    if (await isProgram(program)) {
      return program;
    }
  }
  return undefined;
}

async function isProgram(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}
