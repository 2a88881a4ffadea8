"""Stand-ins for the programs of batch queues, to be put on PATH: they note what they are asked, and run workers."""

from pathlib import Path

NOTE = r"""#!/bin/bash
here=$(dirname "$0"); program=$(basename "$0")
printf '%s\n' "$program" "$@" "--" > "$here/asking.$$"
cat "$here/asking.$$" >> "$here/asked"  # in one piece, whoever else asks
"""

REFUSE = 'if [ -e "$here/closed" ]; then echo "Batch job submission failed: the queue is closed" >&2; exit 1; fi\n'

# Runs the job apart from itself, and waits as --wait, -K, -W block=true and -sync y say.
WAITING = (
    NOTE
    + REFUSE
    + r"""
while [ $# -gt 0 ]; do
  case "$1" in
    --output|-o) out="$2"; shift 2;;
    -pe) shift 3;;
    --wait|-K|--*=*) shift;;
    -*) shift 2;;
    *) break;;
  esac
done
[ "$1" = bash ] || set -- bash "$@"
case "$program" in qsub) echo "7.server";; *) echo "Job <7> is submitted to queue <normal>.";; esac
setsid "$@" >> "$out" 2>&1 < /dev/null &
echo $! >> "$here/pids"
wait $!
"""
)

# HTCondor's: the job is described by a file, and its end stands in a log.
CONDOR_SUBMIT = (
    NOTE
    + REFUSE
    + r"""
{ cat "$1"; echo "--"; } >> "$here/asked"
get() { sed -n "s/^$1=//p" "$file" | head -n 1; }
file="$1"; script=$(get executable); out=$(get output); log=$(get log)
echo "1 job(s) submitted to cluster 7."
: > "$log"
(setsid bash "$script" >> "$out" 2>&1 < /dev/null & pid=$!; echo $pid >> "$here/pids"; wait $pid
 status=$?; [ $status -gt 128 ] && echo "(0) Abnormal termination (signal 9)" >> "$log" ||
 echo "(1) Normal termination (return value $status)" >> "$log") > /dev/null 2>&1 &
"""
)
CONDOR_WAIT = 'while ! grep -q "termination" "$1"; do sleep 0.1; done\n'

# OAR's: the job is known by a number, and asked for.
OARSUB = (
    NOTE
    + REFUSE
    + r"""
while [ $# -gt 1 ]; do [ "$1" = -O ] && out="$2"; shift; done
id=$$; echo "OAR_JOB_ID=$id"; echo Running > "$here/state.$id"
(setsid bash "$1" >> "$out" 2>&1 < /dev/null & pid=$!; echo $pid >> "$here/pids"; wait $pid
 [ $? = 0 ] && echo Terminated > "$here/state.$id" || echo Error > "$here/state.$id") > /dev/null 2>&1 &
"""
)
OARSTAT = 'echo "$3: $(cat "$(dirname "$0")/state.$3")"\n'

CANCEL = (
    NOTE
    + r"""
for pid in $(cat "$here/pids"); do kill -9 $pid 2>/dev/null; done
exit 0
"""
)

PROGRAMS = {
    **dict.fromkeys(("sbatch", "bsub", "qsub"), WAITING), "condor_submit": CONDOR_SUBMIT, "oarsub": OARSUB,
    **dict.fromkeys(("scancel", "bkill", "qdel", "condor_rm", "oardel"), CANCEL),
    "condor_wait": "#!/bin/bash\n" + CONDOR_WAIT, "oarstat": "#!/bin/bash\n" + OARSTAT,
}  # fmt: skip


def install_queues(folder: Path) -> None:
    """Write the programs into a new folder."""
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def asked(folder: Path) -> list[list[str]]:
    """Return what the programs were called with, in the order of time."""
    text = (folder / "asked").read_text() if (folder / "asked").exists() else ""
    return [call.strip().split("\n") for call in text.split("\n--\n") if call.strip()]
