// What passes between VS Code's inline suggestions and the server: holds requests back where suggestions are
// off, asks again when the server has more, and reports accepts and dismissals that only the editor knows of.
// Knows nothing of how the server is started, and draws nothing.

import * as vscode from "vscode";
import type { Middleware } from "vscode-languageclient/node";
import { offIn } from "./switches";

/** Where the editor's own commands for inline suggestions are. */
const EDITOR = "editor.action.inlineSuggest";

/** The last answer for a document that had anything to show. */
interface Shown {
  readonly uri: string;
  readonly items: vscode.InlineCompletionItem[];
}

/** An item of which the text before the cursor is the beginning, `length` UTF-16 units of it. */
interface Begun {
  readonly id: string;
  readonly uri: string;
  readonly version: number;
  readonly text: string;
  readonly length: number;
}

/** A request as it was made. */
interface Asked {
  readonly uri: string;
  readonly version: number;
  readonly position: vscode.Position;
  /** Whether the user or the editor asked. */
  readonly kind: vscode.InlineCompletionTriggerKind;
  /** Whether VS Code takes it for one that the user asked for, which a refresh is to it, too. */
  readonly invoked: boolean;
  /** Whether it was about an entry of the list of completions. */
  readonly inList: boolean;
}

/** What the server is told about an item. */
export interface Feedback {
  readonly id: string;
  readonly event: "partly" | "dismissed";
  /** Of the part accepted so far, from the item's beginning, in UTF-16 units. */
  readonly length?: number;
}

export interface Listener {
  /** Languages in which the server has suggestions to give; empty: any. */
  readonly languages: readonly string[];
  tell(feedback: Feedback): void;
}

export class Suggestions {
  private asked: Asked | undefined;
  /** The request that `refresh` is about to cause, which nobody has asked for. */
  private refreshing: Asked | undefined;
  private shown: Shown | undefined;
  /** Where a part was accepted last: what the user has begun to take must not be replaced. */
  private taking: { readonly uri: string; readonly version: number } | undefined;

  constructor(private readonly listener: Listener) {}

  readonly provide: NonNullable<Middleware["provideInlineCompletionItems"]> = async (
    document,
    position,
    context,
    token,
    next,
  ) => {
    if (offIn(document.languageId, this.listener.languages)) {
      return null;
    }
    const { triggerKind, selectedCompletionInfo } = context;
    const again = this.refreshing;
    this.refreshing = undefined;
    const asked: Asked = {
      uri: document.uri.toString(),
      version: document.version,
      position,
      kind: again && isAt(again, document, position) ? again.kind : triggerKind,
      invoked: triggerKind === vscode.InlineCompletionTriggerKind.Invoke,
      inList: selectedCompletionInfo !== undefined,
    };
    this.asked = asked;
    const answer = await next(document, position, { ...context, triggerKind: asked.kind }, token);
    if (this.asked === asked && !token.isCancellationRequested) {
      const items = Array.isArray(answer) ? answer : (answer?.items ?? []);
      this.shown = items.length > 0 ? { uri: asked.uri, items } : undefined;
    }
    return answer;
  };

  /** The server has more for a document: asks again, if nothing has happened since it was asked. */
  async refresh(uri: string): Promise<void> {
    const asked = this.askedHere();
    if (asked?.uri !== uri || asked.inList || !vscode.window.state.focused) {
      return;
    }
    if (this.taking?.uri !== uri || this.taking.version !== asked.version) {
      this.refreshing = asked;
      await this.ask();
    }
  }

  /** Asks for the user, at the cursor. */
  async trigger(): Promise<void> {
    this.refreshing = undefined;
    await this.ask();
  }

  /** Runs the editor's `command`, which shows another suggestion, and first asks for others. */
  async cycle(command: string): Promise<void> {
    const asked = this.askedHere();
    if (asked?.invoked && asked.kind === vscode.InlineCompletionTriggerKind.Automatic) {
      await this.trigger(); // Else VS Code makes do with what a refresh gave, which is one suggestion.
    }
    await vscode.commands.executeCommand(`${EDITOR}.${command}`);
  }

  /** Runs the editor's `command`, which accepts a part, and tells the server how much that has made. */
  async acceptPart(command: string): Promise<void> {
    const shown = this.shown;
    await vscode.commands.executeCommand(`${EDITOR}.${command}`);
    const begun = this.begun(shown);
    if (begun && begun.length > 0 && begun.length < begun.text.length) {
      this.listener.tell({ id: begun.id, event: "partly", length: begun.length });
      this.taking = { uri: begun.uri, version: begun.version };
    }
  }

  /** Dismisses what is shown, and tells the server. */
  async dismiss(): Promise<void> {
    const begun = this.begun(this.shown);
    this.shown = undefined;
    this.asked = undefined; // What is dismissed does not come back by itself.
    await vscode.commands.executeCommand(`${EDITOR}.hide`);
    if (begun) {
      this.listener.tell({ id: begun.id, event: "dismissed" });
    }
  }

  /** Takes away what is shown where nothing is to be suggested any more. */
  async hide(): Promise<void> {
    if (this.shown && this.shown.uri === vscode.window.activeTextEditor?.document.uri.toString()) {
      this.forget();
      await vscode.commands.executeCommand(`${EDITOR}.hide`);
    }
  }

  /** Forgets what the server, which is no more, had said. */
  forget(): void {
    this.asked = this.refreshing = this.shown = this.taking = undefined;
  }

  /** VS Code keeps what it shows while that fits, and asks once for each place, unless it is hidden. */
  private async ask(): Promise<void> {
    void vscode.commands.executeCommand(`${EDITOR}.hide`);
    await vscode.commands.executeCommand(`${EDITOR}.trigger`);
  }

  /** The last request, if nothing was typed and the cursor has not moved since. */
  private askedHere(): Asked | undefined {
    const { asked } = this;
    const editor = vscode.window.activeTextEditor;
    if (!asked || !editor || editor.selections.length > 1 || !editor.selection.isEmpty) {
      return undefined;
    }
    return isAt(asked, editor.document, editor.selection.active) ? asked : undefined;
  }

  /** The item of `shown` that the text before the cursor begins, and how much of it is there. */
  private begun(shown: Shown | undefined): Begun | undefined {
    const editor = vscode.window.activeTextEditor;
    if (!shown || editor?.document.uri.toString() !== shown.uri) {
      return undefined;
    }
    const { uri } = shown;
    const { version } = editor.document;
    const cursor = editor.selection.active;
    for (const item of shown.items) {
      const text = typeof item.insertText === "string" ? item.insertText : item.insertText.value;
      const start = item.range?.start;
      const id = idOf(item);
      if (id === undefined || start === undefined || cursor.isBefore(start)) {
        continue;
      }
      const before = editor.document.getText(new vscode.Range(start, cursor));
      if (text.startsWith(before)) {
        return { id, uri, version, text, length: before.length };
      }
    }
    return undefined;
  }
}

/** By what name the server knows an item: it says so in the item's command. */
function idOf(item: vscode.InlineCompletionItem): string | undefined {
  const about: unknown = item.command?.arguments?.[0];
  const id = typeof about === "object" && about !== null && "id" in about ? about.id : undefined;
  return typeof id === "string" ? id : undefined;
}

function isAt(asked: Asked, document: vscode.TextDocument, position: vscode.Position): boolean {
  const { uri, version } = document;
  return asked.uri === uri.toString() && asked.version === version && asked.position.isEqual(position);
}
