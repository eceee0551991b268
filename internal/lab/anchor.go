package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// path is where programs are looked for, on this machine and on the hosts.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// needs lists the programs that a lab is made with, and the Debian package that has each.
func needs() [][2]string {
	return [][2]string{
		{"unshare", "util-linux"},
		{"nsenter", "util-linux"},
		{"setpriv", "util-linux"},
		{"ip", "iproute2"},
		{"tc", "iproute2"},
		{"iptables", "iptables"},
		{"ip6tables", "iptables"},
		{"sshd", "openssh-server"},
		{"ssh", "openssh-client"},
		{"ssh-keygen", "openssh-client"},
		{"avahi-daemon", "avahi-daemon"},
		{"runsvdir", "runit"},
		{"sudo", "sudo"},
		{"ps", "procps"},
	}
}

// Available returns ErrUnavailable, with the reason, where this machine cannot have a lab: not Linux, not root, or a
// kernel or container that refuses namespaces. Missing programs are another error: they can be installed.
func Available(ctx context.Context) error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("%w: it needs Linux", ErrUnavailable)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: it needs root: sudo make lab", ErrUnavailable)
	}
	var missing []string
	for _, n := range needs() {
		if !inPath(n[0]) {
			missing = append(missing, n[1]+" ("+n[0]+")")
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("scripts/deps.sh test installs what is missing: %s", strings.Join(missing, ", "))
	}
	_, err := run(ctx, nil, "", "unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", "mount -t tmpfs none /tmp && ip link add lab0 type bridge && iptables -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT")
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: this kernel or container refuses namespaces: %w", ErrUnavailable, err)
	}
	return ctx.Err()
}

func inPath(name string) bool {
	for dir := range strings.SplitSeq(path, ":") {
		if info, err := os.Stat(dir + "/" + name); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// anchorScript is the first process of the lab's outer namespaces. It ends when its standard input does, which is when
// whoever made the lab is gone, and takes all processes of the lab with it.
const anchorScript = `set -eu
mount -t tmpfs -o mode=755,size=16m lab "$1"
ip link set lo up
ip link add lab0 type bridge mcast_snooping 0
ip link set lab0 up
read -r pid _ </proc/self/stat
echo "$pid"
if [ "$2" = true ]; then exec </dev/null >/dev/null 2>&1 sleep infinity; fi
read -r _ || true`

// dropAnchor makes the lab's folder and its outer namespaces, with a bridge in them.
func (l *Lab) dropAnchor(ctx context.Context) error {
	dir, err := makeDir()
	if err != nil {
		return err
	}
	l.dir = dir
	cmd := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", //nolint:noctx // outlives the context, and ends by its standard input
		"sh", "-c", anchorScript, "sh", dir, strconv.FormatBool(l.options.Standing))
	cmd.Env = []string{"PATH=" + path}
	stdin, line, done, err := begin(ctx, cmd)
	if err != nil {
		return errors.Join(err, removeDir(dir))
	}
	l.anchor, l.hold, l.ended = cmd, stdin, done
	pid, err := strconv.Atoi(line)
	if err != nil {
		return fmt.Errorf("unexpected answer %q: %w", line, err)
	}
	if l.options.Standing {
		l.hold = closeFunc(func() error { return kill(pid) })
	}
	l.state, err = writeState(dir, pid, l.options.Standing)
	return err
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// begin starts a process that tells one line when it is ready. done is closed when it has ended.
func begin(ctx context.Context, cmd *exec.Cmd) (stdin io.WriteCloser, line string, done chan struct{}, err error) {
	if stdin, err = cmd.StdinPipe(); err != nil {
		return nil, "", nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, "", nil, err
	}
	defer func() { _ = read.Close() }()
	said, err := os.CreateTemp("", "lab-begin")
	if err != nil {
		_ = write.Close()
		return nil, "", nil, err
	}
	defer func() { _, _ = said.Close(), os.Remove(said.Name()) }()
	cmd.Stdout, cmd.Stderr = write, said
	grouped(cmd)
	err = cmd.Start()
	_ = write.Close()
	if err != nil {
		return nil, "", nil, err
	}
	done = make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	if deadline, ok := ctx.Deadline(); ok {
		_ = read.SetReadDeadline(deadline)
	}
	line, err = bufio.NewReader(read).ReadString('\n')
	if err == nil {
		return stdin, strings.TrimSpace(line), done, nil
	}
	_ = stdin.Close()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	<-done
	text, _ := os.ReadFile(said.Name())
	return nil, "", nil, fmt.Errorf("%s ended before it was ready: %s", cmd.Args[0], strings.TrimSpace(string(text)))
}

// grouped makes a command the leader of a session, so that it and what it started can be killed together: a signal
// reaches the process group across namespaces, and the keyboard's does not reach a standing lab.
func grouped(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = 5 * time.Second
	if cmd.Cancel != nil {
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	}
}

func (l *Lab) target() string { return strconv.Itoa(l.state.Anchor) }

// inMount runs a program of this machine where the hosts' file systems are mounted.
func (l *Lab) inMount(ctx context.Context, argv ...string) ([]byte, error) {
	return run(ctx, nil, "", "nsenter", append([]string{"--target", l.target(), "--mount", "--"}, argv...)...)
}

// onBridge runs ip's batch commands on the bridge's side.
func (l *Lab) onBridge(ctx context.Context, lines ...string) error {
	_, err := run(ctx, nil, strings.Join(lines, "\n")+"\n", "nsenter", "--target", l.target(), "--net", "--", "ip", "-batch", "-")
	return err
}
