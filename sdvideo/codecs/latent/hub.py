"""Finds diffusers networks in folders and on the Hugging Face Hub, and loads them.

A network is recognised by its config.json, never by the name of a file. Its weights are safetensors. Pickles are never
loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from sdvideo.errors import ModelError

_WEIGHTS = "diffusion_pytorch_model"
_VARIANTS = ("", ".fp16", ".bf16")
_SUBFOLDERS = ("", "vae/")  # of an autoencoder: the model itself, or a part of a pipeline
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


# --- where the files are ------------------------------------------------------------------------------------


class Repository(Protocol):
    """The files of a model.

    name: as the user gave it. name_in_file: as .sdv files give it. commit: on the Hub, "" if the model is not from
    there or no file was found yet. unreachable: why some file could not be asked for, None if all could.
    """

    name: str
    name_in_file: str
    commit: str
    unreachable: ModelError | None

    def subfolders(self) -> tuple[str, ...]:
        """Where its autoencoder may be, "" or with a slash at the end, in the order to look."""

    def file(self, path: str) -> Path | None:
        """The local path of a file, None if there is none. path: within the model."""


def open_repository(name: str, revision: str | None, download: bool) -> Repository:
    """Find out whether a model is in a folder or on the Hub.

    name: a folder, or owner/name or owner/name@revision on the Hub. revision: a commit, branch or tag on the Hub, if
    the name has none. Files in the local cache of the Hub are not downloaded again. download=False is for names that
    come from a file: then only commits in that cache are looked up, neither folders nor branches. Raises ModelError if
    the name or the revision is not acceptable.
    """
    if download and Path(name).is_dir():
        return ModelFolder(name)
    parts = _HUB_ID.fullmatch(name)
    if not download and not (parts and parts[2] is None and _COMMIT.fullmatch(revision or "")):
        raise ModelError(
            f"the file was made with the model {name!r}, which is not on the Hub: say where it is (--model DIR)"
        )
    if parts is None or name.startswith("."):
        raise ModelError(
            f"there is no folder {name!r}: give the model (--model) as the folder of an autoencoder, or as "
            "owner/name or owner/name@revision on the Hub"
        )
    return HubRepository(parts[1], parts[2] or revision, download)


class ModelFolder:
    """A model in a local folder.

    Files give it the folder's name without the path, which would reveal the machine and lead nowhere on others.
    """

    commit = ""

    def __init__(self, name: str):
        self.name, self.name_in_file = name, Path(name).resolve().name
        self.unreachable: ModelError | None = None

    def subfolders(self) -> tuple[str, ...]:
        return _SUBFOLDERS

    def file(self, path: str) -> Path | None:
        local = Path(self.name, path)
        return local if local.is_file() else None


class HubRepository:
    """A model on the Hub, all files from one commit: from the local cache, else downloaded.

    The Hub is asked only until it could not be reached once.
    """

    def __init__(self, name: str, revision: str | None, download: bool):
        self.name = self.name_in_file = name
        self._revision = revision or None
        self.commit = ""
        self.unreachable: ModelError | None = None
        self._wanted = f"{name}@{revision}" if revision else name
        self._command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        self._may_download = download

    def subfolders(self) -> tuple[str, ...]:
        # If the cache holds the autoencoder of a pipeline and nothing else, there is no need to ask for the rest.
        alone, within = (self._cached(f"{part}config.json")[0] for part in _SUBFOLDERS)
        return ("vae/",) if within and not alone else _SUBFOLDERS

    def file(self, path: str) -> Path | None:
        local, missing = self._cached(path)
        if local is None and not missing and self.unreachable is None:
            local = self._download(path)
        if local is not None and (commit := re.search("/snapshots/([0-9a-f]{40})/", local.as_posix())):
            self.commit = self._revision = commit[1]
        return local

    def _cached(self, path: str) -> tuple[Path | None, bool]:
        """The local path of a file in the cache, and whether the cache knows that the Hub has no such file."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.name, path, revision=self._revision)
        return (Path(found), False) if isinstance(found, str) else (None, found is not None)

    def _download(self, path: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        if not self._may_download:
            self.unreachable = ModelError(
                f"the file was made with {self._wanted}, which is not in the cache of the Hub: run "
                f"`{self._command}`, or give the model (--model) as {self._wanted} or as the folder of a copy"
            )
            return None
        try:
            with only_errors_from("huggingface_hub"):  # which logs every retry
                return Path(hf_hub_download(self.name, path, revision=self._revision))
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise ModelError(
                f"{self._wanted} is neither a folder nor on the Hub; "
                f"a private model needs `hf auth login` ({first_line(error)})"
            ) from error
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                self.unreachable = self._unreachable(error)
        except (OSError, ValueError) as error:
            self.unreachable = self._unreachable(error)
        return None

    def _unreachable(self, error: Exception) -> ModelError:
        from huggingface_hub import constants

        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else first_line(error)
        return ModelError(
            f"{self._wanted} is no folder and not completely in the cache of the Hub, and the Hub cannot be reached: "
            f"run `{self._command}` where it can, or give the folder of a copy ({why})"
        )


# --- networks -----------------------------------------------------------------------------------------------


class NetworkFiles(NamedTuple):
    """The files of one network.

    name: of its model. folder: that of config.json. config: its contents. weights: safetensors, one or several shards.
    variant: the precision in their names, "" (float32), "fp16" or "bf16".
    """

    name: str
    folder: Path
    config: dict[str, Any]
    weights: list[Path]
    variant: str


def find_network(repository: Repository, subfolders: tuple[str, ...]) -> NetworkFiles:
    """Config and weights of a network in the first of the subfolders that has a config.

    Raises ModelError if they are not there, with another message if the Hub could not be reached.
    """
    try:
        return _find_network(repository, subfolders)
    except ModelError:
        if repository.unreachable is None:
            raise
        raise repository.unreachable from None


def _find_network(repository: Repository, subfolders: tuple[str, ...]) -> NetworkFiles:
    name, fetch = repository.name, repository.file
    for subfolder in subfolders:
        path = fetch(f"{subfolder}config.json")
        if path and "_class_name" in (config := read_json(path)):
            break
    else:
        raise ModelError(f"{name} has no autoencoder: no config.json in it or in its vae/ names a _class_name")
    for variant in _VARIANTS:
        wanted = [fetch(f"{subfolder}{_WEIGHTS}{variant}.safetensors")]
        if wanted[0] is None and (index := fetch(f"{subfolder}{_WEIGHTS}.safetensors.index{variant}.json")):
            wanted = [fetch(subfolder + shard) for shard in _shards(index)]
        weights = [file for file in wanted if file is not None]
        if weights and len(weights) == len(wanted):
            return NetworkFiles(name, path.parent, config, weights, variant.lstrip("."))
    if fetch(f"{subfolder}{_WEIGHTS}.bin"):
        raise ModelError(f"{name} has its weights only as a pickle, which is never loaded: convert them to safetensors")
    raise ModelError(f"{name} has no {subfolder}{_WEIGHTS}.safetensors, or some of its shards are missing")


def _shards(index: Path) -> list[str]:
    weights = read_json(index).get("weight_map")
    names = {str(name) for name in weights.values()} if isinstance(weights, dict) else {""}
    if not all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise ModelError(f"{index} names weights that are not .safetensors files in its own folder")
    return sorted(names)


def refuse_video_autoencoder(files: NetworkFiles) -> None:
    """Raises ModelError for autoencoders of whole clips, which have 5-D weights, and for damaged files."""
    from safetensors import SafetensorError, safe_open

    for path in files.weights:
        try:
            with safe_open(path, "pt") as file:
                volumetric = any(len(file.get_slice(key).get_shape()) == 5 for key in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} is damaged: {first_line(error)}") from error
        if volumetric:
            kind = files.config["_class_name"]
            raise ModelError(f"{files.name} is of class {kind}, made for clips (5-D): use one made for images (4-D)")


def load_network(network_class: Any, files: NetworkFiles) -> torch.nn.Module:
    """Load a network. network_class: of diffusers, with its from_pretrained. Raises ModelError if that fails."""
    try:
        with only_errors_from("diffusers"):
            network, info = network_class.from_pretrained(
                files.folder,
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,  # True needs the package accelerate
                variant=files.variant or None,
                output_loading_info=True,
            )
    except Exception as error:  # a config can make a constructor raise anything
        raise ModelError(f"{files.name} cannot be loaded as {network_class.__name__}: {first_line(error)}") from error
    if missing := [*info["missing_keys"], *info["mismatched_keys"]]:
        raise ModelError(f"{files.name} lacks weights of {network_class.__name__}: {', '.join(map(str, missing[:3]))}")
    assert isinstance(network, torch.nn.Module)
    return network


def fingerprint(files: NetworkFiles) -> str:
    """SHA-256 over the config, without diffusers' notes about itself, and over the weight files."""
    kept = {key: files.config[key] for key in files.config if key == "_class_name" or not key.startswith("_")}
    whole = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in files.weights:
        one = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                one.update(piece)
        whole.update(one.digest())
    return whole.hexdigest()


# --- helpers ------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} if it holds something else. Raises ModelError if it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    return value if isinstance(value, dict) else {}


@contextmanager
def only_errors_from(library: str) -> Iterator[None]:
    """Keep a library from logging anything below errors."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; the name of its class if it has no message."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
