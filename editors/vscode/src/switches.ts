// Where suggestions are switched on and off: reads and writes the settings that say so. Knows the languages
// of the model in use as its callers tell them, and nothing of the server.

import * as vscode from "vscode";

/**
 * Why nothing is suggested: `umbrella.enabled`, a list of languages, a model that knows others only, or a
 * place that the server is not told of, such as a notebook.
 */
export type Off = "everywhere" | "language" | "model" | "place";

/** Where there is something to suggest in; not in cells of notebooks: each would be a file of its own. */
export const SCHEMES: readonly string[] = ["file", "untitled"];

/**
 * Why nothing is suggested in `languageId`, or undefined if something is.
 * `known` are the languages in which the server has suggestions to give; empty: any.
 */
export function offIn(languageId: string | undefined, known: readonly string[]): Off | undefined {
  if (!settings().get("enabled", true)) {
    return "everywhere";
  }
  if (languageId === undefined) {
    return undefined;
  }
  const chosen = list("languages");
  if (list("disabledLanguages").includes(languageId) || (chosen.length > 0 && !chosen.includes(languageId))) {
    return "language";
  }
  return known.length > 0 && !known.includes(languageId) ? "model" : undefined;
}

/** Whether the workspace's settings say if suggestions are made, so that they are what `toggle` changes. */
export function workspaceDecides(): boolean {
  return settings().inspect("enabled")?.workspaceValue !== undefined;
}

/** Switches suggestions on or off: in the workspace's settings if these mention it, else in the user's. */
export async function toggle(): Promise<void> {
  await (workspaceDecides() ? toggleWorkspace() : write("enabled", !settings().get("enabled", true)));
}

/** Switches suggestions on or off in this workspace alone. */
export async function toggleWorkspace(): Promise<void> {
  const on = !settings().get("enabled", true);
  const elsewhere = settings().inspect<boolean>("enabled")?.globalValue ?? true;
  // A workspace that wants what the user wants anyway need not say so.
  const value = on === elsewhere ? undefined : on;
  await settings().update("enabled", value, vscode.ConfigurationTarget.Workspace);
}

/** Switches suggestions in one language on or off; `known` as for `offIn`. */
export async function toggleLanguage(languageId: string, known: readonly string[]): Promise<void> {
  const disabled = list("disabledLanguages");
  const chosen = list("languages");
  if (disabled.includes(languageId)) {
    await write("disabledLanguages", without(disabled, languageId));
  } else if (chosen.length > 0 && !chosen.includes(languageId)) {
    await write("languages", [...chosen, languageId]);
  } else if (chosen.length === 0 && known.length > 0 && !known.includes(languageId)) {
    // An empty list stands for what the model knows; one that names a language has to name those, too.
    await write("languages", [...known, languageId]);
  } else {
    await write("disabledLanguages", [...disabled, languageId]);
  }
}

function settings(): vscode.WorkspaceConfiguration {
  return vscode.workspace.getConfiguration("umbrella");
}

function list(key: string): string[] {
  const value: unknown = settings().get(key);
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}

function without(items: string[], item: string): string[] {
  return items.filter((other) => other !== item);
}

async function write(key: string, value: unknown): Promise<void> {
  const inWorkspace = settings().inspect(key)?.workspaceValue !== undefined;
  const target = inWorkspace ? vscode.ConfigurationTarget.Workspace : vscode.ConfigurationTarget.Global;
  await settings().update(key, value, target);
}
