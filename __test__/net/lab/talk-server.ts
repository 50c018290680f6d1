/**
 * A server of the packet labs that speaks first and tells what it sees; arguments: name, port, and the addresses
 * to answer datagrams on.
 *
 * TCP: greets with a line of JSON, then sends back what comes until the client's FIN. A client whose first
 * byte is "H" gets the server's FIN at once; how much it sends afterwards is printed.
 * UDP: "n:<count>:<text>" is answered that many times, "count" with the number of datagrams so far,
 * "from" with the port it came from, "inversions" with the number of datagrams "seq:<i>" that overtook another; anything else comes back.
 */
import { createSocket } from "node:dgram";
import { createServer } from "node:net";

const [name = "", port = "", ...addresses] = process.argv.slice(2);

createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
  socket.on("error", () => undefined);
  const { remoteAddress: from = "", remotePort: fromPort, localAddress: at = "" } = socket;
  const plain = (address: string) => address.replace("::ffff:", "");
  socket.write(`${JSON.stringify({ name, from: plain(from), fromPort, at: plain(at) })}\n`);
  socket.once("data", (first: Buffer) => {
    if (first[0] !== 0x48) {
      socket.write(first);
      socket.pipe(socket);
      return;
    }
    let bytes = first.length;
    socket.end("over\n");
    socket.on("data", (piece: Buffer) => {
      bytes += piece.length;
    });
    socket.on("end", () => console.log(`half-closed ${bytes}`));
  });
  socket.on("end", () => {
    if (socket.bytesRead === 0) socket.end();
  });
}).listen(Number(port), "::");

let datagrams = 0;
let highest = -1;
let inversions = 0;
for (const address of addresses) {
  // Twice the usual buffer: forty datagrams of three fragments each overflow that while this process waits for its turn.
  const socket = createSocket({ type: address.includes(":") ? "udp6" : "udp4", recvBufferSize: 212_992 });
  socket.on("message", (message, peer) => {
    datagrams += 1;
    const text = message.toString();
    const send = (answer: string | Buffer) => socket.send(answer, peer.port, peer.address);
    const sequence = /^seq:(\d+)$/.exec(text)?.[1];
    const wanted = /^n:(\d+):(.*)$/s.exec(text);
    if (sequence !== undefined) {
      if (Number(sequence) < highest) inversions += 1;
      highest = Math.max(highest, Number(sequence));
    } else if (wanted) {
      for (let i = 0; i < Number(wanted[1]); i++) send(`${wanted[2]}#${i}`);
    } else if (text === "count") send(String(datagrams));
    else if (text === "inversions") send(String(inversions));
    else if (text === "name") send(name);
    else if (text === "from") send(`${name} ${peer.port}`);
    else send(message);
  });
  socket.bind(Number(port), address);
}
