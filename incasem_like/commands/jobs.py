"""``incasem-like jobs``: running and recent blockwise jobs, their failed blocks, retry and cancel."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from incasem_like.blockwise.job import Job, jobs_directory, list_jobs
from incasem_like.commands.lazy_group import LazyGroup, Member
from incasem_like.commands.options import Whole
from incasem_like.commands.tables import NOTHING, Column, cell, print_table
from incasem_like.errors import InputError
from incasem_like.terminal import duration, nearest, shell_command, shown_path

_HERE = "incasem_like.commands.jobs"
COMMANDS = {
    "list": Member(_HERE, "list_all", "recent jobs: state, progress, time remaining"),
    "show": Member(_HERE, "show_job", "one job: workers, failed blocks with their errors"),
    "retry": Member(_HERE, "retry_job", "repeat a job's command: does failed and remaining blocks"),
    "cancel": Member(_HERE, "cancel_job", "stop a running job, here or on another machine"),
}
STATES = ("running", "finished", "failed", "interrupted", "cancelled", "died")
FAILED_SHOWN, MATCHES_SHOWN = 20, 5

_folder = click.option(
    "--jobs_directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the jobs' records; otherwise $INCASEM_JOBS or training_runs/jobs.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=LazyGroup, members=COMMANDS)
def jobs() -> None:
    """Watch, cancel and repeat work on blocks of volumes.

    A job is one call of a script that fills a volume block by block. Its id stays the same for all calls that fill the
    same output. Records are kept for 30 days.
    """


@click.command("list")
@click.argument("states", metavar="[STATE]...", nargs=-1, type=click.Choice(STATES))
@click.option("--limit", type=Whole(min=1), metavar="N", help="Show the latest N only.")
@_folder
@_as_json
def list_all(states: Sequence[str], limit: int | None, jobs_directory: Path | None, as_json: bool) -> None:
    """List jobs, the latest first.

    STATE selects jobs that are running, finished, failed, interrupted, cancelled or died.
    """
    found = [job for job in _all_jobs(jobs_directory) if not states or job.state in states][:limit]
    if as_json:
        print(json.dumps([_plain(job) for job in found], indent=2))
        return
    if not found:
        print(f"No jobs {'of that state' if states else 'yet'} in {_place(jobs_directory)}.")
        return
    headings = (("id", False), ("state", False), ("job", False), ("done", True), ("failed", True), ("left", True))
    columns = [Column(title, right) for title, right in (*headings, ("started", False), ("output", False))]
    rows = []
    for job in found:
        share = f"{100 * job.done // max(job.total, 1)} %"
        left = NOTHING if job.seconds_left is None or job.state != "running" else duration(job.seconds_left)
        failed = cell(job.failed or None)
        rows.append([job.id, job.state, job.name, share, failed, left, cell(job.started), shown_path(job.output)])
    print_table(columns, rows)


@click.command("show")
@click.argument("job_id", metavar="ID")
@_folder
@_as_json
def show_job(job_id: str, jobs_directory: Path | None, as_json: bool) -> None:
    """Show one job, with its workers and the blocks that failed.

    ID may be shortened as long as only one job begins with it.
    """
    job = find_job(job_id, jobs_directory)
    failed = job.failed_blocks()
    if as_json:
        blocks = [{"block": number, **entry} for number, entry in sorted(failed.items())]
        print(json.dumps({**_plain(job), "workers": list(job.workers), "failed_blocks": blocks}, indent=2))
        return
    done = f"{job.done} of {job.total} blocks, {job.failed} failed"
    if job.state == "running" and job.seconds_left is not None:
        done += f", {job.rate:.3g} blocks/s, {duration(job.seconds_left)} left"
    facts = {
        "job": f"{job.id} {job.name}",
        "state": job.state,
        "progress": done,
        "output": job.output,
        "started": cell(job.started),
        "updated": cell(job.updated),
        "machine": f"{job.host.get('hostname', '?')}, process {job.host.get('pid', '?')}",
        "started in": job.directory,
        "command": job.command,
        "logs": job.folder,
        "dashboard": job.dashboard,
        "error": job.error,
    }
    print("\n".join(f"{name:<12}{value}" for name, value in facts.items() if value != ""))
    if job.workers:
        print("\nat the last update:" if job.state == "died" else "")
        rows = []
        for worker in job.workers:
            cells = [cell(worker.get(key)) for key in ("name", "host", "pid", "block")]
            seconds = worker.get("seconds")
            rows.append([*cells, NOTHING if seconds is None else duration(float(seconds))])
        titles = {"worker": False, "machine": False, "process": True, "block": True, "for": True}
        print_table([Column(title, right) for title, right in titles.items()], rows)
    elif job.state == "running" and (said := job.last_words()):
        print("\nno worker is connected; last messages:")
        for name, words in said.items():
            print(f"  {name}: {words}")
    if failed:
        _print_failed(job, failed, jobs_directory)


@click.command("retry")
@click.argument("job_id", metavar="ID")
@_folder
def retry_job(job_id: str, jobs_directory: Path | None) -> int:
    """Run a job's command again in its folder: only blocks that failed or were not reached are done."""
    job = find_job(job_id, jobs_directory)
    if job.state in ("running", "finished"):
        raise InputError(f"Job {job.id} ({job.name}) is {job.state}, so there is nothing to retry.")
    if not job.directory.is_dir():
        raise InputError(
            f"Job {job.id} was started in {job.directory}, which is missing: run its command elsewhere: {job.command}"
        )
    print(job.command, flush=True)
    return subprocess.run(["/bin/sh", "-c", f"exec {job.command}"], cwd=job.directory, check=False).returncode


@click.command("cancel")
@click.argument("job_id", metavar="ID")
@_folder
def cancel_job(job_id: str, jobs_directory: Path | None) -> None:
    """Stop a job; finished blocks are kept, and retry resumes with the rest."""
    job = find_job(job_id, jobs_directory)
    job.cancel()
    print(f"Job {job.id} ({job.name}) stops within seconds; resume it with: {_command('retry', job, jobs_directory)}")


def find_job(job_id: str, directory: Path | None) -> Job:
    """Find the job whose id is, or as the only one begins with, ``job_id``.

    Raises:
        InputError: No id, or more than one, begins with it.
    """
    found = _all_jobs(directory)
    matches = [job for job in found if job.id == job_id] or [job for job in found if job.id.startswith(job_id)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        more = ", ..." if len(matches) > MATCHES_SHOWN else ""
        shown = ", ".join(job.id for job in matches[:MATCHES_SHOWN])
        raise InputError(f"{len(matches)} jobs begin with '{job_id}': choose {shown}{more}.")
    raise InputError(
        f"Unknown job '{job_id}' in {_place(directory)}{nearest(job_id, [job.id for job in found])}: "
        "incasem-like jobs list shows all jobs."
    )


def _all_jobs(directory: Path | None) -> list[Job]:
    if directory is not None and not directory.is_dir():
        raise InputError(f"The folder {directory} does not exist: name the folder that jobs are recorded in.")
    return list_jobs(directory)


def _place(directory: Path | None) -> str:
    return shown_path(directory or jobs_directory())


def _command(verb: str, job: Job, directory: Path | None, *flags: str) -> str:
    place = [] if directory is None else ["--jobs_directory", shown_path(directory)]
    return shell_command("incasem-like", "jobs", verb, job.id, *place, *flags)


def _print_failed(job: Job, failed: Mapping[int, Mapping[str, Any]], directory: Path | None) -> None:
    blocks = "1 failed block" if len(failed) == 1 else f"{len(failed)} failed blocks"
    print(f"\n{blocks}, tried again by: {_command('retry', job, directory)}")
    for number, entry in sorted(failed.items())[:FAILED_SHOWN]:
        attempts = "1 attempt" if entry.get("attempts", 1) == 1 else f"{entry['attempts']} attempts"
        sides = zip(*(entry.get("roi") or ([], [])), strict=True)
        region = entry.get("name") or ", ".join(f"{first}-{first + size - 1}" for first, size in sides) or "?"
        print(f"  block {number} at {region}, {attempts}: {entry.get('error')}")
    if len(failed) > FAILED_SHOWN:
        print(f"  and {len(failed) - FAILED_SHOWN} more: {_command('show', job, directory, '--json')}")


def _plain(job: Job) -> dict[str, Any]:
    names = ("id", "name", "state", "total", "done", "failed", "rate", "seconds_left", "command", "error")
    return {
        **{name: getattr(job, name) for name in names},
        "output": str(job.output),
        "directory": str(job.directory),
        "started": job.started.isoformat(),
        "updated": job.updated.isoformat(),
        "host": dict(job.host),
    }
