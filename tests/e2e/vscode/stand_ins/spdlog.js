// Stands in for @vscode/spdlog, a native module: VS Code's log files, written as each message comes.
const fs = require("node:fs");
const path = require("node:path");

const LEVELS = ["trace", "debug", "info", "warning", "error", "critical", "off"];

class Logger {
  constructor(kind, name, file) {
    this.file = file;
    this.level = LEVELS.indexOf("info");
    this.raw = false;
    fs.mkdirSync(path.dirname(file), { recursive: true });
  }

  write(level, message) {
    if (level < this.level) return;
    const head = `${new Date().toISOString()} [${LEVELS[level]}] `;
    fs.appendFileSync(this.file, this.raw ? message : `${head}${message}\n`);
  }

  getLevel() {
    return this.level;
  }

  setLevel(level) {
    this.level = level;
  }

  clearFormatters() {
    this.raw = true; // the caller brings its own line ends
  }

  setPattern() {}
  flush() {}
  drop() {}
}

["trace", "debug", "info", "warn", "error", "critical"].forEach((name, level) => {
  Logger.prototype[name] = function (message) {
    this.write(level, message);
  };
});

const create = async (name, file) => new Logger("rotating", name, file);

// One by one: VS Code imports this as an ES module, for which only such assignments count as named exports.
exports.version = 1;
exports.Logger = Logger;
exports.createRotatingLogger = create;
exports.createAsyncRotatingLogger = create;
exports.setLevel = () => {};
exports.setFlushOn = () => {};
