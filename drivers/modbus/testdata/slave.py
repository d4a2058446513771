#!/usr/bin/python3
"""A Modbus slave, RTU or TCP, made of Debian's python3-pymodbus, to check Homeward against.

    slave.py PORT [--baud 19200] [--parity N] [--units 1] [--count 200]
    slave.py 127.0.0.1:0 --tcp [--units 1] [--count 200]

Every unit has `count` of each kind, from address 0: holding register i is 100+i, input
register i is 1000+i, coil i is on where i is divisible by 3, discrete input i where i is
odd. "ready" on stdout, over TCP with the port, says that it serves.
"""
import argparse
import asyncio
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server.async_io import ModbusSerialServer, ModbusTcpServer
from pymodbus.transaction import ModbusRtuFramer, ModbusSocketFramer


def unit(count):
    # zero_mode: the address on the wire is the index.
    return ModbusSlaveContext(
        hr=ModbusSequentialDataBlock(0, [(100 + i) & 0xFFFF for i in range(count)]),
        ir=ModbusSequentialDataBlock(0, [(1000 + i) & 0xFFFF for i in range(count)]),
        co=ModbusSequentialDataBlock(0, [i % 3 == 0 for i in range(count)]),
        di=ModbusSequentialDataBlock(0, [i % 2 == 1 for i in range(count)]),
        zero_mode=True,
    )


async def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("port")
    p.add_argument("--tcp", action="store_true", help="PORT is HOST:PORT, 0 for any")
    p.add_argument("--baud", type=int, default=19200)
    p.add_argument("--parity", choices="NEO", default="N", help="a pseudo-terminal takes N only")
    p.add_argument("--units", type=lambda s: [int(u) for u in s.split(",")], default=[1])
    p.add_argument("--count", type=int, default=200)
    a = p.parse_args()
    context = ModbusServerContext(slaves={u: unit(a.count) for u in a.units}, single=False)
    if a.tcp:
        host, port = a.port.rsplit(":", 1)
        server = ModbusTcpServer(context, framer=ModbusSocketFramer, address=(host, int(port)),
                                 ignore_missing_slaves=True)
        serving = asyncio.create_task(server.serve_forever())
        await server.serving
        print("ready", server.server.sockets[0].getsockname()[1], flush=True)
        await serving
        return
    server = ModbusSerialServer(context, framer=ModbusRtuFramer, port=a.port, baudrate=a.baud,
                                parity=a.parity, bytesize=8, stopbits=1, timeout=0.005,
                                ignore_missing_slaves=True)
    await server.start()
    if server.transport is None:
        sys.exit(f"cannot open {a.port}")
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
