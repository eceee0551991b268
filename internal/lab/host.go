package lab

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	//go:embed rootfs.sh
	rootfsScript string
	//go:embed init.sh
	initScript string
)

// Host is one machine of a lab. Its methods are safe for concurrent use, but for faults of one host.
type Host struct {
	Spec

	lab    *Lab
	index  int    // 0 is the operator's
	root   string // its file system, in the lab's mount namespace
	python python

	mu     sync.Mutex
	ip     netip.Addr        // guarded by mu
	pid    int               // guarded by mu: its first process, on this machine
	frozen []int             // guarded by mu
	lives  []<-chan struct{} // guarded by mu: closed when that life of it, from boot to boot, is over
}

// labels are what people call their Macs.
func labels() []string {
	return []string{"Fred’s MacBook Pro", "Anna’s Mac mini", "Mac Studio im Büro", "Renée’s iMac", "mini", "Bob’s \"big\" Mac & co"}
}

func newHost(l *Lab, i int, p python) *Host {
	s := Spec{Name: "mac" + strconv.Itoa(i+1), User: "fred", Model: "Mac16,10", DiskBytes: defaultDisk}
	if s.Label = labels()[max(i, 0)%len(labels())]; i >= len(labels()) {
		s.Label += fmt.Sprintf(" (%d)", i/len(labels())+1)
	}
	last := byte(firstHost + i)
	if i < 0 {
		s.Name, s.Label, last = "studio", "Operator’s Mac Studio", 1
	}
	if l.options.Each != nil {
		l.options.Each(i, &s)
	}
	h := &Host{Spec: s, lab: l, index: i + 1, root: l.dir + "/" + s.Name, python: p}
	h.ip = l.address(last)
	return h
}

func (l *Lab) address(last byte) netip.Addr {
	b := l.network.Addr().As4()
	b[3] = last
	return netip.AddrFrom4(b)
}

// IP is its address now.
func (h *Host) IP() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ip
}

// PID is its first process, as this machine counts. It changes with a reboot.
func (h *Host) PID() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pid
}

// Home is its user's home folder, as seen there.
func (h *Host) Home() string { return "/home/" + h.User }

// create makes its file system.
func (h *Host) create(ctx context.Context) error {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	binds, links := h.python.binds, [][2]string(nil)
	if !h.Blank {
		binds, links = slices.Concat(binds, h.python.made), h.python.links
	}
	if h.index == 0 && h.lab.options.Wheels != "" {
		binds = append(slices.Clone(binds), [2]string{h.lab.options.Wheels, "/opt/wheels"})
	}
	_, err := run(ctx, []string{
		"LAB_ROOT=" + h.root, "LAB_NAME=" + h.Name, "LAB_MACHINE_ID=" + hex.EncodeToString(id), "LAB_USER=" + h.User,
		"LAB_DISK=" + strconv.FormatInt(h.DiskBytes, 10), "LAB_KEY=" + h.lab.key, "LAB_INIT=" + initScript,
		"LAB_BINDS=" + pairs(binds), "LAB_LINKS=" + strings.ReplaceAll(pairs(links), "|~", "|"+h.Home()),
		"LAB_WRAPPERS=" + pairs(h.python.wraps),
	}, rootfsScript, "nsenter", "--target", h.lab.target(), "--mount", "--", "bash", "-s")
	if err != nil {
		return fmt.Errorf("make file system: %w", err)
	}
	if err := h.advertise(ctx, !h.NoRemoteLogin); err != nil {
		return err
	}
	if h.NoRemoteLogin {
		_, err = h.lab.inMount(ctx, "touch", h.root+"/etc/lab/sshd/down")
	}
	return err
}

func pairs(list [][2]string) string {
	var b strings.Builder
	for _, p := range list {
		fmt.Fprintf(&b, "%s|%s\n", p[0], p[1])
	}
	return b.String()
}

// boot starts it and returns when it takes connections.
func (h *Host) boot(ctx context.Context) error {
	boot := make([]byte, 16)
	_, _ = rand.Read(boot)                                                                        // never fails
	cmd := exec.Command("nsenter", "--target", h.lab.target(), "--mount", "--net", "--pid", "--", //nolint:noctx // outlives the context, and ends with the lab
		"unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "bash", h.root+"/etc/lab/init")
	id := hex.EncodeToString(boot)
	cmd.Env = []string{
		"PATH=" + path, "HOME=/", "LAB_ROOT=" + h.root, "LAB_NAME=" + h.Name,
		"LAB_BOOT=" + strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-"),
	}
	stdin, line, done, err := begin(ctx, cmd)
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer func() { _ = stdin.Close() }()
	pid, err := strconv.Atoi(line)
	h.mu.Lock()
	h.pid, h.frozen = pid, nil
	h.lives = append(h.lives, done)
	h.mu.Unlock()
	if err != nil {
		return fmt.Errorf("boot: unexpected answer %q: %w", line, err)
	}
	if err := h.plugIn(ctx); err != nil {
		return fmt.Errorf("connect to the network: %w", err)
	}
	if _, err := stdin.Write([]byte("go\n")); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	wait := "until [ -e /run/avahi-daemon/pid ]; do sleep 0.02; done"
	if !h.NoRemoteLogin {
		wait += "; until (: </dev/tcp/127.0.0.1/22) 2>/dev/null; do sleep 0.02; done"
	}
	if _, err := h.Exec(ctx, "root", "timeout", "30", "bash", "-c", wait); err != nil {
		said, _ := h.Exec(context.WithoutCancel(ctx), "root", "tail", "-n", "20", "/var/log/boot.log")
		return fmt.Errorf("wait for its services: %w; its log: %s", err, said)
	}
	return nil
}

func (h *Host) veth() string { return "ve" + strconv.Itoa(h.index) }

func (h *Host) plugIn(ctx context.Context) error {
	mac := fmt.Sprintf("02:6d:6c:78:00:%02x", h.index)
	err := h.lab.onBridge(ctx,
		fmt.Sprintf("link add %s type veth peer name eth0 address %s netns %d", h.veth(), mac, h.PID()),
		fmt.Sprintf("link set %s master lab0 up", h.veth()))
	if err != nil {
		return err
	}
	_, err = h.net(ctx, fmt.Sprintf("link set lo up\naddr add %s/%d dev eth0\nlink set eth0 up\n", h.IP(), h.lab.network.Bits()), "ip", "-batch", "-")
	return err
}

// net runs a program in its network and mount namespaces, as root.
func (h *Host) net(ctx context.Context, stdin string, argv ...string) ([]byte, error) {
	return run(ctx, nil, stdin, "nsenter", append([]string{"--target", strconv.Itoa(h.PID()), "--net", "--mount", "--"}, argv...)...)
}

// Command is a program that is to run on the host as a user, in the user's home, with the environment of a login. Its
// end, when the context is over, takes what it started along, unless that left the process group.
func (h *Host) Command(ctx context.Context, user string, argv ...string) *exec.Cmd {
	home, ids := "/root", []string{"--reuid=root", "--regid=root", "--init-groups"}
	if user != "root" {
		home, ids = "/home/"+user, []string{"--reuid=" + user, "--regid=" + user, "--init-groups"}
	}
	args := []string{"--target", strconv.Itoa(h.PID()), "--net", "--mount", "--uts", "--pid", "--", "setpriv"}
	args = append(append(args, ids...), "env", "-i", "-C", home, "HOME="+home, "USER="+user, "LOGNAME="+user, "SHELL=/bin/bash",
		"LANG=C.UTF-8", "TERM=xterm-256color", "PATH="+path)
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	cmd.Env = []string{"PATH=" + path}
	grouped(cmd)
	return cmd
}

// Exec runs a program on the host to its end and returns its standard output. The error holds its standard error.
func (h *Host) Exec(ctx context.Context, user string, argv ...string) ([]byte, error) {
	return output(h.Command(ctx, user, argv...))
}

// ReadFile reads a file as root; a relative path is below the user's home.
func (h *Host) ReadFile(ctx context.Context, name string) ([]byte, error) {
	return h.Exec(ctx, "root", "cat", "--", h.abs(name))
}

// WriteFile writes a file as the host's user; a relative path is below the user's home, whose folders it makes.
func (h *Host) WriteFile(ctx context.Context, name string, data []byte) error {
	cmd := h.Command(ctx, h.User, "sh", "-c", `mkdir -p "$(dirname "$1")" && cat >"$1"`, "sh", h.abs(name))
	cmd.Stdin = strings.NewReader(string(data))
	_, err := output(cmd)
	return err
}

// Put copies a program of this machine to the host, as root's and for all to run. What is there is replaced at once, and
// goes on running where it runs.
func (h *Host) Put(ctx context.Context, file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	cmd := h.Command(ctx, "root", "sh", "-c", `cat >"$1.new" && chmod 755 "$1.new" && mv "$1.new" "$1"`, "sh", h.abs(name))
	cmd.Stdin = f
	_, err = output(cmd)
	return err
}

// PutFolder copies what is in a folder of this machine into one of the host, which it makes, as the host's user's.
func (h *Host) PutFolder(ctx context.Context, dir, name string) error {
	archive := exec.CommandContext(ctx, "tar", "-C", dir, "-cf", "-", ".")
	pipe, err := archive.StdoutPipe()
	if err != nil {
		return err
	}
	if err := archive.Start(); err != nil {
		return err
	}
	cmd := h.Command(ctx, h.User, "sh", "-c", `mkdir -p "$1" && tar -C "$1" --no-same-owner -xf -`, "sh", h.abs(name))
	cmd.Stdin = pipe
	_, err = output(cmd)
	if err != nil {
		_ = archive.Process.Kill() // nobody reads what it writes
	}
	return errors.Join(err, archive.Wait())
}

func (h *Host) abs(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return h.Home() + "/" + name
}

// Reboot kills everything on the host at once, as a power cut does, and starts it again with what is on its disk. Faults
// of its network end with it.
func (h *Host) Reboot(ctx context.Context) error {
	if err := h.PowerOff(ctx); err != nil {
		return err
	}
	return h.boot(ctx)
}

// PowerOff kills everything on the host at once. Reboot starts it again.
func (h *Host) PowerOff(ctx context.Context) error {
	h.mu.Lock()
	pid, done := h.pid, h.lives[len(h.lives)-1]
	h.mu.Unlock()
	if err := kill(pid); err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(closeTime):
		return errors.New("host does not end")
	}
	_ = h.lab.onBridge(ctx, "link del "+h.veth()) // gone with the namespace, sooner or later
	return nil
}

// over waits until all that was ever started on the host has ended.
func (h *Host) over(after <-chan time.Time) error {
	h.mu.Lock()
	lives := slices.Clone(h.lives)
	h.mu.Unlock()
	for _, done := range lives {
		select {
		case <-done:
		case <-after:
			return fmt.Errorf("host %s does not end", h.Name)
		}
	}
	return nil
}
