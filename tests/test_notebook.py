"""The notebook runs to its end, on phantoms."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/notebooks/radiograph-and-ct.ipynb"


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # of the notebook's own packages
def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="the extra notebook is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the extra notebook is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
