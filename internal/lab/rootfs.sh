# Makes the file system of a host: a tmpfs of limited size with its own /etc, /home, /root, /opt and /var, and the
# machine's programs read-only. Run in the lab's mount namespace; what it mounts ends with that.
#   LAB_ROOT where; LAB_NAME, LAB_MACHINE_ID, LAB_USER, LAB_DISK what; LAB_KEY the operator's public key; LAB_INIT its first process
#   LAB_BINDS  "machine's folder|folder in the host", one a line, read-only
#   LAB_LINKS  "target|link in the host", one a line; those in the user's home become the user's
#   LAB_WRAPPERS "target|program in the host", one a line
set -eu
umask 022
mkdir -p "$LAB_ROOT"
mount -t tmpfs -o "mode=755,size=$LAB_DISK" "lab-$LAB_NAME" "$LAB_ROOT"
cd "$LAB_ROOT"
home=home/$LAB_USER
mkdir -p etc/ssh etc/avahi/services etc/service etc/lab/sshd etc/lab/avahi etc/lab/services home root opt run tmp usr \
  var/empty var/lib/misc var/lib/sudo var/log var/tmp proc sys dev .old
chmod 1777 tmp var/tmp
chmod 711 root
ln -s /run var/run

for d in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$d" ]; then cp -a "/$d" .
  elif [ -d "/$d" ]; then mkdir "$d"; mount --bind "/$d" "$d"; mount -o remount,bind,ro "$d"
  fi
done
mount --bind /usr usr
mount -o remount,bind,ro usr
mkdir -p var/local/bin
mount --bind var/local usr/local

for f in alternatives bash.bashrc ca-certificates ca-certificates.conf debian_version default/locale ethertypes gai.conf host.conf \
  iproute2 ld.so.cache ld.so.conf ld.so.conf.d localtime login.defs os-release pam.conf pam.d profile protocols rpc runit security \
  services ssl timezone; do
  [ -e "/etc/$f" ] || continue
  mkdir -p "etc/$(dirname "$f")"
  cp -a "/etc/$f" "etc/$f"
done
rm -rf etc/runit/runsvdir # the machine's services

echo "$LAB_NAME" >etc/hostname
echo "$LAB_MACHINE_ID" >etc/machine-id
printf '127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n' "$LAB_NAME" >etc/hosts
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n' >etc/nsswitch.conf
cat >etc/passwd <<EOF
root:x:0:0:root:/root:/bin/bash
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
avahi:x:101:101::/run/avahi-daemon:/usr/sbin/nologin
$LAB_USER:x:1000:1000:$LAB_USER:/home/$LAB_USER:/bin/bash
EOF
cat >etc/group <<EOF
root:x:0:
tty:x:5:
utmp:x:43:
shadow:x:42:
sudo:x:27:
avahi:x:101:
nogroup:x:65534:
$LAB_USER:x:1000:
EOF
# A star forbids passwords and not keys, as an exclamation mark would.
printf 'root:*:19000::::::\nsshd:*:19000::::::\nnobody:*:19000::::::\navahi:*:19000::::::\n%s:*:19000::::::\n' "$LAB_USER" >etc/shadow
chown 0:42 etc/shadow
chmod 640 etc/shadow
printf 'Defaults !fqdn\nroot ALL=(ALL:ALL) ALL\n%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$LAB_USER" >etc/sudoers
chmod 440 etc/sudoers

ssh-keygen -q -t ed25519 -N '' -C "$LAB_NAME" -f etc/ssh/ssh_host_ed25519_key
cat >etc/ssh/sshd_config <<EOF
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers $LAB_USER
MaxStartups 200
Subsystem sftp internal-sftp
EOF
cat >etc/avahi/avahi-daemon.conf <<EOF
[server]
host-name=$LAB_NAME
enable-dbus=no
allow-interfaces=eth0
ratelimit-interval-usec=1000000
ratelimit-burst=1000
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
EOF
printf '#!/bin/sh\nexec 2>&1\nmkdir -p /run/sshd\nexec /usr/sbin/sshd -D -e\n' >etc/lab/sshd/run
printf '#!/bin/sh\nexec 2>&1\nmkdir -p /run/avahi-daemon\nexec avahi-daemon --no-drop-root --no-chroot --no-rlimits\n' >etc/lab/avahi/run
printf '#!/bin/sh\nexec 2>&1\nexec runsvdir -P /etc/service\n' >etc/lab/services/run
chmod 755 etc/lab/*/run
printf '%s' "$LAB_INIT" >etc/lab/init

install -d -m 755 -o 1000 -g 1000 "$home"
install -d -m 700 -o 1000 -g 1000 "$home/.ssh"
printf '%s\n' "$LAB_KEY" >"$home/.ssh/authorized_keys"
chown 1000:1000 "$home/.ssh/authorized_keys"
chmod 600 "$home/.ssh/authorized_keys"

printf '%s' "${LAB_BINDS:-}" | while IFS='|' read -r from to; do
  mkdir -p ".$to"
  mount --bind "$from" ".$to"
  mount -o remount,bind,ro ".$to"
done
printf '%s' "${LAB_LINKS:-}" | while IFS='|' read -r target link; do
  mkdir -p ".$(dirname "$link")"
  ln -sfn "$target" ".$link"
done
# Not links: an interpreter that is called by a link looks for its library beside that.
printf '%s' "${LAB_WRAPPERS:-}" | while IFS='|' read -r target file; do
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$target" >".$file"
  chmod 755 ".$file"
done
chown -hR 1000:1000 "$home"
