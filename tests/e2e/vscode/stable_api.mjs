// stable_api.mjs FILE: puts stable VS Code's rule for proposed API back into code-server's extension host.
//
// code-server grants every extension every proposed API, so an extension that needs one would pass here and
// fail for everybody else. Stable VS Code grants what an extension's manifest asks for. The function is found
// by its caller, the one that throws; a build where it is not found is an error.

import { readFileSync, writeFileSync } from "node:fs";

const file = process.argv[2];
const source = readFileSync(file, "utf8");
const granted = /function (\w+|\$+)\((\w+),(\w+)\)\{return!0\}(?=function \w+\(\w+,\w+\)\{if\(!\1\(\w+,\w+\)\)throw new Error\(`Extension ')/g;
const found = [...source.matchAll(granted)];
if (found.length !== 1) {
  console.error(`stable_api.mjs: the rule for proposed API was found ${found.length} times in ${file}`);
  process.exit(1);
}
const [text, name, extension, proposal] = found[0];
const rule = `function ${name}(${extension},${proposal}){return!!${extension}.enabledApiProposals?.includes(${proposal})}`;
writeFileSync(file, source.replace(text, () => rule));
