package bootstrap_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/freeport"
)

// This executable is also the binary that the tests install: its host's side is a stand-in that follows the script that
// Order.Operator names.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "agent" && os.Args[2] == "host" {
		os.Exit(hostSide(os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

// key is a key pair of SSH.
type key struct {
	signer ssh.Signer
	raw    ed25519.PrivateKey
	path   string
}

func newKey(tb testing.TB, path, passphrase string) key {
	tb.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "test", []byte(passphrase))
	}
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(private)
	if err != nil {
		tb.Fatal(err)
	}
	write(tb, path, pem.EncodeToMemory(block))
	write(tb, path+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()))
	return key{signer: signer, raw: private, path: path}
}

func (k key) fingerprint() string { return ssh.FingerprintSHA256(k.signer.PublicKey()) }

func write(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// far is a host: a real sshd on loopback, with its own key and home.
type far struct {
	dir, home string
	listen    string // address
	extra     string // of its configuration
	port      int
	user      string
	host      key
	cmd       *exec.Cmd
	log       *buffer
}

// buffer may be read while it is written.
type buffer struct {
	mu  sync.Mutex
	out strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

// newFar starts a host on loopback that lets in the given keys.
func newFar(tb testing.TB, allowed ...key) *far {
	tb.Helper()
	f := makeFar(tb, allowed...)
	f.start(tb)
	return f
}

func makeFar(tb testing.TB, allowed ...key) *far {
	tb.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		tb.Skipf("needs sshd: %v (apt-get install openssh-server)", err)
	}
	u, err := user.Current()
	if err != nil {
		tb.Fatal(err)
	}
	if u.Uid == "0" { // sshd of root wants its folder
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	f := &far{dir: tb.TempDir(), user: u.Username, port: freeport.Port(tb), listen: "127.0.0.1"}
	f.home = filepath.Join(f.dir, "home of it's user")
	if err := os.MkdirAll(f.home, 0o700); err != nil {
		tb.Fatal(err)
	}
	f.host = newKey(tb, filepath.Join(f.dir, "host_key"), "")
	f.allow(tb, allowed...)
	return f
}

func (f *far) allow(tb testing.TB, keys ...key) {
	tb.Helper()
	var lines []byte
	for _, k := range keys {
		lines = append(lines, ssh.MarshalAuthorizedKey(k.signer.PublicKey())...)
	}
	write(tb, filepath.Join(f.dir, "authorized_keys"), lines)
}

func (f *far) start(tb testing.TB) {
	tb.Helper()
	config := fmt.Sprintf(`Port %d
ListenAddress %s
HostKey %s
PidFile none
AuthorizedKeysFile %s/authorized_keys
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
UsePAM no
MaxStartups 100
SetEnv "HOME=%s"
%s
`, f.port, f.listen, f.host.path, f.dir, f.home, f.extra)
	write(tb, filepath.Join(f.dir, "sshd_config"), []byte(config))
	f.log = &buffer{}
	f.cmd = exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(f.dir, "sshd_config"))
	f.cmd.Stderr, f.cmd.WaitDelay = f.log, time.Second
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		f.stop()
		if tb.Failed() {
			tb.Log("sshd: " + f.log.String())
		}
	})
	eventually(tb, "sshd listens", func() bool {
		conn, err := net.Dial("tcp", f.address())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

func (f *far) stop() {
	if f.cmd != nil {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
		f.cmd = nil
	}
}

func (f *far) address() string { return net.JoinHostPort(f.listen, strconv.Itoa(f.port)) }

// known is the line of a known_hosts file for it.
func (f *far) known(names ...string) []byte {
	if len(names) == 0 {
		names = []string{"127.0.0.1"}
	}
	for i := range names {
		names[i] = "[" + names[i] + "]:" + strconv.Itoa(f.port)
	}
	return []byte(strings.Join(names, ",") + " " + string(ssh.MarshalAuthorizedKey(f.host.signer.PublicKey())))
}

func (f *far) target() bootstrap.Target {
	return bootstrap.Target{Name: "attic", Host: "127.0.0.1", Port: f.port, User: f.user, Source: bootstrap.SourceCommandLine}
}

// near is the operator's machine.
type near struct {
	home, state string
	env         map[string]string
	options     bootstrap.Options
}

func newNear(tb testing.TB) *near {
	tb.Helper()
	dir := tb.TempDir()
	n := &near{home: filepath.Join(dir, "home"), state: filepath.Join(dir, "state")}
	n.env = map[string]string{"HOME": n.home}
	n.options = bootstrap.Options{
		StateDir: n.state, Contact: patience,
		Env: func(name string) (string, bool) { v, ok := n.env[name]; return v, ok },
	}
	return n
}

// key makes one of the operator's usual keys.
func (n *near) key(tb testing.TB, passphrase string) key {
	tb.Helper()
	return newKey(tb, filepath.Join(n.home, ".ssh", "id_ed25519"), passphrase)
}

func (n *near) config(tb testing.TB, text string) {
	tb.Helper()
	write(tb, filepath.Join(n.home, ".ssh", "config"), []byte(text))
}

// knows has the operator's own known_hosts name some hosts.
func (n *near) knows(tb testing.TB, lines ...[]byte) {
	tb.Helper()
	var all []byte
	for _, l := range lines {
		all = append(all, l...)
	}
	write(tb, filepath.Join(n.home, ".ssh", "known_hosts"), all)
}

func (n *near) open(tb testing.TB) *bootstrap.Bootstrap {
	tb.Helper()
	if testing.Verbose() {
		n.options.Log = slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	b, err := bootstrap.New(n.options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return b
}

// ready is a host that the operator may enter, found.
func ready(tb testing.TB) (*bootstrap.Bootstrap, *bootstrap.Host, *far) {
	tb.Helper()
	n := newNear(tb)
	f := newFar(tb, n.key(tb, ""))
	n.knows(tb, f.known())
	b := n.open(tb)
	return b, one(tb, b, f.target()), f
}

// one probes one target, which must work.
func one(tb testing.TB, b *bootstrap.Bootstrap, t bootstrap.Target) *bootstrap.Host {
	tb.Helper()
	h := b.Probe(tb.Context(), t)
	if !h.Ready() {
		tb.Fatalf("probe found %+v", h)
	}
	return h
}

// failing probes one target, which must have the finding.
func failing(tb testing.TB, b *bootstrap.Bootstrap, t bootstrap.Target, check string) plan.Finding {
	tb.Helper()
	h := b.Probe(tb.Context(), t)
	for _, f := range h.Findings {
		if f.Check == check && f.State == plan.FindingFail {
			if f.Fix == "" || strings.Contains(f.Message, "\n") {
				tb.Errorf("finding is %+v, want one line and a mend", f)
			}
			return f
		}
	}
	tb.Fatalf("findings are %+v, want a failed %s", h.Findings, check)
	return plan.Finding{}
}

// together probes targets at the same time.
func together(tb testing.TB, b *bootstrap.Bootstrap, targets ...bootstrap.Target) []*bootstrap.Host {
	tb.Helper()
	hosts := make([]*bootstrap.Host, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() { hosts[i] = b.Probe(tb.Context(), t) })
	}
	wg.Wait()
	return hosts
}

func has(tb testing.TB, text string, parts ...string) {
	tb.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			tb.Errorf("%q does not say %q", text, p)
		}
	}
}

func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			tb.Fatalf("not within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}
