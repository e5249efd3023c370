#!/usr/bin/env bash
# Sourced by the job scripts: the modules and the settings of MPI, NCCL and UCX of one cluster, in one
# place. What stands here is right where nothing special is known; what is commented out is what
# sites most often need. The program itself sets none of this.

# The modules that the program was built with.
# module purge
# module load gcc openmpi hdf5

# Without these, --export=NONE would also empty the environment of srun's tasks, and since Slurm
# 22.05 srun does not take --cpus-per-task from the job.
export SLURM_EXPORT_ENV=ALL
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# run.threads of a deck beats it.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}

# A rank whose threads wander pays for memory of the other socket.
# export OMP_PROC_BIND=close OMP_PLACES=cores

# NCCL between nodes: which interface starts the connections, which adapters carry the data.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# export NCCL_SOCKET_IFNAME=ib0 NCCL_IB_HCA=mlx5

# Open MPI over UCX, where that is what the site's MPI was built for.
# export OMPI_MCA_pml=ucx UCX_TLS=rc,sm,self UCX_NET_DEVICES=mlx5_0:1
# In containers that forbid one process to read another's memory:
# export OMPI_MCA_btl_vader_single_copy_mechanism=none

# A Lustre that is mounted without flock refuses the locks that HDF5 takes.
# export HDF5_USE_FILE_LOCKING=FALSE
