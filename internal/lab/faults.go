package lab

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Mend takes a fault away again. A reboot of the host takes away faults of its network, processes and clock as well;
// mending those afterwards is an error, or does nothing.
type Mend func(ctx context.Context) error

// rules adds firewall rules; each begins with the program. They are taken away by the same words.
func (h *Host) rules(ctx context.Context, rules ...string) (Mend, error) {
	apply := func(ctx context.Context, verb string) error {
		var errs []error
		for _, r := range rules {
			words := strings.Fields(r)
			argv := append([]string{words[0], "-w", verb}, words[1:]...)
			_, err := h.net(ctx, "", argv...)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	return func(ctx context.Context) error { return apply(ctx, "-D") }, apply(ctx, "-A")
}

// LinkDown pulls the cable: the host keeps its addresses, and nothing comes or goes.
func (h *Host) LinkDown(ctx context.Context) (Mend, error) {
	up := func(ctx context.Context) error { return h.lab.onBridge(ctx, "link set "+h.veth()+" up") }
	return up, h.lab.onBridge(ctx, "link set "+h.veth()+" down")
}

// Direction is one way of a connection, as the host sees it.
type Direction string

// Directions.
const (
	Incoming Direction = "INPUT"
	Outgoing Direction = "OUTPUT"
)

// OneWayDrop loses whatever comes to the host, or whatever leaves it, without a word to anybody.
func (h *Host) OneWayDrop(ctx context.Context, d Direction) (Mend, error) {
	side := "-i"
	if d == Outgoing {
		side = "-o"
	}
	return h.rules(ctx, fmt.Sprintf("iptables %s %s eth0 -j DROP", d, side), fmt.Sprintf("ip6tables %s %s eth0 -j DROP", d, side))
}

// LocalNetworkDenied is macOS without the permission for the local network: whoever is not root may dial nobody on it and
// sees "no route to host" at once, no packet leaves; connections from outside are taken as ever. On a Mac, what an SSH
// session starts is free of this; here it is not.
func (h *Host) LocalNetworkDenied(ctx context.Context) (Mend, error) {
	const who = "-m owner ! --uid-owner 0 -m conntrack --ctstate NEW -j REJECT --reject-with"
	return h.rules(ctx, "iptables OUTPUT -o eth0 "+who+" icmp-host-unreachable", "ip6tables OUTPUT -o eth0 "+who+" icmp6-addr-unreachable")
}

// MulticastFiltered is an access point or a switch that passes on no multicast: the host is not found and finds nobody,
// and can be reached.
func (h *Host) MulticastFiltered(ctx context.Context) (Mend, error) {
	var rules []string
	for _, d := range []Direction{Incoming, Outgoing} {
		rules = append(rules, fmt.Sprintf("iptables %s -d 224.0.0.0/4 -j DROP", d), fmt.Sprintf("ip6tables %s -d ff00::/8 -p udp -j DROP", d))
	}
	return h.rules(ctx, rules...)
}

// Loss loses packets to the host at random; probability is from 0 to 1.
func (h *Host) Loss(ctx context.Context, probability float64) (Mend, error) {
	p := strconv.FormatFloat(probability, 'f', 6, 64)
	return h.rules(ctx, "iptables INPUT -i eth0 -m statistic --mode random --probability "+p+" -j DROP",
		"ip6tables INPUT -i eth0 -m statistic --mode random --probability "+p+" -j DROP")
}

// Slow limits the host's network, each way, to a rate in bits a second.
func (h *Host) Slow(ctx context.Context, bits int) (Mend, error) {
	limit := []string{"root", "tbf", "rate", strconv.Itoa(bits) + "bit", "burst", "32kbit", "latency", "400ms"}
	tc := func(ctx context.Context, verb string, limit []string) error {
		_, there := h.net(ctx, "", append([]string{"tc", "qdisc", verb, "dev", "eth0"}, limit...)...)
		_, here := run(ctx, nil, "", "nsenter", append([]string{"--target", h.lab.target(), "--net", "--", "tc", "qdisc", verb, "dev", h.veth()}, limit...)...)
		return errors.Join(there, here)
	}
	return func(ctx context.Context) error { return tc(ctx, "del", []string{"root"}) }, tc(ctx, "add", limit)
}

// ChangeAddress gives the host an address that nobody had before, as a router does. Connections to the old one hear
// nothing any more.
func (h *Host) ChangeAddress(ctx context.Context) error {
	h.lab.mu.Lock()
	ip := h.lab.address(h.lab.spare)
	h.lab.spare++
	h.lab.mu.Unlock()
	bits := h.lab.network.Bits()
	_, err := h.net(ctx, fmt.Sprintf("addr del %s/%d dev eth0\naddr add %s/%d dev eth0\n", h.IP(), bits, ip, bits), "ip", "-batch", "-")
	if err != nil {
		return fmt.Errorf("change address: %w", err)
	}
	h.mu.Lock()
	h.ip = ip
	h.mu.Unlock()
	return nil
}

// FullDisk leaves so many bytes on the host's disk.
func (h *Host) FullDisk(ctx context.Context, free int64) (Mend, error) {
	resize := func(ctx context.Context, size int64) error {
		_, err := h.lab.inMount(ctx, "mount", "-o", "remount,size="+strconv.FormatInt(size, 10), h.root)
		return err
	}
	mend := func(ctx context.Context) error { return resize(ctx, h.DiskBytes) }
	out, err := h.lab.inMount(ctx, "df", "--output=used", "-B1", h.root)
	if err != nil {
		return mend, err
	}
	words := strings.Fields(string(out))
	used, err := strconv.ParseInt(words[len(words)-1], 10, 64)
	if err != nil {
		return mend, fmt.Errorf("unexpected answer of df: %w", err)
	}
	return mend, resize(ctx, used+free)
}

// WrongClock has date, on this host, be off by d.
func (h *Host) WrongClock(ctx context.Context, d time.Duration) (Mend, error) {
	script := `set -eu
printf '#!/bin/sh\nexec /run/lab/date --date="@$(($(/run/lab/date +%%s) + %d))" "$@"\n' "$1" >/run/lab/wrong-date
chmod 755 /run/lab/wrong-date
mount --bind /run/lab/wrong-date /usr/bin/date`
	_, err := h.Exec(ctx, "root", "sh", "-c", script, "sh", strconv.Itoa(int(d.Seconds())))
	mend := func(ctx context.Context) error {
		_, err := h.Exec(ctx, "root", "umount", "/usr/bin/date")
		return err
	}
	return mend, err
}

// NoSSH switches Remote Login off: nothing listens, and nothing says it would. Who is logged in stays so.
func (h *Host) NoSSH(ctx context.Context) (Mend, error) {
	set := func(ctx context.Context, on bool) error {
		script := "touch /etc/lab/sshd/down; sv -w 10 down /etc/lab/sshd"
		if on {
			script = "rm -f /etc/lab/sshd/down; sv -w 10 up /etc/lab/sshd; until (: </dev/tcp/127.0.0.1/22) 2>/dev/null; do sleep 0.02; done"
		}
		_, err := h.Exec(ctx, "root", "timeout", "15", "bash", "-c", script)
		return errors.Join(err, h.advertise(ctx, on))
	}
	return func(ctx context.Context) error { return set(ctx, true) }, set(ctx, false)
}

// NewHostKey gives the host another SSH key, as a reinstallation does, or somebody in its place. It cannot be mended but
// by believing it.
func (h *Host) NewHostKey(ctx context.Context) error {
	_, err := h.Exec(ctx, "root", "timeout", "15", "bash", "-c", `set -eu; cd /etc/ssh; rm ssh_host_ed25519_key*
ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key; sv -w 10 restart /etc/lab/sshd
until (: </dev/tcp/127.0.0.1/22) 2>/dev/null; do sleep 0.02; done`)
	return err
}

// sudoers replaces what the host's user may.
func (h *Host) sudoers(ctx context.Context, line string) error {
	_, err := h.Exec(ctx, "root", "sh", "-c", `set -eu; umask 227
printf 'Defaults !fqdn\nroot ALL=(ALL:ALL) ALL\n%s\n' "$1" >/etc/sudoers.new; mv /etc/sudoers.new /etc/sudoers`, "sh", line)
	return err
}

// NoSudo has the host's user be no administrator.
func (h *Host) NoSudo(ctx context.Context) (Mend, error) {
	return h.freeSudo, h.sudoers(ctx, "")
}

// SudoPassword has sudo on the host ask for a password, which this is.
func (h *Host) SudoPassword(ctx context.Context, password string) (Mend, error) {
	cmd := h.Command(ctx, "root", "sh", "-c", `set -eu
hash=$(perl -e '$p = <STDIN>; chomp $p; print crypt($p, q($6$mlxctllab$))')
while IFS=: read -r name old rest; do [ "$name" != "$1" ] || old=$hash; echo "$name:$old:$rest"; done </etc/shadow >/etc/shadow.new
chown 0:42 /etc/shadow.new; chmod 640 /etc/shadow.new; mv /etc/shadow.new /etc/shadow`, "sh", h.User)
	cmd.Stdin = strings.NewReader(password + "\n")
	_, err := output(cmd)
	return h.freeSudo, errors.Join(err, h.sudoers(ctx, h.User+" ALL=(ALL:ALL) ALL"))
}

func (h *Host) freeSudo(ctx context.Context) error {
	return h.sudoers(ctx, h.User+" ALL=(ALL:ALL) NOPASSWD: ALL")
}
