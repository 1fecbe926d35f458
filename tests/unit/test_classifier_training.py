"""The configuration of a training: its sample, its limits."""

from pathlib import Path

import pytest
import yaml

from imgpipe_dagster.models.classifier_training import ConfigError, TrainingConfig

SAMPLE = Path(__file__).parents[2] / "docs" / "models" / "bottle-training.yaml"


def test_the_documented_sample_names_every_setting_with_its_default() -> None:
    assert TrainingConfig.read(SAMPLE) == TrainingConfig()
    assert list(yaml.safe_load(SAMPLE.read_text())) == list(TrainingConfig.__dataclass_fields__)


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("epochs: 3\nauto_augment: randaugment\n")
    assert TrainingConfig.read(file) == TrainingConfig(epochs=3, auto_augment="randaugment")
    file.write_text("")
    assert TrainingConfig.read(file) == TrainingConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3\nmosaic: 1\n", r"unknown keys: epoch, mosaic\. Known: architecture, auto_augment"),
        ("- epochs\n", "holds no settings"),
        ("epochs: {\n", "is not a YAML file"),
        ("epochs: 0\n", "epochs is between 1 and 10000, not 0"),
        ("epochs: 2.5\n", "epochs is a whole number, not 2.5"),
        ("scale: true\n", "scale is a number, not True"),
        ("val_share: 0.9\n", "val_share is between 0.01 and 0.5"),
        ("auto_augment: magic\n", "no auto_augment 'magic'"),
        ("architecture: yolo11n.yaml\n", "is no architecture of a classifier"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.read(file)
