"""Execute the notebooks in place, so that their pictures and results are stored with them."""

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent


def execute(source: Path, target: Path, work: Path) -> nbformat.NotebookNode:
    """Run all cells of a notebook and write it with its outputs, in which the folder of its data is shortened.

    Args:
        source: The notebook.
        target: Where to write it.
        work: Folder of the volumes and runs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed; nothing is written.
    """
    os.environ["INCASEM_NOTEBOOKS"] = str(work)
    book = nbformat.read(source, as_version=4)
    NotebookClient(book, timeout=3600, coalesce_streams=True, resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # times of day
        if "outputs" in cell:
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]  # progress
        for output in cell.get("outputs", []):
            if "text" in output:
                for path, shown in ((f"{work}", "work"), (f"{HERE.parent}/", ""), (f"{HERE.parent}", ".")):
                    output["text"] = output["text"].replace(path, shown)
    nbformat.write(book, target)
    return book


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")))
    for path in parser.parse_args().notebooks:
        print(f"Executing {path.name}", flush=True)
        execute(path, path, HERE / "work")
