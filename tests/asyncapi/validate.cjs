// Parses the AsyncAPI file that is named, with the parser installed in the working directory.
// Prints what the parser found, and what a reader of YAML 1.2 makes of the file.
const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");

const installed = createRequire(`${process.cwd()}/`);
const { Parser } = installed("@asyncapi/parser");
const yaml = installed("js-yaml");

async function main(file) {
  const text = readFileSync(file, "utf8");
  const { document, diagnostics } = await new Parser().parse(text, { source: file });
  const found = diagnostics.map(({ severity, code, path, message }) => ({
    severity,
    code,
    path: path.join("/"),
    message,
  }));
  const channels = document ? document.channels().all().map((channel) => channel.id()) : null;
  process.stdout.write(JSON.stringify({ found, channels, read: yaml.load(text) }));
}

main(process.argv[2]);
