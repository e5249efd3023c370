#!/usr/bin/env bash
# A private Slurm cluster of several "nodes" on one host, for tests of the job scripts: a real
# slurmctld, slurmd and munge, without systemd or cgroups, all state in one folder.
#
#   local_cluster.sh start | stop | status | env | clean | crash NODE | boot NODE
#   eval "$(local_cluster.sh env)"      # then sbatch, srun, squeue ... talk to it
#
# Packages (Debian 12): slurm-wlm slurm-wlm-basic-plugins munge
# Settings:  SLURM_LOCAL_DIR       state folder         [/tmp/slurm-local-UID]
#            SLURM_LOCAL_NODES     number of nodes      [2]
#            SLURM_LOCAL_CPUS      CPUs a node claims   [8]  (may exceed the hardware)
#            SLURM_LOCAL_GPUS      GPUs a node claims   [0]  (only sets CUDA_VISIBLE_DEVICES)
#            SLURM_LOCAL_KILLWAIT  s, SIGTERM..SIGKILL  [30]
#            SLURM_LOCAL_PORT      first TCP port       [16817]
# Debian's slurmd lacks --enable-multiple-slurmd, so every node here gets its own munged (else the
# second node rejects a launch as a replayed credential), its own mpi.conf (else the PMIx folders in
# /tmp collide) and, as root, host name and /dev/shm (else Open MPI's segments collide): to MPI they
# are separate hosts.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
folder=${SLURM_LOCAL_DIR:-/tmp/slurm-local-$(id -u)}
cpus=${SLURM_LOCAL_CPUS:-8} gpus=${SLURM_LOCAL_GPUS:-0} port=${SLURM_LOCAL_PORT:-16817}
nodes=$(seq -f 'n%.0f' -s ' ' "${SLURM_LOCAL_NODES:-2}")
export SLURM_CONF=$folder/etc/slurm.conf

die() {
  echo "local_cluster.sh: $*" >&2
  exit 1
}

# Our daemons are lines "name pid start-time"; a pid is ours only if its start time fits.
started_at() {  # fails for a dead pid and for a zombie
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${stat##*) }"
  [[ ${fields[0]} != Z ]] && echo "${fields[19]}"
}
alive() { [[ $(started_at "$1" || echo gone) == "$2" ]]; }

running() {  # 0: all daemons live, 1: some do, 2: none does
  local pid at up=0 down=0
  [[ -e $folder/pids ]] || return 2
  while read -r _ pid at; do
    if alive "$pid" "$at"; then up=1; else down=1; fi
  done <"$folder/pids"
  if ((up == 0)); then return 2; fi
  return "$down"
}

spawn() {  # NAME COMMAND...
  local name=$1
  shift
  setsid "$@" </dev/null >"$folder/log/$name.out" 2>&1 &
  echo "$name $! $(started_at $! || echo gone)" >>"$folder/pids"
}

# Where we may (root), a daemon and its jobs get a host name, /etc/hosts and /dev/shm of their own.
own_hosts=
if [[ $(id -u) == 0 ]] && unshare --uts --mount true 2>/dev/null; then own_hosts=1; fi
inside() {  # HOSTNAME NAME COMMAND...
  local host=$1 name=$2
  shift 2
  if [[ -z $own_hosts ]]; then
    spawn "$name" "$@"
    return
  fi
  # shellcheck disable=SC2016  # the inner shell's own
  spawn "$name" unshare --uts --mount sh -c 'hostname "$1" && mount --bind "$2" /etc/hosts &&
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm && shift 2 && exec "$@"' \
    sh "$host" "$folder/hosts" "$@"
}

munge_start() {  # NAME: listens on sock/NAME
  spawn "munged-$1" munged -F --key-file="$folder/munge/key" --socket="$folder/sock/$1" \
    --pid-file="$folder/munge/$1.pid" --log-file="$folder/munge/$1.log" \
    --seed-file="$folder/munge/$1.seed"
  for _ in $(seq 100); do
    if [[ -S $folder/sock/$1 ]]; then return; fi
    sleep 0.1
  done
  die "munged did not start, see $folder/log/munged-$1.out"
}

write_conf() {  # FOLDER MUNGE-NAME LISTEN-FLAGS
  local node i=0
  cat >"$1/slurm.conf" <<E
ClusterName=local
SlurmctldHost=$controller(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthInfo=socket=$folder/sock/$2
${3:+CommunicationParameters=$3}
StateSaveLocation=$folder/ctld
SlurmdSpoolDir=$folder/%n/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/log/jobcomp.log
TaskProlog=$folder/task_prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH
ReturnToService=2
KillWait=${SLURM_LOCAL_KILLWAIT:-30}
MinJobAge=86400
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES DefaultTime=60 MaxTime=INFINITE
E
  for node in $nodes; do
    i=$((i + 1))
    echo "NodeName=$node NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus RealMemory=1000000" \
      "Gres=gpu:$gpus"
  done >>"$1/slurm.conf"
  if ((gpus > 0)); then echo "Name=gpu File=$folder/gpu/[0-$((gpus - 1))]"; fi >"$1/gres.conf"
}

start() {
  local node program i loopback=
  if running; then
    echo "already running, state in $folder"
    return
  fi
  for program in munged slurmctld slurmd srun; do
    command -v "$program" >/dev/null ||
      die "no $program: apt-get install slurm-wlm slurm-wlm-basic-plugins munge"
  done
  ((${#folder} <= 60)) || die "SLURM_LOCAL_DIR is too long for socket names"
  { mkdir -p "$folder" && [[ -O $folder ]] && chmod 755 "$folder" && stop >/dev/null; } ||
    die "$folder is not ours"
  mkdir -p "$folder"/{ctld,etc,gpu,log,munge,sock}
  chmod 700 "$folder"/{ctld,munge}
  rm -f "$folder"/sock/*
  for i in $(seq 0 $((gpus - 1))); do ln -sfn /dev/null "$folder/gpu/$i"; done
  [[ -s $folder/munge/key ]] || (
    umask 377
    head -c 128 /dev/urandom >"$folder/munge/key"
  )
  controller=$(hostname -s)
  if [[ -n $own_hosts ]]; then controller=slurmctl; fi
  {
    echo "127.0.0.1 localhost slurmctl $nodes"
    cat /etc/hosts
  } >"$folder/hosts"
  # In every task: MPI between nodes goes over loopback, and waiting ranks give up the CPU.
  cat >"$folder/task_prolog" <<E
#!/bin/sh
echo export OMPI_MCA_btl_tcp_if_include=\${OMPI_MCA_btl_tcp_if_include:-lo}
echo export OMPI_MCA_mpi_yield_when_idle=\${OMPI_MCA_mpi_yield_when_idle:-1}
[ "$own_hosts" ] || echo export OMPI_MCA_btl_vader_backing_directory=$folder/\$SLURMD_NODENAME/tmp
E
  chmod 755 "$folder/task_prolog"
  # These flags bind to the host name's address: all right where that is 127.0.0.1.
  case $(getent ahostsv4 "$(hostname)") in
    "127.0.0.1 "*) loopback=NoInAddrAny,NoCtldInAddrAny ;;
  esac
  write_conf "$folder/etc" ctl "${loopback:-${own_hosts:+NoCtldInAddrAny}}"
  munge_start ctl
  inside "$controller" slurmctld slurmctld -D
  for node in $nodes; do
    mkdir -p "$folder/$node/etc"
    write_conf "$folder/$node/etc" "$node" "${own_hosts:+NoInAddrAny,}$loopback"
    echo "PMIxCliTmpDirBase=$folder/$node/tmp" >"$folder/$node/etc/mpi.conf"
    munge_start "$node"
    boot "$node"
  done
  for _ in $(seq 120); do
    if [[ $(sinfo -h -N -t idle -o %N 2>/dev/null | tr '\n' ' ') == "$nodes " ]]; then
      echo "up: $nodes with $cpus CPUs each, state in $folder"
      return
    fi
    running || break
    sleep 0.5
  done
  tail -n 5 "$folder"/log/*.out >&2
  stop
  die "did not come up"
}

# Whatever has a node's SLURM_CONF in its environment descends from its slurmd.
kill_tasks() {  # NODE...
  local node confs=()
  for node; do confs+=(-e "SLURM_CONF=$folder/$node/etc/slurm.conf"); done
  { grep -lzsxF "${confs[@]}" /proc/[0-9]*/environ || :; } | cut -d/ -f3 | grep -xE '[0-9]{2,}' |
    xargs -r kill -9 2>/dev/null || :
}

crash() {  # NODE: its daemon and all that it started are gone, as after a reboot
  kill_tasks "$1"
  rm -rf "$folder/$1/spool" "$folder/$1/tmp"
  sed -i "/^slurmd-$1 /d" "$folder/pids"
}

boot() {  # NODE
  mkdir -p "$folder/$1"/{spool,tmp}
  inside "$1" "slurmd-$1" env SLURM_CONF="$folder/$1/etc/slurm.conf" slurmd -D -N "$1"
}

stop() {  # cancel the jobs, end the daemons, then stray tasks
  local pid at signal rc=0
  running || rc=$?
  if ((rc < 2)); then
    timeout 10 squeue -h -o %A 2>/dev/null | sort -u | timeout 10 xargs -r scancel 2>/dev/null || :
    for _ in $(seq 90); do
      [[ -n $(timeout 5 squeue -h 2>/dev/null) ]] || break
      sleep 0.5
    done
    tac "$folder/pids" | while read -r _ pid at; do
      for signal in TERM KILL; do
        if alive "$pid" "$at"; then kill "-$signal" "$pid" 2>/dev/null || :; fi
        for _ in $(seq 50); do
          alive "$pid" "$at" || break
          sleep 0.1
        done
      done
    done
  fi
  # shellcheck disable=SC2086  # a list
  kill_tasks $nodes
  if [[ -d $folder/log ]]; then : >"$folder/pids"; fi
  echo "stopped"
}

status() {  # exit 0: up, 1: partly, 3: down
  local name pid at rc=0
  running || rc=$?
  if ((rc == 2)); then
    echo "not running"
    return 3
  fi
  while read -r name pid at; do
    echo "$name $pid $(alive "$pid" "$at" && echo up || echo DOWN)"
  done <"$folder/pids"
  timeout 10 sinfo -N -o '%N %T %C %G'
  timeout 10 squeue
  return "$rc"
}

case ${1:-} in
  start | stop | status) "$1" ;;
  crash | boot) "$1" "${2:?NODE}" ;;
  env) echo "export SLURM_CONF=$folder/etc/slurm.conf" ;;
  clean)
    stop
    if [[ -e $folder/pids ]]; then rm -rf "$folder"; fi
    ;;
  *)
    sed -n '2,20s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
