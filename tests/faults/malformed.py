"""Malformed weights, GGUF files, configurations and tokenizers; and a process that opens each within a bounded memory.

Run as `python -m tests.faults.malformed FOLDER` it prints what came of each, as JSON.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from tests.runs import tiny_runs

from tunesmith.data.render import Renderer
from tunesmith.engine.session import Session
from tunesmith.engine.tenant import Spec
from tunesmith.errors import TunesmithError
from tunesmith.models.adapters import Adapt
from tunesmith.models.dequantised import converted
from tunesmith.models.gguf_bounds import check_bounds
from tunesmith.models.here import measured
from tunesmith.models.load import load

__all__ = ["check_bounds"]

HUGE = 2**60
MOST_S = 60.0  # for one case, on a machine with other work
ROOM_BYTES = 2**30  # that a case may take beside what the process has


def tensors(facts: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file by its parts."""
    head = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def one(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


EIGHT = bytes(8)
SAFETENSORS: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a text": b"<html>404 not found</html>" * 10,
    "a header of 2^63 bytes": tensors(one(), EIGHT, 2**63),
    "a header of all bytes": tensors(one(), EIGHT, 2**64 - 1),
    "a header of 100 MB": tensors(one(), EIGHT, 10**8),
    "a header longer than the file": tensors(one(), EIGHT, 200),
    "no header": tensors(b""),
    "a header that is no JSON": tensors(b"{" * 64),
    "a header that is a list": tensors(b"[1, 2]"),
    "a header 100,000 deep": tensors(b"[" * 100_000 + b"]" * 100_000),
    "a header that is no UTF-8": tensors(b'{"\xff": 1}'),
    "offsets behind the end": tensors(one(offsets=(0, 800)), EIGHT),
    "offsets of 2^60": tensors(one(offsets=(HUGE, HUGE + 8)), EIGHT),
    "offsets below 0": tensors(one(offsets=(-8, 0)), EIGHT),
    "offsets the wrong way round": tensors(one(offsets=(8, 0)), EIGHT),
    "offsets that overlap": tensors({**one(), "b": one(offsets=(4, 12))["a"]}, bytes(12)),
    "a hole": tensors({**one(), "b": one(offsets=(16, 24))["a"]}, bytes(24)),
    "a tail that nothing names": tensors(one(), bytes(64)),
    "a shape larger than its bytes": tensors(one(shape=(200,)), EIGHT),
    "a shape of 2^96": tensors(one(shape=(2**32, 2**32, 2**32)), EIGHT),
    "a shape of 2^64 that is 0": tensors(one(shape=(2**32, 2**32), offsets=(0, 0)), b""),
    "a shape below 0": tensors(one(shape=(-1, -2)), EIGHT),
    "a type that is not known": tensors(one(dtype="F99"), EIGHT),
    "a tensor without a type": tensors({"a": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT),
    "metadata that is no text": tensors({**one(), "__metadata__": {"x": [1]}}, EIGHT),
    "100,000 tensors of nothing": tensors(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    ),
    "a name of a megabyte": tensors({"n" * 2**20: one()["a"]}, EIGHT),
    "other tensors than the model's": tensors(one(), EIGHT),
}


def text(words: str | bytes) -> bytes:
    raw = words.encode() if isinstance(words, str) else words
    return struct.pack("<Q", len(raw)) + raw


def field(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(inner: int, num: int, rest: bytes = b"") -> bytes:
    return struct.pack("<IQ", inner, num) + rest


def tensor(
    name: str = "a", dims: tuple[int, ...] = (2,), kind: int = 0, offset: int = 0, num: int | None = None
) -> bytes:
    shape = b"".join(struct.pack("<Q", d) for d in dims)
    return text(name) + struct.pack("<I", len(dims) if num is None else num) + shape + struct.pack("<IQ", kind, offset)


def gguf(
    *fields: bytes, infos: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None, version: int = 3
) -> bytes:
    num_tensors, num_fields = (len(infos), len(fields)) if counts is None else counts
    head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_fields) + b"".join(fields) + b"".join(infos)
    return head + bytes(-len(head) % 32) + bytes(64)


ARCH = field("general.architecture", 8, text("llama"))


def number(name: str, value: int) -> bytes:
    return field(name, 4, struct.pack("<I", value))


GGUF: dict[str, bytes] = {
    "empty": b"",
    "a text": b"<html>404 not found</html>" * 10,
    "magic only": b"GGUF",
    "2^60 tensors": gguf(ARCH, counts=(HUGE, 1)),
    "2^60 fields": gguf(ARCH, counts=(0, HUGE)),
    "a million fields": gguf(ARCH, counts=(0, 10**6)),
    "a name of 2^60 bytes": gguf(struct.pack("<Q", HUGE) + b"x"),
    "a text of 2^60 bytes": gguf(field("general.name", 8, struct.pack("<Q", HUGE) + b"x")),
    "a text of 2^64 - 1 bytes": gguf(field("general.name", 8, struct.pack("<Q", 2**64 - 1) + b"x")),
    "an array of 2^60 bytes": gguf(ARCH, field("x", 9, array(0, HUGE))),
    "an array of 2^60 numbers": gguf(ARCH, field("x", 9, array(12, HUGE))),
    "an array of 2^60 texts": gguf(ARCH, field("x", 9, array(8, HUGE))),
    "an array of 10^9 texts": gguf(ARCH, field("x", 9, array(8, 10**9))),
    "arrays in arrays, 1000 deep": gguf(ARCH, field("x", 9, array(9, 1) * 1000 + array(0, 1, b"x"))),
    "an array of 2^60 arrays": gguf(ARCH, field("x", 9, array(9, HUGE))),
    "an array of a type that is not known": gguf(ARCH, field("x", 9, array(77, 3))),
    "a field of a type that is not known": gguf(ARCH, field("x", 77, b"1234")),
    "a field twice": gguf(ARCH, ARCH),
    "a name that is no UTF-8": gguf(ARCH, text(b"\xff\xfe") + struct.pack("<II", 4, 1)),
    "an alignment of 0": gguf(ARCH, number("general.alignment", 0), infos=(tensor(),)),
    "an alignment of 3": gguf(ARCH, number("general.alignment", 3), infos=(tensor(),)),
    "an alignment of 2^31": gguf(ARCH, number("general.alignment", 2**31), infos=(tensor(),)),
    "2^30 dimensions": gguf(ARCH, infos=(tensor(num=2**30),)),
    "a dimension of 2^62": gguf(ARCH, infos=(tensor(dims=(2**62, 2**62)),)),
    "an offset of 2^63": gguf(ARCH, infos=(tensor(offset=2**63),)),
    "a tensor behind the end": gguf(ARCH, infos=(tensor(dims=(2000,)),)),
    "a tensor twice": gguf(ARCH, infos=(tensor(), tensor())),
    "a tensor's type that is not known": gguf(ARCH, infos=(tensor(kind=999),)),
    "a tensor's name of a megabyte": gguf(ARCH, infos=(tensor("n" * 2**20),)),
    "version 99": gguf(ARCH, version=99),
    "version 0": gguf(ARCH, version=0),
    "the other byte order": b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64),
    "no architecture": gguf(number("x", 1), infos=(tensor(),)),
    "an architecture that is not known": gguf(field("general.architecture", 8, text("../../x")), infos=(tensor(),)),
    "a file type that is a text": gguf(ARCH, field("general.file_type", 8, text("x"))),
    "a billion layers": gguf(ARCH, number("llama.block_count", 10**9), infos=(tensor(),)),
    "a width of 2^31": gguf(ARCH, number("llama.embedding_length", 2**31), infos=(tensor(),)),
    "no vocabulary": gguf(ARCH, number("llama.block_count", 1), number("llama.embedding_length", 8), infos=(tensor(),)),
}  # fmt: skip

CONFIGS: dict[str, Any] = {
    "a vocabulary of 10^9": {"vocab_size": 10**9},
    "a width of 10^9": {"hidden_size": 10**9},
    "a width of 2^62": {"hidden_size": 2**62},
    "a billion layers": {"num_hidden_layers": 10**9},
    "a thousand layers": {"num_hidden_layers": 1000},
    "layers below 0": {"num_hidden_layers": -1},
    "no heads": {"num_attention_heads": 0},
    "a billion heads": {"num_attention_heads": 10**9},
    "an inner width of 10^12": {"intermediate_size": 10**12},
    "a width that is a text": {"hidden_size": "wide"},
    "a width that is a list": {"hidden_size": [24]},
    "a width that is NaN": {"hidden_size": float("nan")},
    "an architecture that is not known": {"model_type": "nobody"},
    "an architecture that is a path": {"model_type": "../../x"},
    "an architecture that is a list": {"model_type": ["llama"]},
    "an activation that is not known": {"hidden_act": "os.system"},
    "weights elsewhere": {"transformers_weights": "../../../evil.safetensors"},
    "rotary angles of another kind": {"rope_parameters": {"rope_type": "x", "rope_theta": "y"}},
    "not JSON": b"{",
    "a list": b"[1]",
    "nothing": b"",
    "100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "no UTF-8": b'{"model_type": "\xff"}',
}


def added(index: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": "<far>", "special": True, **flags}


TOKENIZERS: dict[str, Any] = {
    "not JSON": b"{",
    "a list": b"[]",
    "100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "no model": lambda facts: {k: v for k, v in facts.items() if k != "model"},
    "a model that is not known": lambda facts: {**facts, "model": {"type": "Nobody"}},
    "a token at 2^31": lambda facts: {**facts, "added_tokens": [*facts["added_tokens"], added(2**31)]},
    "a token at 2^64": lambda facts: {**facts, "added_tokens": [*facts["added_tokens"], added(2**64)]},
    "a token below 0": lambda facts: {**facts, "added_tokens": [*facts["added_tokens"], added(-1)]},
    "a word at 4 * 10^9": lambda facts: {
        **facts, "model": {**facts["model"], "vocab": {**facts["model"]["vocab"], "far": 4 * 10**9}}
    },
    "merges of no words": lambda facts: {**facts, "model": {**facts["model"], "merges": [["q!", "z!"]]}},
}  # fmt: skip


def adapters(folder: Path) -> dict[str, Callable[[Path], None]]:
    """What is wrong with an adapter, as a change of its folder."""

    def config(**changes: Any) -> Callable[[Path], None]:
        def change(at: Path) -> None:
            facts = json.loads((at / "adapter_config.json").read_text())
            (at / "adapter_config.json").write_text(json.dumps({**facts, **changes}))

        return change

    def raw(content: bytes) -> Callable[[Path], None]:
        return lambda at: (at / "adapter_config.json").write_bytes(content) and None

    return {
        "a rank of 10^9": config(r=10**9),
        "a rank of 0": config(r=0),
        "a rank that is a text": config(r="big"),
        "an alpha that is a text": config(lora_alpha="x"),
        "a dropout of 7": config(lora_dropout=7),
        "modules by a pattern": config(target_modules="(a+)+$"),
        "modules that are not there": config(target_modules=["nobody"]),
        "another method": config(peft_type="PREFIX_TUNING"),
        "a method that is not known": config(peft_type="../x"),
        "not JSON": raw(b"{"),
        "a list": raw(b"[]"),
        "100,000 deep": raw(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "weights cut": lambda at: (
            (at / "adapter_model.safetensors").write_bytes(SAFETENSORS["offsets behind the end"]) and None
        ),
    }


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name, and what opens it."""
    model = tiny_runs.model_folder(folder / "model")

    def changed(name: str, raw: bytes) -> str:
        made = folder / "changed"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(model, made)
        (made / name).write_bytes(raw)
        return str(made)

    for name, raw in SAFETENSORS.items():
        yield f"safetensors: {name}", lambda raw=raw: load(changed("model.safetensors", raw))
    for name, raw in GGUF.items():
        (folder / "m.gguf").write_bytes(raw)
        yield f"gguf: {name}", lambda: converted(folder / "m.gguf")
    plain = json.loads((model / "config.json").read_text())
    for name, facts in CONFIGS.items():
        raw = facts if isinstance(facts, bytes) else json.dumps({**plain, **facts}).encode()
        yield f"config: {name}", lambda raw=raw: load(changed("config.json", raw))
    plain = json.loads((model / "tokenizer.json").read_text())
    for name, facts in TOKENIZERS.items():
        raw = facts if isinstance(facts, bytes) else json.dumps(facts(plain)).encode()
        yield f"tokenizer: {name}", lambda raw=raw: Renderer(load(changed("tokenizer.json", raw)).tokenizer, 64)
    yield from adapter_cases(folder, str(model))
    yield "mutant: the reader alone", lambda: take_at_its_word(folder / "m.gguf")
    (model / "config.json").write_bytes(b"{")
    yield "listed: a configuration that is no JSON", lambda: measured("m", model)
    changed("model.safetensors", SAFETENSORS["offsets behind the end"])
    yield "listed: weights that are cut", lambda: measured("m", folder / "changed")


def adapter_cases(folder: Path, model: str) -> Iterator[tuple[str, Callable[[], object]]]:
    session = Session(load(model))
    session.create("t", Spec(Adapt(rank=2)))
    session.export(session.publish("t"), folder / "adapter")
    for name, change in adapters(folder).items():
        made = folder / "adapter_changed"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(folder / "adapter", made)
        change(made)
        yield f"adapter: {name}", lambda made=made, name=name: Session(load(model)).create_from(name, made)


def take_at_its_word(path: Path) -> object:
    """What the reader of the gguf package does with an array of 2^60 bytes, without our look at the header."""
    path.write_bytes(GGUF["an array of 2^60 bytes"])
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    return GGUFReader(path)


def late(*given: object) -> None:
    raise TimeoutError(f"more than {MOST_S} s")


def outcome(open_it: Callable[[], object]) -> dict[str, Any]:
    began = time.process_time()
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, MOST_S)
    try:
        open_it()
    except TunesmithError as error:
        found = {"refused": type(error).__name__, "says": str(error)[:600]}
    except BaseException as error:
        found = {"raised": f"{type(error).__module__}.{type(error).__name__}: {error}"[:300]}
    else:
        found = {"opened": True}
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {**found, "seconds": round(time.process_time() - began, 2)}


def main(folder: Path) -> None:
    said = {}
    for name, open_it in cases(folder):
        size = (
            next(int(x.split()[1]) for x in Path("/proc/self/status").read_text().splitlines() if "VmSize" in x) * 1024
        )
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
        said[name] = outcome(open_it)
        sys.stderr.write(f"{name}: {said[name]}\n")
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
