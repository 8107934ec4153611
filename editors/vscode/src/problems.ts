// The two messages about a server that does not run, and what their buttons do.

import * as vscode from "vscode";

/** Says that the program was not found, and offers what helps. */
export async function tellMissing(problem: string): Promise<void> {
  const install = "How to Install";
  const open = "Open Settings";
  const choose = "Choose Program…";
  const text = `${problem} Install umbrella-lsp, or choose the program if it is installed.`;
  const chosen = await vscode.window.showErrorMessage(text, install, open, choose);
  if (chosen === install) {
    await vscode.commands.executeCommand("umbrella.howToInstall");
  } else if (chosen === open) {
    await vscode.commands.executeCommand("workbench.action.openSettings", "umbrella.server.path");
  } else if (chosen === choose) {
    await chooseProgram();
  }
}

/** Says that the server does not run although its program was found. */
export async function tellFailed(problem: string): Promise<void> {
  const restart = "Restart";
  const log = "Show Log";
  const chosen = await vscode.window.showErrorMessage(problem, restart, log);
  if (chosen === restart) {
    await vscode.commands.executeCommand("umbrella.restart");
  } else if (chosen === log) {
    await vscode.commands.executeCommand("umbrella.showLog");
  }
}

async function chooseProgram(): Promise<void> {
  const [file] =
    (await vscode.window.showOpenDialog({ title: "The umbrella-lsp Program", openLabel: "Use" })) ?? [];
  if (file) {
    const settings = vscode.workspace.getConfiguration("umbrella");
    await settings.update("server.path", file.fsPath, vscode.ConfigurationTarget.Global);
  }
}
