"""The flags that scripts of tracked work on blocks share, and the request and options that are made of them."""

from dataclasses import dataclass

import pytest

from incasem_like.commands.stage import add_run_flags, add_segmentation_flags, read_flags, run_options
from incasem_like.errors import InputError
from incasem_like.terminal import script_parser


@dataclass(frozen=True)
class Request:
    segmentation: str
    output: str
    block_shape: tuple[int, ...] | None = None


def parsed(*words):
    parser = script_parser("Measure.")
    add_segmentation_flags(parser, "folder of tables")
    parser.add_argument("--block_shape", type=int, nargs=3)
    add_run_flags(parser, "replace tables")
    return parser.parse_args(["-s", "c.zarr/labels", "-o", "tables", *words])


def test_a_request_has_the_values_of_its_flags():
    assert read_flags(Request, parsed()) == Request("c.zarr/labels", "tables")
    assert read_flags(Request, parsed("--block_shape", "1", "2", "3")).block_shape == (1, 2, 3)


def test_the_options_name_the_store_workers_and_whether_to_replace(tmp_path):
    arguments = parsed("--overwrite", "-n", "3", "--name", "sizes", "--file_storage", str(tmp_path))
    options = run_options(arguments, "measurements")
    assert (options["overwrite"], options["num_workers"], options["workers"]) == (True, 3, None)
    assert (options["run_name"], options["store"].kind) == ("sizes", "measurements")
    assert "open_store" not in options
    assert run_options(arguments, "measurements", lookups=True)["open_store"]("trainings").kind == "trainings"


def test_without_a_record_there_is_no_store():
    assert run_options(parsed("--unobserved"), "measurements")["store"] is None


def test_flags_that_exclude_each_other_are_refused(tmp_path):
    with pytest.raises(InputError, match="one store"):
        run_options(parsed("--mongodb", "x", "--file_storage", str(tmp_path)), "measurements")
