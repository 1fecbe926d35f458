"""From a detection head's output to boxes: threshold, non-maximum suppression, order. NumPy only."""

import numpy as np

# Ultralytics moves each class's boxes this far apart, so that one pass suppresses within classes only.
_CLASS_OFFSET = 7680
_MAX_CANDIDATES = 30_000
_BLOCK = 256

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes float32 (n, 4) xyxy, confidence float32 (n,), class_id int64 (n,); the most confident first."""


def boxes_from_raw(output: np.ndarray, *, confidence: float, iou: float, max_boxes: int) -> Found:
    """Read the output of a head that leaves suppression to its user, as Ultralytics' ``non_max_suppression`` does.

    Args:
        output: float32 (4 + classes, anchors): centre x, centre y, width, height in pixels of the model's input,
            then a score for each class.
        confidence: Boxes whose best class scores no more than this are dropped.
        iou: Of two boxes of one class that overlap more than this, the weaker is dropped.
        max_boxes: At most so many boxes are kept, the most confident.
    """
    best = output[4:].max(axis=0)
    candidates = np.flatnonzero(best > confidence)
    candidates = candidates[np.argsort(-best[candidates], kind="stable")][:_MAX_CANDIDATES]
    picked = output[:, candidates]
    half = picked[2:4] / 2
    xyxy = np.ascontiguousarray(np.concatenate((picked[:2] - half, picked[:2] + half)).T)
    class_id = picked[4:].argmax(axis=0)
    kept = _suppress(xyxy + (class_id * _CLASS_OFFSET).astype(np.float32)[:, None], iou, max_boxes)
    return xyxy[kept], best[candidates][kept], class_id[kept]


def boxes_from_end2end(output: np.ndarray, *, confidence: float, max_boxes: int) -> Found:
    """Read the output of a head that suppresses by itself.

    Args:
        output: float32 (n, 6): x1, y1, x2, y2 in pixels of the model's input, confidence, class.
        confidence: Boxes that score no more than this are dropped.
        max_boxes: At most so many boxes are kept, the most confident.
    """
    rows = output[output[:, 4] > confidence]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][:max_boxes]
    return rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32), rows[:, 5].astype(np.int64)


def _suppress(boxes: np.ndarray, iou: float, limit: int) -> np.ndarray:
    """Greedy suppression of float32 (n, 4) boxes sorted by confidence: int64 indices of the first ``limit`` kept.

    Block by block, so that a picture with thousands of candidates needs no matrix of all pairs.
    """
    kept = np.empty(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start : start + _BLOCK]
        alive = np.logical_not(_overlap(block, boxes[kept], iou).any(axis=1))
        rivals = _overlap(block, block, iou)
        for index in range(len(block)):
            if alive[index]:
                alive[index + 1 :] &= ~rivals[index, index + 1 :]
        kept = np.concatenate((kept, start + np.flatnonzero(alive)))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _overlap(boxes: np.ndarray, others: np.ndarray, iou: float) -> np.ndarray:
    """Which of (n, 4) boxes overlap which of (m, 4) others by more than ``iou``: bool (n, m)."""
    x1, y1, x2, y2 = boxes.T[:, :, None]
    u1, v1, u2, v2 = others.T[:, None, :]
    shared = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1), 0)
    shared *= np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1), 0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
    with np.errstate(invalid="ignore"):  # two boxes without area: 0/0 is no overlap
        return shared / union > np.float64(iou)
