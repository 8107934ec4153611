// Fails if the package named on the command line has grown past what an extension this thin may weigh.

import { statSync } from "node:fs";

const LIMIT_BYTES = 200 * 1024;
const file = process.argv[2];
const { size } = statSync(file);
console.log(`${file}: ${size} of ${LIMIT_BYTES} bytes`);
if (size > LIMIT_BYTES) {
  console.error(`${file} is too large. Find what has come into the bundle: npx esbuild --analyze`);
  process.exit(1);
}
