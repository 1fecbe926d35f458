"""What a training leaves behind, turned into weights to keep. No training here."""

from pathlib import Path

from imgpipe_dagster.models.weights import Task


def release(checkpoint: Path, weights: Path, image_size: int, task: Task = "detect") -> None:
    """Write a checkpoint's weights alone: half precision, no optimizer, no paths, dates or host of its making.

    Args:
        checkpoint: As Ultralytics saves it.
        weights: The file to write; its folder is made if need be.
        image_size: The input size that predictions use by default.
        task: What the weights are for.
    """
    import torch

    # The file was written by the training above, on this machine.
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    model = (state["ema"] or state["model"]).half()
    model.args = {"imgsz": image_size, "task": task}
    model.pt_path = None
    if task == "classify":
        model.transforms = None  # Ultralytics' own for the size, which it makes again
    for parameter in model.parameters():
        parameter.requires_grad = False
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {"model": model, "ema": None, "train_args": model.args, "epoch": -1, "version": state["version"]}, weights
    )
