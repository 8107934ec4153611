// The Python interpreter that is selected in this window, through the API of the Python extension if that is
// installed. Knows nothing of what is looked for beside the interpreter.

import * as path from "node:path";
import * as vscode from "vscode";

const EXTENSION = "ms-python.python";
/** A Python extension that takes longer to start must not keep suggestions waiting. */
const PATIENCE_MS = 10_000;

// What is used of https://www.npmjs.com/package/@vscode/python-extension.
interface Environments {
  getActiveEnvironmentPath(resource?: vscode.Uri): unknown;
  resolveEnvironment(environment: unknown): Promise<Environment | undefined>;
  readonly onDidChangeActiveEnvironmentPath: vscode.Event<unknown>;
}
interface Environment {
  readonly executable: { readonly uri?: vscode.Uri; readonly sysPrefix?: string };
}

export class Python implements vscode.Disposable {
  private readonly changed = new vscode.EventEmitter<void>();
  /** Another interpreter has been selected, or the Python extension has come or gone. */
  readonly onDidChange = this.changed.event;
  private readonly subscriptions: vscode.Disposable[] = [this.changed];
  private environments: Environments | undefined;

  constructor(private readonly log: vscode.LogOutputChannel) {
    let installed = this.isInstalled();
    this.subscriptions.push(
      vscode.extensions.onDidChange(() => {
        if (installed !== this.isInstalled()) {
          installed = !installed;
          this.changed.fire();
        }
      }),
    );
  }

  /** The folders in which the selected interpreter's environment keeps programs; none if there is none. */
  async folders(): Promise<string[]> {
    try {
      return await Promise.race([this.ask(), late()]);
    } catch (error) {
      this.log.warn(`The Python extension did not name an interpreter: ${String(error)}`);
      return [];
    }
  }

  dispose(): void {
    vscode.Disposable.from(...this.subscriptions).dispose();
  }

  private isInstalled(): boolean {
    return vscode.extensions.getExtension(EXTENSION) !== undefined;
  }

  private async ask(): Promise<string[]> {
    const environments = await this.connect();
    const folder = vscode.workspace.workspaceFolders?.[0]?.uri;
    const found = await environments?.resolveEnvironment(environments.getActiveEnvironmentPath(folder));
    if (!found) {
      return [];
    }
    const { uri, sysPrefix } = found.executable;
    const scripts = process.platform === "win32" ? "Scripts" : "bin";
    return [
      ...(uri ? [path.dirname(uri.fsPath)] : []), // A link in here may lead to an interpreter elsewhere.
      ...(sysPrefix ? [path.join(sysPrefix, scripts)] : []),
    ];
  }

  private async connect(): Promise<Environments | undefined> {
    const extension = vscode.extensions.getExtension<{ environments?: Environments }>(EXTENSION);
    const environments = extension && (await extension.activate()).environments;
    if (environments && environments !== this.environments) {
      this.environments = environments;
      this.subscriptions.push(environments.onDidChangeActiveEnvironmentPath(() => this.changed.fire()));
    }
    return environments;
  }
}

function late(): Promise<never> {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`no answer within ${PATIENCE_MS / 1000} s`)), PATIENCE_MS);
  });
}
