"""Where chat templates run: a process of its own (python -I -S), started by `rendering.py`, never imported.

The environment is that of transformers' apply_chat_template, setting by setting (a test holds the two together). What
a template can do beyond it ends here: the kernel kills the process after its seconds of processor time, memory is
bounded, and once the template is compiled nothing may be opened, imported, started or connected.
"""

# mypy: allow-untyped-defs

import json
import os
import signal
import sys

setup = json.loads(sys.argv[1])
sys.path[:0] = setup["paths"]

import contextlib  # noqa: E402
import datetime  # noqa: E402

import jinja2  # noqa: E402
import jinja2.ext  # noqa: E402
import jinja2.sandbox  # noqa: E402

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

FORBIDDEN = ("open", "import", "os.", "socket.", "subprocess.", "ctypes.", "shutil.", "pty.", "mmap.", "urllib.")


class Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %} marks what an assistant wrote; rendered, it is what stands inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


class PlainDict:
    """`dict(…)` and `dict.fromkeys(…)` of a template, without the class behind them."""

    def __call__(self, *given, **named):
        return dict(*given, **named)

    def fromkeys(self, *given, **named):
        return dict.fromkeys(*given, **named)


class PlainNamespace(jinja2.utils.Namespace):
    """`namespace(…)` of a template, without names that begin with an underscore."""

    def __init__(*given, **named):
        self, given = given[0], given[1:]
        found = dict(*given, **named)
        for name in found:
            PlainNamespace.check(name)
        jinja2.utils.Namespace.__init__(self, found)

    def __setitem__(self, name, value):
        PlainNamespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template cannot store {name!r} on a namespace")


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form):
        return datetime.datetime.now().strftime(form)

    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=PlainDict(), namespace=PlainNamespace
    )
    return made


def read_whole(num):
    found = b""
    while len(found) < num:
        piece = os.read(0, num - len(found))
        if not piece:
            os._exit(0)  # the parent went away
        found += piece
    return found


def receive():
    return json.loads(read_whole(int.from_bytes(read_whole(8), "big")))


def send(facts):
    raw = json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass")
    raw = len(raw).to_bytes(8, "big") + raw
    while raw:
        raw = raw[os.write(1, raw) :]


def limit(name, value):
    if resource is not None and hasattr(resource, name):
        resource.setrlimit(getattr(resource, name), (value, value))


def clock(seconds):
    """SIGPROF, which nothing here handles, ends the process; 0 stops the clock."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def deny(event, arguments):
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"a chat template may not do this: {event}")


def answered(made, asked):
    """A list of requests has the texts of those that can be answered, and None for the others: they are asked again,
    each alone."""
    if not isinstance(asked, list):
        return rendered(made, asked)
    texts, chars = [], 0
    for one in asked:
        texts.append(rendered(made, one).get("text") if chars <= setup["chars"] else None)
        chars += len(texts[-1] or "")
    return {"texts": texts}


def rendered(made, asked):
    """The answer to one request."""
    clock(setup["cpu_s"])
    try:
        text = made.render(**asked)
        answer = {"text": text} if len(text) <= setup["chars"] else {"limit": f"{len(text)} characters of output"}
    except MemoryError:
        answer = {"limit": f"{setup['bytes'] // 2**20} MiB of memory"}
    except Exception as error:
        answer = {"error": str(error) or type(error).__name__}
    clock(0)
    return answer


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    limit("RLIMIT_AS", setup["bytes"])
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_FSIZE", 0)
    env = environment()
    with contextlib.suppress(jinja2.TemplateError):  # imports what is imported only when something goes wrong
        env.from_string("{{ {}.x.y }}").render()
    clock(setup["cpu_s"])
    source = receive()
    try:
        made = env.from_string(source)
    except Exception as error:
        clock(0)
        send({"error": f"it is no template: {error}"})
        return
    clock(0)
    send({})
    sys.addaudithook(deny)
    while True:
        try:
            answer = answered(made, receive())
            send(answer)
        except MemoryError:
            send({"limit": f"{setup['bytes'] // 2**20} MiB of memory"})


main()
