from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import TrainingError
from engine.training.quantize import calibration, quantize


def test_calibration_takes_the_first_tokens_of_rows(tmp_path: Path):
    rows = np.random.default_rng(0).integers(0, 320, (4, 513)).astype(np.uint16)
    np.save(tmp_path / "rows.npy", rows)
    samples = calibration(tmp_path / "rows.npy")
    assert [len(sample) for sample in samples] == [512] * 4
    assert samples[0] == rows[0, :512].tolist()


def test_too_few_tokens_to_calibrate_with_are_refused_before_autoawq_is_asked(tmp_path: Path):
    np.save(tmp_path / "rows.npy", np.zeros((3, 65), np.uint16))
    with pytest.raises(TrainingError, match=r"holds 195 tokens.* needs 512"):
        quantize(tmp_path, tmp_path / "rows.npy", tmp_path / "out")
    assert not (tmp_path / "out").exists()
