// Starts `umbrella-lsp --stdio` and lets vscode-languageclient do the rest: inline completion is part of it
// since protocol 3.18, so a provider of our own would only ask everything twice.

import * as vscode from "vscode";
import { LanguageClient, RevealOutputChannelOn, TransportKind } from "vscode-languageclient/node";

const DOCUMENTS = [
  { scheme: "file", language: "python" },
  { scheme: "untitled", language: "python" },
];

class Server {
  private client: LanguageClient | undefined;
  /** The end of the last start or stop: a client can only be stopped once it has started. */
  private settled: Promise<void> = Promise.resolve();

  constructor(private readonly log: vscode.LogOutputChannel) {}

  start(): Promise<void> {
    return this.after(async () => {
      const command = vscode.workspace.getConfiguration("umbrella").get<string>("server.path") || "umbrella-lsp";
      this.client = new LanguageClient(
        "umbrella",
        "Umbrella",
        { command, transport: TransportKind.stdio }, // adds --stdio
        {
          documentSelector: DOCUMENTS,
          outputChannel: this.log,
          revealOutputChannelOn: RevealOutputChannelOn.Never,
        },
      );
      try {
        await this.client.start();
      } catch (error) {
        this.log.error(`${command} did not start: ${String(error)}`);
        void this.explain(command);
      }
    });
  }

  stop(): Promise<void> {
    return this.after(async () => {
      const client = this.client;
      this.client = undefined;
      if (client?.isRunning()) {
        await client.stop();
      }
    });
  }

  private after(step: () => Promise<void>): Promise<void> {
    this.settled = this.settled.then(step, step);
    return this.settled;
  }

  private async explain(command: string): Promise<void> {
    const chosen = await vscode.window.showErrorMessage(
      `${command} did not start. Install it, or name the program in umbrella.server.path.`,
      "Open Settings",
      "Show Log",
    );
    if (chosen === "Open Settings") {
      await vscode.commands.executeCommand("workbench.action.openSettings", "umbrella.server.path");
    } else if (chosen === "Show Log") {
      this.log.show();
    }
  }
}

let server: Server | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel("Umbrella", { log: true });
  const started = new Server(log);
  server = started;
  context.subscriptions.push(
    log,
    vscode.commands.registerCommand("umbrella.showLog", () => log.show()),
    vscode.commands.registerCommand("umbrella.restart", async () => {
      await started.stop();
      await started.start();
    }),
  );
  void started.start();
}

export function deactivate(): Promise<void> | undefined {
  return server?.stop();
}
