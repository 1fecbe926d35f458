"""What people see of a temple's training set and model in Dagster's UI: counts, curves, confusion, mistakes."""

from typing import Any

import dagster as dg

from imgpipe_dagster.assets.common import SAMPLE_ROWS
from imgpipe_dagster.assets.sheets import inline_sheet
from imgpipe_dagster.catalogue.tables import TempleSplit
from imgpipe_dagster.catalogue.temple_images import TrainingSet
from imgpipe_dagster.imaging.charts import line_chart
from imgpipe_dagster.imaging.draw import to_data_uri
from imgpipe_dagster.models.temple_classifier import NO_CATEGORY
from imgpipe_dagster.models.temple_report import TestReport
from imgpipe_dagster.models.temple_training import curve_as_lists
from imgpipe_dagster.temples.training import MadeModel

_MOST_MISTAKES = 12  # more would be too small to read in 20 KB


def training_set_metadata(data: TrainingSet) -> dict[str, Any]:
    """How many pictures of which category there are, for what."""
    counts: dict[str, dict[TempleSplit, int]] = {}
    for split, pictures in ((TempleSplit.TRAIN, data.train), (TempleSplit.TEST, data.test)):
        for picture in pictures:
            row = counts.setdefault(picture.category, dict.fromkeys(TempleSplit, 0))
            row[split] += 1
    rows = [
        dg.TableRecord({"category": name, "train": row[TempleSplit.TRAIN], "test": row[TempleSplit.TEST]})
        for name, row in sorted(counts.items())
    ]
    columns = [dg.TableColumn("category"), dg.TableColumn("train", "int"), dg.TableColumn("test", "int")]
    return {
        "temple": data.temple_id,
        "dagster/partition_row_count": len(data.train) + len(data.test),
        "categories": len(data.categories),
        "train_images": len(data.train),
        "test_images": len(data.test),
        "of_common": sum(picture.temple_id != data.temple_id for picture in data.train),
        "leaked": data.leaked,
        "data_fingerprint": data.fingerprint,
        "pictures_by_category": dg.MetadataValue.table(rows, schema=dg.TableSchema(columns=columns)),
    }


def model_metadata(made: MadeModel) -> dict[str, Any]:
    """How good a model is, what it cost, whether it serves and why, with the pictures that it got wrong."""
    version, report = made.version, made.report
    metadata: dict[str, Any] = {
        "temple": version.temple_id,
        "model_version": version.version,
        "origin": version.origin.value,
        "champion": made.serves,
        "verdict": version.verdict,
        "doubt": report.doubt or "none",
        "labels": ", ".join(version.labels),
        "input": f"{version.input_width} x {version.input_height}",
        "train_images": version.train_images,
        "test_images": version.test_images,
        "unreadable": len(made.unreadable),
        "confusion": dg.MetadataValue.md(confusion_markdown(report)),
        "misclassified": dg.MetadataValue.md(_mistakes_markdown(made)),
    }
    rates = {
        "test_accuracy": report.accuracy,
        "false_alarm_rate": report.false_alarm_rate,
        "unknown_flagged_rate": report.unknown_flagged_rate,
        "champion_accuracy": made.champion_report.accuracy if made.champion_report else None,
    }
    metadata |= {name: round(rate, 4) for name, rate in rates.items() if rate is not None}
    if made.unreadable:
        rows = [dg.TableRecord({"picture": bad.name, "why": bad.why}) for bad in made.unreadable[:SAMPLE_ROWS]]
        columns = [dg.TableColumn("picture"), dg.TableColumn("why")]
        metadata["unreadable_pictures"] = dg.MetadataValue.table(rows, schema=dg.TableSchema(columns=columns))
    if made.trained:
        curve = curve_as_lists(made.trained.curve)
        told = {"training": curve["accuracy"], "held out": curve["val_accuracy"]}
        lost = {"training": curve["loss"], "held out": curve["val_loss"]}
        metadata |= {
            "trained_seconds": round(made.trained.seconds, 1),
            "epochs": len(made.trained.curve),
            "best_epoch": made.trained.best_epoch,
            "stopped_because": made.trained.stopped_because,
            "parameters": made.trained.architecture.parameters,
            "learning_curve": dg.MetadataValue.md(
                f"Accuracy\n\n![Accuracy]({to_data_uri(line_chart(told, top=1.0), 'png')})\n\n"
                f"Loss\n\n![Loss]({to_data_uri(line_chart(lost), 'png')})"
            ),
        }
    return metadata


def confusion_markdown(report: TestReport) -> str:
    """The confusion matrix as a table: rows are what people said, columns what the model says."""
    if not report.pictures:
        return "There are no test pictures: `imgpipe temple add TEMPLE DIR --split test` adds some."
    names = [_cell(name) for name in (*report.labels, NO_CATEGORY)]
    lines = ["| people said | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| **{name}** | " + " | ".join(map(str, row)) + " |"
        for name, row in zip(names, report.confusion, strict=False)  # no picture has the category of no category
    ]
    lines += [
        f"\n{scenes.flagged} of {scenes.pictures} pictures of {_cell(scenes.category)}, which it was never shown, "
        "are flagged as anomalies."
        for scenes in report.unknown
    ]
    return "\n".join(lines)


def _mistakes_markdown(made: MadeModel) -> str:
    if not made.report.pictures:
        return "There are no test pictures."
    if not made.report.mistakes:
        return "None of the test pictures got a wrong category."
    places = {picture_id: place for place, picture_id in enumerate(made.test.ids)}
    tiles = [
        (made.test.pictures[places[m.id]], f"{m.category} → {m.image_class} {m.class_confidence:.2f}")
        for m in made.report.mistakes[:_MOST_MISTAKES]
    ]
    return inline_sheet(tiles, "Test pictures with a wrong category", columns=min(4, len(tiles)))


def _cell(text: str) -> str:
    """A name in a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
