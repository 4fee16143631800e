"""The inside of the sandbox: run by `sandbox.py` as a script of its own (python -I -S), never imported by the package.

Two of these run for each check. One holds the program and answers calls; the other holds the tests, and gets from the
first nothing but data: numbers, texts, lists. So the program can neither end the tests early, nor patch what they
compare with, nor return an object that is equal to everything; it does not know where the result is written.

What runs up to `isolated` is ours; what runs after it need not be.
"""

# mypy: allow-untyped-defs

import ast
import builtins
import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
import time

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

USER, NET, PID, IPC, UTS, MOUNTS = 0x10000000, 0x40000000, 0x20000000, 0x08000000, 0x04000000, 0x00020000
PRIVATE, BIND, REC, NOSUID, NODEV = 1 << 18, 4096, 16384, 2, 4
MOUNT_SETATTR, READ_ONLY, AT_RECURSIVE, AT_FDCWD = 442, 1, 0x8000, -100
NO_NEW_PRIVS, SET_DUMPABLE = 38, 4
NOBODY = 65534
MOST_BYTES = 1 << 20  # of one message between program and tests
# Modules that tests use as if they were there: Python's own, whatever the program calls by their names.
HELPERS = ("math", "cmath", "re", "string", "random", "itertools", "functools", "operator", "collections", "datetime",
           "json", "copy", "heapq", "bisect", "statistics", "fractions", "decimal", "typing", "sys")  # fmt: skip
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin")  # what Python's own libraries are linked with
FAILED_SETUP = 97


def libc():
    return ctypes.CDLL(None, use_errno=True)


def must(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


# Isolation


def namespaces():
    """Own network (without any interface), processes, mounts and host name; an own user where we are not root."""
    uid, gid = os.getuid(), os.getgid()
    flags = NET | PID | IPC | UTS | MOUNTS
    must(libc().unshare(flags if uid == 0 else flags | USER), "unshare")
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def mount(source, target, kind, flags, options=""):
    names = [None if v is None else os.fsencode(v) for v in (source, target, kind)]
    must(libc().mount(*names, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def own_root(root, size_bytes, packages):
    """A file system of our own under `root`: Python and its libraries, read-only, and an empty /work of this size."""
    mount(None, "/", None, PRIVATE | REC)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    prefixes = dict.fromkeys([*SYSTEM, sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__),
                              *packages])  # fmt: skip
    done: list[str] = []
    for path in filter(os.path.isdir, prefixes):
        if any(path == d or path.startswith(d + "/") for d in done):
            continue
        if path in SYSTEM and os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
            continue
        os.makedirs(root + path, exist_ok=True)
        mount(path, root + path, None, BIND | REC)
        done.append(path)
    os.makedirs(root + "/work", exist_ok=True)
    attributes = struct.pack("QQQQ", READ_ONLY, 0, 0, 0)
    must(libc().syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(root), AT_RECURSIVE, attributes, len(attributes)),
         "mount_setattr")  # fmt: skip
    if size_bytes:
        mount("tmpfs", root + "/work", "tmpfs", NOSUID | NODEV, f"size={size_bytes},mode=777,nr_inodes=256")


def without_rights(root):
    """Nobody, without capabilities, inside `root` for good: who is in a chroot can make no user namespace."""
    if root is not None:
        os.chdir(root)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        if root is not None:
            must(libc().unshare(USER), "unshare user")  # counts its processes by itself, and may chroot
    if root is not None:
        os.chroot(".")
        os.chdir("/work")
    if not sys.platform.startswith("linux"):
        return
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    must(libc().capset(header, nothing), "capset")
    must(libc().prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    must(libc().prctl(SET_DUMPABLE, 0, 0, 0, 0), "not dumpable")


def limit_resources(limits, *, is_strict):
    for name, value in (
        ("RLIMIT_CPU", limits["cpu_s"]),
        ("RLIMIT_AS", limits["memory_bytes"]),
        ("RLIMIT_FSIZE", limits["file_bytes"]),
        ("RLIMIT_NOFILE", limits["open_files"]),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", limits["processes"] if is_strict else None),
    ):
        if value is None or not hasattr(resource, name):
            continue
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):
            if is_strict:
                raise  # without isolation the user insisted on what can be had: macOS refuses some


def block_sockets():
    """Without a network namespace: Python's own sockets raise. What calls the kernel by itself is not stopped."""

    def refuse(*given, **named):
        raise OSError("no network in the sandbox")

    for name in ("socket", "create_connection", "getaddrinfo"):
        setattr(socket, name, refuse)


# Talking: length-prefixed JSON; only data crosses


PLAIN: tuple = (int, str, float, list, tuple, dict, set)


def pack(value, hold):
    """A value as JSON with its type said. What is no plain data goes through `hold`, which gives it a number."""
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return {"int": hex(value)}
    if kind in (list, tuple, set, frozenset):
        return {kind.__name__: [pack(v, hold) for v in value]}
    if kind is dict:
        return {"dict": [[pack(k, hold), pack(v, hold)] for k, v in value.items()]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    for plain in PLAIN:
        if isinstance(value, plain):  # a named tuple, a Counter: the data in it
            return pack(plain(value), hold)
    return {"held": hold(value)}


def unpack(packed, held):
    if not isinstance(packed, dict):
        return packed
    [(kind, inside)] = packed.items()
    if kind == "int":
        return int(inside, 16)
    if kind in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, kind)(unpack(v, held) for v in inside)
    if kind == "dict":
        return {unpack(k, held): unpack(v, held) for k, v in inside}
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind).fromhex(inside)
    if kind == "complex":
        return complex(*inside)
    return held(inside)


def send(fd, message):
    data = json.dumps(message).encode("utf-8", "surrogatepass")
    if len(data) > MOST_BYTES:
        raise ValueError(f"a value of more than {MOST_BYTES} bytes")
    data = struct.pack("<I", len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


def receive(fd):
    """The next message; EOFError where the other side is gone or sends too much."""

    def exactly(num):
        parts = b""
        while len(parts) < num:
            part = os.read(fd, num - len(parts))
            if not part:
                raise EOFError
            parts += part
        return parts

    [size] = struct.unpack("<I", exactly(4))
    if size > MOST_BYTES:
        raise EOFError
    return json.loads(exactly(size).decode("utf-8", "surrogatepass"))


# The program's side


def serve(code, asked_fd, answer_fd):
    """Runs the program, says which names it has, and answers calls until the tests are gone."""
    objects = []

    def hold(value):
        objects.append(value)
        return len(objects) - 1

    def held(number):
        return objects[number]

    def answer(ask):
        what, target, name, given, named = ask
        given, named = [unpack(v, held) for v in given], {k: unpack(v, held) for k, v in named.items()}
        found = space[name] if target is None else getattr(objects[target], name) if name else objects[target]
        if what == "call":
            found = found(*given, **named)
        elif callable(found):
            return {"callable": True}
        return {"value": pack(found, hold), "given": [pack(v, hold) for v in given]}

    space: dict = {"__name__": "program", "__builtins__": builtins}
    try:
        exec(compile(code, "program", "exec"), space)
        names = [k for k, v in space.items() if isinstance(k, str) and not k.startswith("__")]
        send(answer_fd, {"names": names})
    except BaseException as error:
        send(answer_fd, {"raised": [type(error).__name__, str(error)[:500]]})
    while True:
        ask = receive(asked_fd)
        try:
            send(answer_fd, answer(ask))
        except BaseException as error:
            send(answer_fd, {"raised": [type(error).__name__, str(error)[:500]]})


# The tests' side


class Program:
    """What the tests see of the program."""

    def __init__(self, asked_fd, answer_fd):
        self.asked_fd, self.answer_fd = asked_fd, answer_fd

    def reply(self):
        found = receive(self.answer_fd)
        if "raised" in found:
            name, text = found["raised"]
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                raise kind(str(text))
            raise RuntimeError(f"{name}: {text}")
        return found

    def ask(self, what, target, name, given=(), named=None, may_hold=False):
        """Only data comes back: an object of the program's own could be equal to everything, or end with every letter.
        What a class is called with, though, gives an object, whose methods give data."""

        def mine(value):
            if isinstance(value, Held):
                return value._number
            raise TypeError(f"a {type(value).__name__} cannot be handed to the program")

        def held(number):
            if not may_hold:
                raise TypeError(f"{name} returned an object; numbers, texts and lists of them can be compared")
            return Held(self, int(number))

        send(self.asked_fd, [what, target, name, [pack(v, mine) for v in given],
                             {k: pack(v, mine) for k, v in (named or {}).items()}])  # fmt: skip
        found = self.reply()
        if found.get("callable"):
            return lambda *given, **named: self.ask("call", target, name, given, named, name[0].isupper())
        for old, new in zip(given, found["given"]):
            if not isinstance(old, Held):
                changed_in_place(old, unpack(new, held))
        return unpack(found["value"], held)


def changed_in_place(old, new):
    """What the program did to a list, dict or set that it was given."""
    if type(old) is type(new) and old != new:
        if isinstance(old, list):
            old[:] = new
        elif isinstance(old, (dict, set)):
            old.clear()
            old.update(new)


class Held:
    """An object that stayed in the program. Equal to itself and to nothing else, whatever its class says."""

    def __init__(self, program, number):
        self._program, self._number = program, number

    def __getattr__(self, name):
        return self._program.ask("get", self._number, name)


def check(tests, asked_fd, answer_fd):
    """ "passed", or why not. Whatever ends the tests before their end is a failure."""
    program = Program(asked_fd, answer_fd)
    try:
        names = program.reply()["names"]
        tree = ast.parse(tests)
        wanted = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        space: dict = {"__name__": "tests", "__builtins__": builtins}
        exec("".join(f"import {name}\n" for name in HELPERS if name in wanted), space)
        for name in names:
            if name in wanted and name not in HELPERS and not hasattr(builtins, name):
                space[name] = program.ask("get", None, name)
        exec(compile(tree, "tests", "exec"), space)
        for name in [k for k in space if k.startswith("test_") and k not in names]:
            space[name]()
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "passed"


# Start


def watched(inner, lifeline, wall_s, pause_s):
    """Ours, outside: waits for the inner process, and ends it when the time is up or whoever started us is gone."""
    until = time.monotonic() + wall_s
    while True:
        done, _ = os.waitpid(inner, os.WNOHANG)
        if done:
            return
        ready, _, _ = select.select([lifeline], [], [], pause_s)
        if ready or time.monotonic() > until:
            os.kill(inner, signal.SIGKILL)
            os.waitpid(inner, 0)
            return


def entered(setup):
    """The source that was given, in a process that is isolated as the setup says. None: in its watcher, when that
    process is gone."""
    with os.fdopen(0, encoding="utf-8", errors="surrogatepass", closefd=False) as given:
        source = given.read()
    try:
        if setup["root"] is not None:
            namespaces()
            own_root(setup["root"], setup["limits"]["file_bytes"], setup["packages"])
        inner = os.fork()
        if inner:
            for fd in setup["fds"]:
                os.close(fd)
            watched(inner, setup["lifeline"], setup["wall_s"], setup["pause_s"])
            return None
        os.close(setup["lifeline"])
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.environ.clear()  # Python puts its locale there
        without_rights(setup["root"])
        limit_resources(setup["limits"], is_strict=setup["root"] is not None)
        if setup["root"] is None:
            block_sockets()
        for number in (0, 1, 2, nowhere):  # what a program prints is not kept anywhere
            os.dup2(nowhere, number) if number != nowhere else os.close(nowhere)
    except Exception as error:
        os.write(2, f"{error}\n".encode())
        os._exit(FAILED_SETUP)
    return source


def main():
    setup = json.loads(sys.argv[1])
    source = entered(setup)
    if source is None:
        return
    if setup["role"] == "program":
        asked_fd, answer_fd = setup["fds"]
        serve(source, asked_fd, answer_fd)
    else:
        asked_fd, answer_fd, result_fd = setup["fds"]
        os.write(result_fd, check(source, asked_fd, answer_fd).encode("utf-8", "replace")[:1000])
    os._exit(0)


if __name__ == "__main__":
    main()
