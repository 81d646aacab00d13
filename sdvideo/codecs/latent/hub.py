"""Networks of diffusers where others put them: in folders and on the Hugging Face Hub.

Found by config.json, never by the name of a file; weights are safetensors, never pickles.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdvideo.errors import ModelError

_WEIGHTS = "diffusion_pytorch_model"
_VARIANTS = ("", ".fp16", ".bf16")
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


def files_of(name: str, revision: str | None, download: bool) -> Folder | Hub:
    """Where the files of a model are.

    name: a folder, or owner/name or owner/name@revision on the Hub; revision: a commit, branch or tag on the Hub, where
    the name has none. What is in the local cache of the Hub is not asked for again. download=False is for names that
    come from a file: nothing but the cache is looked into then, for what the Hub calls so and for commits, neither
    folders nor branches. Raises ModelError for what cannot be a name.
    """
    if download and Path(name).is_dir():
        return Folder(name)
    parts = _HUB_ID.fullmatch(name)
    if not download and not (parts and parts[2] is None and _COMMIT.fullmatch(revision or "")):
        raise ModelError(f"the file was made with the model {name!r}, not of the Hub: say where it is (--model DIR)")
    if parts is None or name.startswith("."):
        raise ModelError(
            f"there is no folder {name!r} here: name the model (--model), as the folder of an autoencoder or as "
            "owner/name or owner/name@revision on the Hub"
        )
    return Hub(parts[1], parts[2] or revision, download)


class Found(NamedTuple):
    """A network found. name: of its model; folder: of config.json; weights: its files; variant: "", "fp16", "bf16"."""

    name: str
    folder: Path
    config: dict[str, Any]
    weights: list[Path]
    variant: str


def find(files: Folder | Hub, parts: tuple[str, ...]) -> Found:
    """Config and weights in one of the parts of a model. Raises ModelError, if need be that the Hub is out of reach."""
    try:
        return _find(files, parts)
    except ModelError:
        if files.unreached is None:
            raise
        raise files.unreached from None


def _find(files: Folder | Hub, parts: tuple[str, ...]) -> Found:
    name, fetch = files.name, files.file
    for part in parts:
        path = fetch(f"{part}config.json")
        config = read_json(path) if path else {}
        if "_class_name" in config:
            break
    else:
        raise ModelError(f"{name} holds no autoencoder: no config.json there or in vae/ names a _class_name")
    for variant in _VARIANTS:
        weights = []
        if single := fetch(f"{part}{_WEIGHTS}{variant}.safetensors"):
            weights = [single]
        elif index := fetch(f"{part}{_WEIGHTS}.safetensors.index{variant}.json"):
            weights = [fetch(part + shard) for shard in _shards(index)]
        if weights and None not in weights:
            return Found(name, path.parent, config, weights, variant.lstrip("."))
    if fetch(f"{part}{_WEIGHTS}.bin"):
        raise ModelError(f"{name} has its weights only as a pickle, which is never loaded: convert to safetensors")
    raise ModelError(f"{name} has no {part}{_WEIGHTS}.safetensors, or not all of it")


def _shards(index: Path) -> list[str]:
    weights = read_json(index).get("weight_map")
    names = {str(name) for name in weights.values()} if isinstance(weights, dict) else {""}
    if not all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise ModelError(f"{index} names files that are no safetensors beside it")
    return sorted(names)


class Folder:
    """The files of a model in a folder.

    called: what .sdv files call it, which is not its path: that tells of this machine, and leads nowhere on others.
    commit: of the Hub, none; unreached: never, all that is there is at hand.
    """

    commit, unreached = "", None

    def __init__(self, name: str):
        self.name, self.called = name, Path(name).resolve().name

    def parts(self) -> tuple[str, ...]:
        """Where an autoencoder may be: there, or in a pipeline's folder for it."""
        return "", "vae/"

    def file(self, file: str) -> Path | None:
        """The path of a file, None if there is none of that name."""
        path = Path(self.name, file)
        return path if path.is_file() else None


class Hub:
    """The files of a model on the Hub, all of one commit: from the local cache, else downloaded.

    called: what .sdv files call it. commit: which one, once a file was found. unreached: why some file could not be
    asked for; one try is enough.
    """

    def __init__(self, name: str, revision: str | None, download: bool):
        self.name = self.called = name
        self._revision = revision or None
        self.commit = ""
        self.unreached: ModelError | None = None
        self._wanted = f"{name}@{revision}" if revision else name
        self._fetch = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        self._may_download = download

    def parts(self) -> tuple[str, ...]:
        """The folders to look into; only that of a pipeline's autoencoder if just that is in the cache."""
        alone, within = (self._cached(f"{part}config.json")[0] for part in ("", "vae/"))
        return ("vae/",) if within and not alone else ("", "vae/")

    def file(self, file: str) -> Path | None:
        """The path of a file, None if the Hub has none of that name, or it is out of reach."""
        path, missing = self._cached(file)
        if path is None and not missing and self.unreached is None:
            path = self._download(file)
        if path is not None and (commit := re.search("/snapshots/([0-9a-f]{40})/", path.as_posix())):
            self.commit = self._revision = commit[1]
        return path

    def _cached(self, file: str) -> tuple[Path | None, bool]:
        """The path of a file in the cache, and whether it is known not to exist."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.name, file, revision=self._revision)
        return (Path(found), False) if isinstance(found, str) else (None, found is not None)

    def _download(self, file: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        if not self._may_download:
            self.unreached = ModelError(
                f"{self._wanted}, which the file was made with, is not in the cache of the Hub here: run "
                f"`{self._fetch}`, or name the model (--model), as {self._wanted} or as the folder of a copy"
            )
            return None
        try:
            with quiet("huggingface_hub"):  # which tells of every try
                return Path(hf_hub_download(self.name, file, revision=self._revision))
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise ModelError(
                f"{self._wanted} is no folder here and not to be had on the Hub; "
                f"a private model needs `hf auth login` ({first_line(error)})"
            ) from error
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                self.unreached = self._out_of_reach(error)
        except (OSError, ValueError) as error:
            self.unreached = self._out_of_reach(error)
        return None

    def _out_of_reach(self, error: Exception) -> ModelError:
        from huggingface_hub import constants

        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        return ModelError(
            f"{self._wanted} is no folder here, not (or not all of it) in the cache, and the Hub cannot be reached: "
            f"run `{self._fetch}` where it can, or give the folder of a copy ({why})"
        )


def refuse_video(found: Found) -> None:
    """Autoencoders of whole clips give themselves away by weights of five dimensions."""
    from safetensors import SafetensorError, safe_open

    for path in found.weights:
        try:
            with safe_open(path, "pt") as file:
                solid = any(len(file.get_slice(key).get_shape()) == 5 for key in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} is damaged: {first_line(error)}") from error
        if solid:
            kind = found.config["_class_name"]
            raise ModelError(
                f"{found.name} is of class {kind}, made for clips (5-D): only image autoencoders (4-D) fit"
            )


def load_network(kind: type, found: Found) -> torch.nn.Module:
    """The network, of a class with diffusers' from_pretrained. Raises ModelError where the files do not make it."""
    try:
        with quiet("diffusers"):
            network, info = kind.from_pretrained(
                found.folder,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,  # the other way needs accelerate
                variant=found.variant or None,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a config can make a constructor raise
        raise ModelError(f"{found.name} cannot be loaded as {kind.__name__}: {first_line(error)}") from error
    if missing := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ModelError(f"{found.name} lacks weights of {kind.__name__}: {', '.join(map(str, missing[:3]))}")
    return network


def fingerprint(found: Found) -> str:
    """SHA-256 over the config, without what diffusers notes about itself, and the weights' files."""
    kept = {key: found.config[key] for key in found.config if key == "_class_name" or not key.startswith("_")}
    whole = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in found.weights:
        one = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                one.update(piece)
        whole.update(one.digest())
    return whole.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    return value if isinstance(value, dict) else {}


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Only errors from a library that has much to say."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
