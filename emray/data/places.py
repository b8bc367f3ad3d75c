"""Where `toy` points: the one place that knows. Everything after it sees ordinary files."""

from pathlib import Path

from emray.spec import TOY

_PACKAGE = Path(__file__).resolve().parent.parent


def toy_assets() -> Path:
    """The folder of the embedded toy world: model/, data/, questions.yaml."""
    return _PACKAGE / "toy" / "assets"


def model_path(path: str) -> str:
    """A model's folder or hub id."""
    return str(toy_assets() / "model") if path == TOY else path


def data_folder(data_dir: str) -> Path:
    """The folder that holds <domain>.jsonl."""
    return toy_assets() / "data" if data_dir == TOY else Path(data_dir)


def question_file(location: str) -> Path:
    return toy_assets() / "questions.yaml" if location == TOY else Path(location)


def default_rubrics() -> Path:
    """The rubrics for questions whose file has none."""
    return _PACKAGE / "data" / "rubrics.yaml"
