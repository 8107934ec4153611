// Says that an interpreter is selected: the one in ~/env. It also tries a proposed API, and writes down what
// comes of it, because no extension may have one here without asking for it.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const vscode = require("vscode");

function attempt() {
  try {
    vscode.workspace.registerTimelineProvider("file", {});
    return "granted";
  } catch (error) {
    return String(error);
  }
}

exports.activate = () => {
  fs.writeFileSync(path.join(os.homedir(), "proposed-api.txt"), attempt());
  const interpreter = path.join(os.homedir(), "env", "bin", "python");
  return {
    environments: {
      getActiveEnvironmentPath: () => ({ id: "env", path: interpreter }),
      resolveEnvironment: async () => ({ executable: { uri: vscode.Uri.file(interpreter) } }),
      onDidChangeActiveEnvironmentPath: new vscode.EventEmitter().event,
    },
  };
};
