// The item in the status bar: what the server does, and whether anything is suggested in the active editor.
// Knows nothing of where that comes from, and does nothing but show it.

import * as vscode from "vscode";
import { nameOf } from "./languages";
import type { Off } from "./switches";

/** `umbrella/status`, as the server sends it. */
export interface Status {
  readonly kind: "starting" | "loading" | "ready" | "unloaded" | "off" | "error";
  readonly message: string;
  readonly busy: boolean;
  /** From 0 to 1 while the model is loaded. */
  readonly progress: number | null;
  readonly model: string;
  readonly languages: readonly string[];
}

/** What there is to show. */
export interface View {
  /** Of the server, or of ours about a server that does not run. */
  readonly status: Status;
  readonly off: Off | undefined;
  readonly languageId: string | undefined;
}

export class StatusItem implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem(
    "umbrella.status",
    vscode.StatusBarAlignment.Right,
    100,
  );

  constructor() {
    this.item.name = "Umbrella";
    this.item.command = "umbrella.menu";
    this.item.show();
  }

  show(view: View): void {
    const text = `${icon(view)} Umbrella${percent(view)}`;
    const sentence = describe(view);
    this.item.text = text;
    this.item.tooltip = `${sentence} Click for the menu.`;
    this.item.accessibilityInformation = { label: `Umbrella: ${sentence}`, role: "button" };
    this.item.backgroundColor = text.startsWith("$(error)")
      ? new vscode.ThemeColor("statusBarItem.errorBackground")
      : undefined;
  }

  dispose(): void {
    this.item.dispose();
  }
}

/** What is the matter, in whole sentences. */
export function describe(view: View): string {
  const { status, off } = view;
  if (off === "everywhere" || status.kind === "off") {
    return "Suggestions are off.";
  }
  if (status.kind === "error") {
    return status.message || "There is a problem. The log says more.";
  }
  const sentence = off ? describeOff(view) : status.message || KINDS[status.kind];
  const writing = status.busy && !off ? "A suggestion is being written. " : "";
  return `${writing}${sentence}${status.model ? ` The model is ${status.model}.` : ""}`;
}

/** For a server that has nothing of its own to say. */
const KINDS = {
  starting: "The engine is starting.",
  loading: "The model is loading.",
  ready: "Suggestions are made as you type.",
  unloaded: "No model is loaded. The next suggestion loads it.",
};

function describeOff({ status, off, languageId = "" }: View): string {
  if (off === "place") {
    return "Nothing is suggested in notebooks.";
  }
  const name = nameOf(languageId);
  return off === "language"
    ? `Suggestions are off for ${name}.`
    : `Nothing is suggested in ${name}: the model knows ${status.languages.map(nameOf).join(", ")}.`;
}

function icon({ status, off }: View): string {
  if (off === "everywhere" || status.kind === "off") {
    return "$(circle-slash)";
  }
  if (status.kind === "error") {
    return "$(error)";
  }
  if (off) {
    return "$(circle-slash)";
  }
  if (status.kind === "starting" || status.kind === "loading") {
    return "$(loading~spin)";
  }
  return status.busy ? "$(sync~spin)" : "$(umbrella-lsp)";
}

function percent({ status, off }: View): string {
  const shown = status.kind === "loading" && status.progress !== null && !off;
  return shown ? ` ${Math.round(100 * (status.progress ?? 0))}%` : "";
}
