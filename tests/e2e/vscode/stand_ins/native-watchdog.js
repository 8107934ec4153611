// Stands in for @vscode/native-watchdog, a native module that ends an extension host whose parent has died;
// the tests end the whole process group.
exports.start = () => {};
exports.exit = (status) => process.exit(status);
