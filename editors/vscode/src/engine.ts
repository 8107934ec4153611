// What is done to the engine from here: unloading it, choosing its configuration, having it examined.
// Knows the engine only through the server and its program.

import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import * as os from "node:os";
import * as path from "node:path";
import * as vscode from "vscode";
import type { Pages } from "./pages";
import type { Server } from "./server";

const DOCTOR_LIMIT_MS = 120_000;

/** Has the engine free its memory, and shows what the server says about that. */
export async function unload(server: Server): Promise<void> {
  const answer = await server.request("umbrella.server.unload");
  void vscode.window.showInformationMessage(textOf(answer, "message"));
}

export async function showStatistics(server: Server, pages: Pages): Promise<void> {
  await pages.show("Umbrella Statistics", textOf(await server.request("umbrella.server.statistics"), "text"));
}

/** Lets the user choose what the engine is started with, and offers to unload one that runs otherwise. */
export async function chooseConfiguration(server: Server): Promise<void> {
  const chosen = await pickConfiguration(setting());
  if (chosen === undefined || chosen === setting()) {
    return;
  }
  const settings = vscode.workspace.getConfiguration("umbrella");
  await settings.update("engine.config", chosen, vscode.ConfigurationTarget.Global);
  if (setting() !== chosen) {
    void vscode.window.showWarningMessage(
      "This workspace has an umbrella.engine.config of its own, which is used here.",
    );
    return;
  }
  const now = "Unload Now";
  const text =
    "The engine that runs keeps its configuration. Once it is unloaded, the next suggestion starts it anew.";
  if (server.isRunning && (await vscode.window.showInformationMessage(text, now)) === now) {
    await unload(server);
  }
}

/** Runs the doctor, for the engine that the settings name, and shows its report. */
export async function runDoctor(program: string, pages: Pages): Promise<void> {
  const flags = { config: "--config", url: "--engine-url", tokenFile: "--token-file" };
  const named = Object.entries(flags).flatMap(([key, option]) => {
    const value = vscode.workspace.getConfiguration("umbrella.engine").get(key, "");
    return value ? [`${option}=${value}`] : [];
  });
  // The server's, for paths that are relative.
  const cwd = vscode.workspace.workspaceFolders?.[0]?.uri.fsPath;
  const report = await vscode.window.withProgress(
    {
      location: vscode.ProgressLocation.Notification,
      title: "Umbrella: the doctor is looking",
      cancellable: true,
    },
    (_progress, token) =>
      new Promise<string>((resolve) => {
        const asked = ["--doctor", ...named];
        const options = { timeout: DOCTOR_LIMIT_MS, killSignal: "SIGKILL" as const, cwd };
        const child = execFile(program, asked, options, (error, stdout, stderr) => {
          const reason = error?.killed ? `no answer within ${DOCTOR_LIMIT_MS / 1000} s` : error?.message;
          // It also ends with an error where it found something wrong, and has said so.
          const isWhole = stdout && !error?.killed;
          resolve(isWhole ? stdout : `${stdout}${program} --doctor failed: ${reason}\n${stderr}`);
        });
        token.onCancellationRequested(() => {
          child.kill();
          resolve(""); // At once: one that hangs may not end.
        });
      }),
  );
  if (report) {
    await pages.show("Umbrella Doctor", report);
  }
}

function setting(): string {
  return vscode.workspace.getConfiguration("umbrella").get("engine.config", "");
}

async function pickConfiguration(current: string): Promise<string | undefined> {
  const folder = path.join(process.env.XDG_CONFIG_HOME || path.join(os.homedir(), ".config"), "umbrella-lsp");
  const files = (await names(folder)).filter((name) => /\.(toml|json)$/.test(name));
  const entry = (label: string, file: string, detail: string) => {
    return { label, file, detail, description: file === current ? "in use" : "" };
  };
  const browse = { label: "Browse…", file: undefined, detail: "Choose a file.", description: "" };
  const items = [
    entry("Default", "", "engine.toml in this folder, or else the models that come with umbrella-lsp."),
    ...files.map((name) => entry(name, path.join(folder, name), path.join(folder, name))),
    browse,
  ];
  const title = "Configuration of the Engine";
  const picked = await vscode.window.showQuickPick(items, {
    title,
    placeHolder: `Configurations in ${folder}`,
  });
  if (picked !== browse) {
    return picked?.file;
  }
  const filters = { Configurations: ["toml", "json"] };
  return (await vscode.window.showOpenDialog({ title, openLabel: "Use", filters }))?.[0]?.fsPath;
}

async function names(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort();
  } catch {
    return []; // There need be no such folder.
  }
}

function textOf(answer: unknown, key: string): string {
  const value: unknown = typeof answer === "object" && answer !== null ? Reflect.get(answer, key) : undefined;
  if (typeof value !== "string") {
    throw new Error("The server did not answer.");
  }
  return value;
}
