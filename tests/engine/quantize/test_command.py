from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.cli import main
from engine.errors import CheckpointError, TrainingError
from engine.quantize.calibration import ROWS, TOKENS, rows_of
from engine.quantize.run import Recipe, check
from tests.engine.tiny import write_llama
from tests.engine.tiny_tokenizer import write_tokenizer

LINE = "def add(self, value): return self.value + value\n"


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    folder = tmp_path / "dense"
    write_llama(folder, vocab_size=320, head_dim=32, intermediate_size=128, num_hidden_layers=1)
    write_tokenizer(folder)
    return folder


def test_calibration_rows_begin_as_prompts_do_and_hold_the_text(dense: Path, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(dense)
    code = tmp_path / "code.py"
    code.write_text(LINE * 100)
    rows = rows_of(dense, code)
    assert len(rows) > 1
    assert {len(row) for row in rows} == {TOKENS}
    assert {row[0] for row in rows} == {1}
    together = [token for row in rows for token in row[1:]]
    assert together == tokenizer.encode_document(LINE * 100)[: len(together)]


def test_calibration_draws_on_all_of_a_folder_and_on_text_alone(dense: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "package").mkdir(parents=True)
    names = [chr(ord("a") + index) for index in range(20)]
    for name in names:
        (corpus / "package" / f"{name}.py").write_text(f"{name} = 1\n" * 1000)
    (corpus / "broken.py").write_bytes(b"\x89PNG\0\0" * 5000)
    (corpus / "secrets.py").write_text("KEY = 1\n" * 1500)
    rows = rows_of(dense, corpus)
    assert len(rows) == ROWS
    tokenizer = write_tokenizer(dense)
    assert all(any(tokenizer.encode_document(name)[0] in row for row in rows) for name in names)
    assert not any(set(tokenizer.encode_document("KEY")) <= set(row) for row in rows)
    assert rows == rows_of(dense, corpus)


def test_too_little_text_is_refused(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code.py").write_text(LINE)
    with pytest.raises(TrainingError, match=r"code\.py holds no text of 512 tokens"):
        rows_of(dense, tmp_path / "code.py")
    nowhere = str(tmp_path / "nowhere")
    assert main(["quantize", str(dense), str(tmp_path / "out"), "--calibration", nowhere]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err


def test_a_shape_that_groups_do_not_divide_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"q_proj is 64 by 128, which groups of 128 .* smaller group size"
    ):
        check(dense, tmp_path / "out", Recipe(128))


def test_a_model_that_is_quantised_already_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "bundled:target", str(tmp_path / "out")]) == 2
    assert "quantised already; name the dense model" in capsys.readouterr().err


def test_a_folder_that_exists_is_never_written_over(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="exists; delete it"):
        check(dense, dense, Recipe(32))


def test_without_autoawq_the_command_says_how_to_get_it(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.quantize.run.find_spec", lambda _: None)
    assert main(["quantize", str(dense), str(tmp_path / "out"), "--group-size", "32"]) == 1
    assert "pip install 'umbrella-lsp[awq]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [(KeyboardInterrupt(), 130, "was not made"), (OSError(28, "No space left on device"), 1, "Make room")],
)
def test_what_ends_quantising_early_leaves_nothing_behind(
    dense: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: BaseException,
    code: int,
    message: str,
) -> None:
    class Model:
        """autoawq's, as far as it is used."""

        @staticmethod
        def from_pretrained(folder: str, **options: object) -> Model:
            assert options["trust_remote_code"] is False
            return Model()

        @property
        def model(self) -> Model:
            return self

        def quantize(self, **options: object) -> None:
            pass

        def half(self) -> None:
            pass

        def save_quantized(self, folder: str, *, safetensors: bool) -> None:
            assert safetensors
            Path(folder).mkdir()
            Path(folder, "half.safetensors").write_bytes(b"half")
            raise fault

    monkeypatch.setitem(sys.modules, "awq", SimpleNamespace(AutoAWQForCausalLM=Model))
    monkeypatch.setattr("engine.quantize.run.find_spec", lambda _: "there")
    (tmp_path / "code.py").write_text(LINE * 100)
    options = ["--group-size", "32", "--calibration", str(tmp_path / "code.py")]
    assert main(["quantize", str(dense), str(tmp_path / "out"), *options]) == code
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.py", "dense"]
