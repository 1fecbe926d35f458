"""What an older model made shows as checks, in a run of their own and in no batch's."""

import dagster as dg

CHECKS = {"detections.made_by_todays_model", "classifications.made_by_todays_model"}


def evaluations(result):
    return {f"{e.asset_key.to_user_string()}.{e.check_name}": e for e in result.get_asset_check_evaluations()}


def check(pipeline, weights):
    job = pipeline.defs(weights).resolve_job_def("check_models")
    return evaluations(job.execute_in_process(instance=pipeline.instance))


def test_what_an_older_model_made_is_a_warning_until_it_is_made_anew(pipeline, make_jpeg):
    for number in range(3):
        pipeline.write(f"{number}.jpg", make_jpeg(number))
    pipeline.add_files("0.jpg", "1.jpg", "2.jpg")
    batch = pipeline.claim()
    first = evaluations(pipeline.run(batch, weights="one"))
    assert first
    assert not CHECKS & set(first), "a batch answers for itself only"
    now = check(pipeline, "one")
    assert {name: found.passed for name, found in now.items()} == dict.fromkeys(CHECKS, True)

    for name, found in check(pipeline, "two").items():
        asset = name.split(".")[0]
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert (found.metadata["images"].value, found.metadata["batches"].value) == (3, 1)
        assert found.metadata["today's version"].value == "stub-two"
        assert f"imgpipe backfill --asset {asset} --stale" in found.metadata["how to recover"].value
        (row,) = found.metadata["sample"].records
        assert row.data == {"batch": batch.key, "made by": "stub-one", "images": "3"}

    pipeline.run(batch, weights="two")
    assert all(found.passed for found in check(pipeline, "two").values())
