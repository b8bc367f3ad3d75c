"""What a base model is: its fingerprint, its location with the commit pinned, its folder on this machine.

Not for loading weights. The invariant: equal fingerprints mean equal weights, tokenizer and chat template, and a pinned
location loads exactly what was fingerprinted.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from emray.cluster import hub_token
from emray.data.places import model_path
from emray.errors import DataError
from emray.model.rendering import identity as rendering_identity
from emray.records import USUAL_RENDERING, Rendering, key_of
from emray.spec import HOSTED, ModelSpec

# Everything that changes what a model answers; other files (README, .git) do not.
_DEFINING = (".safetensors", ".json", ".jinja", ".model", ".txt", ".bin")
_WEIGHTS = ".safetensors"
_HOLD_WEIGHTS = (_WEIGHTS, ".bin")
_CHUNK = 1 << 22
# For whatever of transformers opens a model. It would else ask on the terminal whether to run code that the model
# brings, and read weights that run code when they are read.
NO_CODE = {"trust_remote_code": False}
NO_PICKLE = NO_CODE | {"use_safetensors": True}
_NOT_FETCHED = [
    "*.py",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
    "*.ot",
]
_CONVERT = "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"

_HUB = "hub:"  # begins the fingerprint of a hub model
_UNPINNED = "unpinned"


class BaseModel(NamedTuple):
    """A base model as a run sees it."""

    location: str  # a folder, or org/name@commit
    fingerprint: str
    rendering: Rendering = USUAL_RENDERING

    @property
    def identity(self) -> str:
        """What keys hash: the fingerprint, and how its chat template is used where that decides anything."""
        if hosted_name(self.location):  # its template is the endpoint's; what is sent along counts
            parts: dict[str, Any] = asdict(self.rendering) if self.rendering != USUAL_RENDERING else {}
        else:
            folder = Path(self.location)
            parts = rendering_identity(self.rendering, folder=folder if folder.is_dir() else None)
        return key_of("rendered", [self.fingerprint, parts]) if parts else self.fingerprint

    @property
    def pinned(self) -> bool:
        return not self.location.endswith(f"@{_UNPINNED}")


def resolve_model(model: ModelSpec, *, online: bool, earlier: Iterable[str] = ()) -> BaseModel:
    """Find a model and fingerprint it: the content of a folder, or id and commit of a hub model.

    The commit is the given `revision`, else the one among `earlier` fingerprints (a plan that was made keeps its pin),
    else that of the local hub cache, else (with `online`) what the hub says `main` is; offline it stays unpinned, good
    enough for a dry run only. Raises DataError when there is no such model.
    """
    if hosted_name(model.path):
        return BaseModel(model.path, model.path, model.rendering)
    path = model_path(model.path)
    folder = Path(path)
    if folder.is_dir():
        return BaseModel(str(folder), _folder_fingerprint(folder), model.rendering)
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise DataError(f"no model at {path}; give a folder, a hub id (org/name) or toy")
    pin = next((told.rpartition("@")[2] for told in earlier if told.startswith(f"{_HUB}{path}@")), None)
    revision = model.revision or pin or _cached_revision(path) or (_hub_revision(path) if online else _UNPINNED)
    return BaseModel(f"{path}@{revision}", f"{_HUB}{path}@{revision}", model.rendering)


def hosted_name(location: str) -> str | None:
    """What an endpoint calls a model of path hosted:NAME; None for models that have weights here."""
    return location.removeprefix(HOSTED) if location.startswith(HOSTED) else None


def split_location(location: str) -> tuple[str, str | None]:
    """A folder and None, or a hub id and its commit."""
    name, at, revision = location.rpartition("@")
    return (name, revision) if at and not Path(location).is_dir() else (location, None)


def model_folder(location: str) -> str:
    """The folder of a pinned location on this machine; fetches a hub model once (workers call this)."""
    return _folder_of(location, only=None, online=True)


def tokenizer_folder(location: str, *, online: bool) -> str:
    """The same for configuration and tokenizer alone. Raises DataError when they cannot be had."""
    if split_location(location)[1] is None:
        return location
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [f"*{suffix}" for suffix in _DEFINING if suffix not in _HOLD_WEIGHTS]
    try:
        return _folder_of(location, only=wanted, online=online)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"cannot fetch the tokenizer of {location} ({type(error).__name__}); is the hub within reach?"
        ) from None


def is_here(location: str) -> bool:
    """Whether configuration and tokenizer need not be fetched."""
    try:
        tokenizer_folder(location, online=False)
    except DataError:
        return False
    return True


def bytes_to_fetch(location: str) -> int:
    """Size of a hub model's weights. Raises DataError where they cannot be had."""
    name, revision = split_location(location)
    if revision is None:
        raise DataError(f"model {location} does not load: its folder holds no weights (*.safetensors)")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        files = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=20, token=hub_token()).siblings
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise DataError(
            f"the weights of model {name} are not on this machine, and the hub is out of reach "
            f"({type(error).__name__}); fetch them where it is: hf download {name} --revision {revision}"
        ) from None
    sizes = [file.size or 0 for file in files or () if file.rfilename.endswith(_WEIGHTS)]
    if not sizes:
        raise DataError(f"model {name} has no safetensors at {revision}; only these are loaded")
    return sum(sizes)


def _folder_of(location: str, *, only: list[str] | None, online: bool) -> str:
    name, revision = split_location(location)
    if revision is None:
        return location
    from huggingface_hub import snapshot_download

    return snapshot_download(
        name,
        revision=revision,
        token=hub_token() if online else None,
        allow_patterns=only,
        ignore_patterns=_NOT_FETCHED,
        local_files_only=not online,
    )


def _hub_revision(hub_id: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return str(HfApi().model_info(hub_id, timeout=20).sha)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise DataError(
            f"cannot find the current commit of model {hub_id} ({type(error).__name__}); "
            f"pin one (model: {{path: {hub_id}, revision: <commit>}}) or give a local folder"
        ) from None


def _folder_fingerprint(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _DEFINING)
    if not any(path.name == "config.json" for path in files):
        raise DataError(f"no model in {folder}: it has no config.json")
    if not any(path.suffix == ".safetensors" for path in files):
        pickled = next((path.name for path in files if path.suffix == ".bin"), None)
        if pickled:
            raise DataError(
                f"model {folder}: {pickled} can run code when it is read; give safetensors, for files that you trust "
                f"by transformers' {_CONVERT}"
            )
    return "folder:" + key_of("model", {path.name: _file_digest(path) for path in files})


def _file_digest(path: Path) -> str:
    """sha256 of a file, remembered by path, size and time of change: a 7B model takes half a minute to read."""
    stat = path.stat()
    identity = f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}"
    cache = _cache_folder() / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    if stat.st_size < _CHUNK:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if cache.exists():
        return str(json.loads(cache.read_text())["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"sha256": digest}))
    partial.rename(cache)
    return digest


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "emray" / "fingerprints"


def _cached_revision(hub_id: str) -> str | None:
    """The commit that `main` names in the local hub cache, if the model was ever fetched."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    ref = cache / f"models--{hub_id.replace('/', '--')}" / "refs" / "main"
    return ref.read_text().strip() if ref.is_file() else None
