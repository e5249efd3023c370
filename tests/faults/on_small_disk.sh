#!/bin/sh
# on_small_disk.sh SIZE COMMAND...: runs the command with PG_TEST_DIRECTORY on a tmpfs of SIZE that
# only this process tree sees. Exit 77 (skipped) where the system allows no such mount.
size=$1
shift
unshare -rm true 2>/dev/null || { echo "unshare -rm is not allowed here"; exit 77; }
exec unshare -rm sh -c '
  disk=$(mktemp -d) && mount -t tmpfs -o size='"$size"' small "$disk" || exit 77
  PG_TEST_DIRECTORY=$disk "$@"
  status=$?
  umount "$disk" && rmdir "$disk"
  exit $status' sh "$@"
