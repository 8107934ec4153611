// The menu behind the item in the status bar: a list of commands that fit what is the case.

import * as vscode from "vscode";
import { nameOf } from "./languages";
import { describe } from "./status";
import type { View } from "./status";
import { workspaceDecides } from "./switches";

interface Entry extends vscode.QuickPickItem {
  readonly command?: string;
}

/** Shows the menu and runs what is chosen. */
export async function showMenu(view: View): Promise<void> {
  const chosen = await vscode.window.showQuickPick(entries(view), {
    title: "Umbrella",
    placeHolder: describe(view),
  });
  if (chosen?.command) {
    await vscode.commands.executeCommand(chosen.command);
  }
}

function entries({ status, off, languageId }: View): Entry[] {
  const here = vscode.workspace.workspaceFolders !== undefined;
  const decided = here && workspaceDecides();
  const all: (Entry | false)[] = [
    separator("Suggestions"),
    toggling(off === "everywhere", decided ? " in This Workspace" : "", "umbrella.toggle"),
    here && !decided && toggling(off === "everywhere", " in This Workspace", "umbrella.toggleWorkspace"),
    languageId !== undefined &&
      off !== "everywhere" &&
      toggling(off !== undefined, ` for ${nameOf(languageId)}`, "umbrella.toggleLanguage"),
    entry("graph", "Show Statistics", "umbrella.showStatistics", "What became of suggestions."),
    separator("Engine"),
    entry("debug-disconnect", "Unload the Engine", "umbrella.unloadEngine", "Frees its memory."),
    entry("settings", "Choose Configuration…", "umbrella.chooseConfiguration"),
    entry("refresh", "Restart Server", "umbrella.restart"),
    separator("Help"),
    entry("output", "Show Log", "umbrella.showLog"),
    entry("pulse", "Run Doctor", "umbrella.doctor", "Reports what is there and what is wrong."),
    status.kind === "error" && entry("question", "How to Install", "umbrella.howToInstall"),
    entry("gear", "Open Settings", "umbrella.openSettings"),
  ];
  return all.filter((each) => each !== false);
}

function toggling(isOff: boolean, where: string, command: string): Entry {
  return entry(isOff ? "check" : "circle-slash", `Turn ${isOff ? "On" : "Off"}${where}`, command);
}

function entry(icon: string, label: string, command: string, description = ""): Entry {
  return { label: `$(${icon}) ${label}`, command, description };
}

function separator(label: string): Entry {
  return { label, kind: vscode.QuickPickItemKind.Separator };
}
