"""`mmbench run --controls` and changed features, as commands."""

from pathlib import Path

import pytest

from tests.prepared import cli


def test_the_plan_of_a_run_with_controls_names_them(data_dir: Path, tmp_path: Path) -> None:
    run = ("run", "hm4sr", "--no-floors", "--dataset", "toy", "--epochs", "1", "--dry-run")
    bare = cli(*run, data=data_dir, results=tmp_path)
    done = cli(*run, "--controls", data=data_dir, results=tmp_path)
    assert (bare.returncode, done.returncode) == (0, 0), done.stderr
    for name in ("late-fusion-id", "late-fusion-text", "ease-text", "itemknn-cbf-image"):
        assert name in done.stdout
        assert name not in bare.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sasrec", "--controls"), "--controls: sasrec reads no text or image features here"),
        (
            ("sasrec", "--set", "image_features=zero"),
            "--set image_features: no model of this run reads image",
        ),
        (("hm4sr", "--set", "text_features=shuffle"), "hm4sr: text_features: must be stored, constant, zero"),
        (
            ("tmmsrec:id+text", "--set", "image_features=zero"),
            "image_features = zero: tmmsrec:id+text reads no",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(
    arguments: tuple[str, ...], message: str, data_dir: Path, tmp_path: Path
) -> None:
    done = cli("run", *arguments, "--no-floors", "--dataset", "toy", data=data_dir, results=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
