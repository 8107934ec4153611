// What the languages of VS Code are called. Knows nothing of which of them the model knows.

import * as vscode from "vscode";

/** The name by which the editor's own menus call a language: "Python" for `python`. */
export function nameOf(languageId: string): string {
  for (const { packageJSON } of vscode.extensions.all) {
    const { languages = [] } = (packageJSON as Manifest).contributes ?? {};
    const name = languages.find(({ id, aliases }) => id === languageId && aliases?.[0])?.aliases?.[0];
    if (name !== undefined) {
      return name;
    }
  }
  return languageId;
}

interface Manifest {
  readonly contributes?: {
    readonly languages?: readonly { readonly id: string; readonly aliases?: string[] }[];
  };
}
