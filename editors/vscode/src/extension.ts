// Wires the parts together: commands, the status bar, the server.

import * as vscode from "vscode";
import { chooseConfiguration, runDoctor, showStatistics, unload } from "./engine";
import { showMenu } from "./menu";
import { Pages } from "./pages";
import { Python } from "./python";
import { Server } from "./server";
import { StatusItem, describe } from "./status";
import type { View } from "./status";
import { SCHEMES, offIn, toggle, toggleLanguage, toggleWorkspace } from "./switches";

const NOTEBOOK_CELL = "vscode-notebook-cell";

let end: (() => Promise<void>) | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel("Umbrella", { log: true });
  const python = new Python(log);
  const pages = new Pages();
  const item = new StatusItem();
  const server = new Server(log, python);
  end = async () => {
    await server.close();
    log.dispose(); // Not with the rest, which does not wait for the server's last words.
  };

  const show = () => {
    const view = viewOf(server);
    item.show(view);
    if (view.off) {
      void server.suggestions.hide();
    }
  };
  show();
  context.subscriptions.push(
    ...register(server, pages, log, context.extensionUri),
    server.onDidChange(show),
    vscode.window.onDidChangeActiveTextEditor(show),
    vscode.workspace.onDidOpenTextDocument(show), // Also says that a document's language is another now.
    vscode.workspace.onDidChangeConfiguration((event) => event.affectsConfiguration("umbrella") && show()),
    item,
    server,
    pages,
    python,
  );
  void server.search();
}

export function deactivate(): Promise<void> | undefined {
  return end?.();
}

function viewOf({ status }: Server): View {
  const languageId = activeLanguage();
  const isNotebook = vscode.window.activeTextEditor?.document.uri.scheme === NOTEBOOK_CELL;
  const off = offIn(languageId, status.languages) ?? (isNotebook ? "place" : undefined);
  return { status, languageId, off };
}

/** The language of the active editor, where that holds something to suggest in. */
function activeLanguage(): string | undefined {
  const document = vscode.window.activeTextEditor?.document;
  return document && SCHEMES.includes(document.uri.scheme) ? document.languageId : undefined;
}

function register(
  server: Server,
  pages: Pages,
  log: vscode.LogOutputChannel,
  extension: vscode.Uri,
): vscode.Disposable[] {
  const { suggestions } = server;
  const commands: Record<string, () => unknown> = {
    // The item's own command tells the server.
    accept: () => vscode.commands.executeCommand("editor.action.inlineSuggest.commit"),
    acceptWord: () => suggestions.acceptPart("acceptNextWord"),
    acceptLine: () => suggestions.acceptPart("acceptNextLine"),
    dismiss: () => suggestions.dismiss(),
    next: () => suggestions.cycle("showNext"),
    previous: () => suggestions.cycle("showPrevious"),
    trigger: () => trigger(server),
    menu: () => showMenu(viewOf(server)),
    toggle,
    toggleWorkspace,
    toggleLanguage: () => toggleActive(server),
    showStatistics: () => showStatistics(server, pages),
    unloadEngine: () => unload(server),
    restart: () => server.restart(),
    chooseConfiguration: () => chooseConfiguration(server),
    showLog: () => log.show(),
    doctor: () => (server.program ? runDoctor(server.program, pages) : server.restart()),
    howToInstall: () => pages.showFile("install.md", vscode.Uri.joinPath(extension, "install.md")),
    openSettings: () =>
      vscode.commands.executeCommand("workbench.action.openSettings", "@ext:umbrella-lsp.umbrella-lsp"),
  };
  return Object.entries(commands).map(([name, run]) =>
    vscode.commands.registerCommand(`umbrella.${name}`, async () => {
      try {
        await run();
      } catch (error) {
        const sentence = error instanceof Error ? error.message : String(error);
        log.warn(`umbrella.${name}: ${sentence}`);
        void vscode.window.showWarningMessage(sentence);
      }
    }),
  );
}

/** Asks for a suggestion, or says why there can be none. */
async function trigger(server: Server): Promise<void> {
  const view = viewOf(server);
  if (view.off === "place") {
    void vscode.window.showInformationMessage(describe(view));
  } else if (view.off) {
    const on = "Turn On";
    if ((await vscode.window.showInformationMessage(describe(view), on)) === on) {
      await (view.off === "everywhere" ? toggle() : toggleActive(server));
    }
  } else if (await server.hasStarted()) {
    await server.suggestions.trigger();
  } else {
    void vscode.window.showWarningMessage(describe(viewOf(server)));
  }
}

async function toggleActive(server: Server): Promise<void> {
  const languageId = activeLanguage();
  if (languageId !== undefined) {
    await toggleLanguage(languageId, server.languages);
  }
}
