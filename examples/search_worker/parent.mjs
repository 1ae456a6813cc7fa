// Sends documents to a search worker, one request at a time and then several at once, and restarts
// nothing. A line of JSON for each response: its time, and the memory of the worker.
//
//     node parent.mjs DOCUMENTS.jsonl REQUESTS LOG.jsonl COMMAND [ARGUMENT …]

import { spawn } from "node:child_process";
import { createWriteStream, readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const [documentsFile, requestCount, logFile, command, ...commandArguments] = process.argv.slice(2);
const AT_ONCE = 8;
// Of the requests, this many add sections for each that searches.
const ADDED_FOR_A_SEARCH = 3;

const worker = spawn(command, commandArguments, { stdio: ["pipe", "pipe", "inherit"] });
const log = createWriteStream(logFile);
const waiting = new Map();
let lastId = 0;

createInterface({ input: worker.stdout }).on("line", (line) => {
  const { id, result, error } = JSON.parse(line);
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  error ? reject(new Error(`${error.code}: ${error.message}`)) : resolve(result);
});
worker.on("exit", (code) => {
  for (const { reject } of waiting.values()) reject(new Error(`the worker ended with ${code}`));
});

function call(method, params = {}) {
  const id = ++lastId;
  worker.stdin.write(JSON.stringify({ jsonrpc: "2.0", id, method, params }) + "\n");
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function memory() {
  const status = readFileSync(`/proc/${worker.pid}/status`, "utf8");
  const field = (name) => Number(status.match(new RegExp(`^${name}:\\s*(\\d+)`, "m"))[1]);
  return { rss_anon_kb: field("RssAnon"), native_threads: field("Threads") };
}

// Sections of many lengths: a document is cut at line ends into pieces of 1, 2, 4, 8 … lines.
function* sections(documents) {
  for (let round = 0; ; round++) {
    for (const { id, text } of documents) {
      const lines = text.split("\n").filter((line) => line.trim());
      for (let at = 0, size = 1; at < lines.length; at += size, size = (size * 2) % 63) {
        yield { id: `${id}/${at}`, text: lines.slice(at, at + size).join("\n"), round };
      }
    }
  }
}

async function request(number, next) {
  const begun = performance.now();
  const { id, text } = next.value;
  const isSearch = number % (ADDED_FOR_A_SEARCH + 1) === ADDED_FOR_A_SEARCH;
  if (isSearch) await call("search", { query: text.slice(0, 60), limit: 5 });
  else await call("add_sections", { sections: [{ id, text }] });
  const entry = { request: number, isSearch, chars: text.length, ms: performance.now() - begun };
  log.write(JSON.stringify({ ...entry, ...memory() }) + "\n");
}

const documents = readFileSync(documentsFile, "utf8").trim().split("\n").map((line) => JSON.parse(line));
const source = sections(documents);
const count = Number(requestCount);
let number = 0;
for (; number < count / 2; number++) await request(number, source.next());
const callers = Array.from({ length: AT_ONCE }, async () => {
  while (number < count) await request(number++, source.next());
});
await Promise.all(callers);
console.log(JSON.stringify(await call("stats")));
await call("shutdown");
log.end();
