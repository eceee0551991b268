# The first process of a host, in namespaces of its own: says its pid on the machine, waits for its network interface,
# then starts the host's services and reaps what loses its parent. When it dies, so does everything in the host.
#   LAB_ROOT, LAB_NAME, LAB_BOOT (an id of this boot)
set -eu
read -r pid _ </proc/self/stat # of the machine's /proc
hostname "$LAB_NAME"
cd "$LAB_ROOT"
mount -t proc proc proc
mount -t sysfs -o ro sys sys
[ ! -d sys/devices/virtual/dmi ] || mount -t tmpfs -o ro none sys/devices/virtual/dmi # the serial numbers of the machine
mount -t tmpfs -o mode=755,nosuid dev dev
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 run run
mkdir run/lab run/lock
rm -rf tmp
mkdir -m 1777 tmp
pivot_root . .old
cd /
umount -l /.old
echo "$LAB_BOOT" >/run/lab/boot_id
mount --bind /run/lab/boot_id /proc/sys/kernel/random/boot_id
touch /run/lab/date
mount --bind /usr/bin/date /run/lab/date
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad || true # no second's wait for a link-local address
echo "$pid"
read -r _
exec </dev/null >>/var/log/boot.log 2>&1
unset LAB_ROOT LAB_NAME LAB_BOOT
runsvdir -P /etc/lab &
while kill -0 $!; do wait $! || true; done
