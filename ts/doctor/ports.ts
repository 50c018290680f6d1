/** Lists and ranges of ports, as the kernel writes them: "80,1000-2000". */

/** Every port of such a list. */
export function parsePorts(text: string): Set<number> {
  const ports = new Set<number>();
  for (const part of text.split(",").filter(Boolean)) {
    const [from = 0, to = from] = part.split("-").map(Number);
    for (let port = from; port <= to; port++) ports.add(port);
  }
  return ports;
}

/** The range of net.ipv4.ip_local_port_range. */
export function portRange(text: string): { from: number; to: number } {
  const [from = 32768, to = 60999] = text.trim().split(/\s+/).map(Number);
  return { from, to };
}
