#!/bin/bash
# A real SLURM of one node on this machine, from Debian's packages: a run of two tasks through sbatch,
# which an urgent job pre-empts, and which is queued again and goes on. Needs root.
#
#   sudo launch/slurm_on_loopback.sh FOLDER        (FOLDER: new; logs, state and the run's workdir)
#
# Ends with 0 if the job was pre-empted, completed, and the two tasks wrote one log of all steps. The
# daemons are stopped again; the packages stay.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
mkdir "$1"
folder=$(cd "$1" && pwd)
python=$checkout/.venv/bin/python

command -v slurmctld slurmd sbatch munged >/dev/null || {
    apt-get update -qq
    # Debian's packages start their services at once, without a configuration: not here.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
    rm /usr/sbin/policy-rc.d
}

# munge vouches for users between the daemons: its key, socket and log lie in the folder.
install -d -o munge -m 755 "$folder/munge"
dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
chown munge "$folder/munge/key" && chmod 400 "$folder/munge/key"
chmod a+x "$folder"
socket=$folder/munge/socket
runuser -u munge -- munged --key-file="$folder/munge/key" --socket="$socket" --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed" \
    --log-file="$folder/munge/log"

host=$(hostname -s)
cores=$(nproc)
mkdir "$folder/state" "$folder/spool"
cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
CONF
export SLURM_CONF=$folder/slurm.conf
stop() {
    for file in "$folder/slurmd.pid" "$folder/slurmctld.pid" "$folder/munge/pid"; do
        if [ -f "$file" ]; then kill "$(cat "$file")"; fi
    done
}
trap stop EXIT
slurmctld
slurmd
for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && break
    sleep 1
done
sinfo

cd "$checkout"
"$python" -c "import runpy; runpy.run_path('tests/train/nano.py')['write_studies'](__import__('pathlib').Path('$folder/store'))"
steps=60
"$python" launch/slurm.py --out "$folder/job.sbatch" --nodes 1 --tasks-per-node 2 --cpus-per-task 1 \
    --time 0:40:00 --partition all --python "$python" \
    -- pretrain --config tests/train/nano.py --workdir "$folder/workdir" \
    --config.data.store="$folder/store" --config.steps="$steps" --config.mesh.data=2 \
    --config.objective.dino=0 --config.objective.ibot=0 --config.objective.koleo=0 \
    --config.checkpoint.every=1000
export JAX_PLATFORMS=cpu
job=$(sbatch --parsable --chdir="$folder" "$folder/job.sbatch")
log=$folder/workdir/metrics.jsonl
state() { scontrol show job "$job" | grep -o 'JobState=[A-Z_]*' | cut -d= -f2; }
lines() { cat "$log" 2>/dev/null | wc -l; }

# Pre-empted once it trains: the urgent job asks for the whole node.
until [ "$(lines)" -ge 3 ]; do
    [ "$(state)" != FAILED ] || { cat "$folder"/mmv-*.log; exit 1; }
    sleep 0.2
done
sbatch --parsable --partition=urgent --exclusive --output=/dev/null --wrap='sleep 5'
until [ "$(state)" != RUNNING ]; do sleep 1; done
taken=$(lines)
echo "pre-empted after $taken of $steps steps: $(state)"
until case "$(state)" in COMPLETED | FAILED | CANCELLED | TIMEOUT) true ;; *) false ;; esac; do
    sleep 2
done
cat "$folder"/mmv-*.log
restarts=$(scontrol show job "$job" | grep -o 'Restarts=[0-9]*' | cut -d= -f2)
once=$(grep -o '"step": [0-9]*' "$log" | sort -u | wc -l)
echo "$(state), $restarts restart(s), $once steps, $(lines) lines in $log"
[ "$(state)" = COMPLETED ] && [ "$restarts" -ge 1 ] && [ "$once" -eq "$steps" ] && [ "$(lines)" -eq "$steps" ]
