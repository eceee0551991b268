package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Limits of one command of the lab's own, of the making of a lab, and of its end.
const (
	stepTime  = time.Minute
	startTime = 3 * time.Minute
	closeTime = 15 * time.Second
)

const (
	defaultDisk = 4 << 30
	maxHosts    = 64
	firstHost   = 11  // in the last byte of the address
	firstSpare  = 100 // addresses that hosts move to
)

// Options say what a lab is made of.
type Options struct {
	Hosts int // besides the operator's, which is always there
	// Binary is a file that the operator's host has as mlxctl on its PATH; empty means none.
	Binary string
	// Cache is a cache folder of mlxctl with a Python environment in it, which every host then finds in its own cache.
	// Empty means that hosts are blank: they have an interpreter, and no environment.
	Cache string
	// Python is the interpreter that hosts have; empty means the newest on this machine that mlx-lm runs on.
	Python string
	// Wheels is a folder that the operator's host sees as /opt/wheels; empty means none.
	Wheels string
	// Standing has the lab outlive this process, until Remove.
	Standing bool
	// Each may change what a host is before it is made; i counts from 0, and -1 is the operator's. nil changes nothing.
	Each func(i int, s *Spec)
}

// Spec is what one host is.
type Spec struct {
	Name  string // host name, unique in the lab; a DNS label
	Label string // name that it has in Bonjour: "Fred’s MacBook Pro"
	Model string // in its advert: "Mac16,10"
	User  string // whose home it is; uid 1000
	// Blank has it have no Python environment, whatever the others have.
	Blank bool
	// NoRemoteLogin has it start without sshd and without the advert of one.
	NoRemoteLogin bool
	DiskBytes     int64 // of everything that is written on it
}

// Lab is a network of hosts. Safe for concurrent use.
type Lab struct {
	Operator *Host   // where mlxctl is run
	Hosts    []*Host // the others

	options Options
	dir     string
	state   state
	anchor  *exec.Cmd // holds the namespaces
	hold    io.Closer // closing it ends the anchor
	ended   chan struct{}
	key     string // the operator's public key
	network netip.Prefix

	mu    sync.Mutex
	spare byte // guarded by mu: next address to move to
}

// ErrUnavailable means that this machine cannot have a lab; the error says why.
var ErrUnavailable = errors.New("LAB NOT RUN")

// New makes a lab that ends with the test. Where the machine cannot have one the test is skipped, and says so on
// standard error. Every other failure fails the test.
func New(tb testing.TB, o Options) *Lab {
	tb.Helper()
	l, err := Start(tb.Context(), o)
	if errors.Is(err, ErrUnavailable) {
		banner := fmt.Sprintf("=== %s: %v", tb.Name(), err)
		_, _ = fmt.Fprintln(os.Stderr, banner)
		tb.Skip(banner)
	}
	if err != nil {
		tb.Fatalf("start lab: %v", err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Errorf("close lab: %v", err)
		}
	})
	return l
}

// Start makes a lab and returns when every host takes connections. The error is ErrUnavailable where this machine cannot
// have one.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if err := Available(ctx); err != nil {
		return nil, err
	}
	if o.Hosts < 0 || o.Hosts > maxHosts {
		return nil, fmt.Errorf("a lab has 0 to %d hosts, not %d", maxHosts, o.Hosts)
	}
	if err := Sweep(ctx); err != nil {
		return nil, err
	}
	l := &Lab{options: o, network: netip.MustParsePrefix("10.77.0.0/24"), spare: firstSpare, ended: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) error {
	if err := l.dropAnchor(ctx); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := l.makeKey(ctx); err != nil {
		return err
	}
	python, err := l.python(ctx)
	if err != nil {
		return err
	}
	l.Operator = newHost(l, -1, python)
	for i := range l.options.Hosts {
		l.Hosts = append(l.Hosts, newHost(l, i, python))
	}
	errs := make([]error, len(l.All()))
	var wg sync.WaitGroup
	for i, h := range l.All() {
		wg.Go(func() {
			if errs[i] = h.create(ctx); errs[i] == nil {
				errs[i] = h.boot(ctx)
			}
			if errs[i] != nil {
				errs[i] = fmt.Errorf("host %s: %w", h.Name, errs[i])
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return l.equipOperator(ctx)
}

// All returns the operator's host and the others.
func (l *Lab) All() []*Host {
	if l.Operator == nil {
		return nil
	}
	return append([]*Host{l.Operator}, l.Hosts...)
}

// Dir is the lab's folder on this machine; its name tells labs apart.
func (l *Lab) Dir() string { return l.dir }

// makeKey makes the key pair that the operator logs in with.
func (l *Lab) makeKey(ctx context.Context) error {
	file := filepath.Join(l.dir, "id_ed25519")
	if _, err := l.inMount(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", file); err != nil {
		return fmt.Errorf("make the operator's key: %w", err)
	}
	pub, err := l.inMount(ctx, "cat", file+".pub")
	l.key = strings.TrimSpace(string(pub))
	return err
}

// equipOperator gives the operator's host the key and the binary.
func (l *Lab) equipOperator(ctx context.Context) error {
	h := l.Operator
	script := `cd "$1"; install -m 600 -o 1000 -g 1000 ../id_ed25519 ../id_ed25519.pub "home/$2/.ssh/"`
	if _, err := l.inMount(ctx, "sh", "-c", script, "sh", h.root, h.User); err != nil {
		return fmt.Errorf("give the operator a key: %w", err)
	}
	if l.options.Binary == "" {
		return nil
	}
	if err := h.Put(ctx, l.options.Binary, "/usr/local/bin/mlxctl"); err != nil {
		return fmt.Errorf("give the operator mlxctl: %w", err)
	}
	return nil
}

// SSH runs a command on a host over the network, as the operator's ssh does. The error holds what ssh said.
func (l *Lab) SSH(ctx context.Context, h *Host, command string) ([]byte, error) {
	return l.Operator.Exec(ctx, l.Operator.User, "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", h.User+"@"+h.IP().String(), command)
}

// Close ends the lab and waits until its processes are gone. It may be called again.
func (l *Lab) Close() error {
	if l.anchor == nil {
		return nil
	}
	_ = l.hold.Close()
	select {
	case <-l.ended:
	case <-time.After(closeTime / 3):
		_ = l.anchor.Process.Kill()
	}
	after := time.After(closeTime)
	for _, h := range l.All() {
		if err := h.over(after); err != nil {
			return err
		}
	}
	select {
	case <-l.ended:
	case <-after:
		return errors.New("the process that holds the namespaces does not end")
	}
	return removeDir(l.dir)
}

// run runs a command of the lab's own on this machine, within stepTime.
func run(ctx context.Context, env []string, stdin, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append([]string{"PATH=" + path, "LANG=C.UTF-8"}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	return output(cmd)
}

// output runs a command to its end. The error holds the end of what it wrote to standard error.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	grouped(cmd)
	err := cmd.Run()
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		if len(said) > 2000 {
			said = "…" + said[len(said)-2000:]
		}
		err = fmt.Errorf("%w: %s", err, said)
	}
	return stdout.Bytes(), err
}
