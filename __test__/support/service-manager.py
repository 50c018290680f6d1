"""Plays the service manager: binds the datagram socket named by argv[1] ("@name" is abstract), prints each datagram
as one line of JSON."""
import json
import socket
import sys

name = sys.argv[1]
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind("\0" + name[1:] if name.startswith("@") else name)
print("listening", flush=True)
while True:
    print(json.dumps(manager.recv(65536).decode()), flush=True)
