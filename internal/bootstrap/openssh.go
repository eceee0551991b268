package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skeema/knownhosts"

	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const (
	masterPoll = 20 * time.Millisecond
	pipeWait   = 2 * time.Second // for the pipes of an ssh that has ended
)

// dialOpenSSH connects by the system's ssh: one process holds the connection, and each script is another one that uses it.
// Keys are looked at by our own handshake first, where no ProxyCommand is in between: ssh shows no fingerprint that could
// be agreed to.
func (b *Bootstrap) dialOpenSSH(ctx context.Context, set *settings) (*cliSession, HostKey, error) {
	var key HostKey
	address := ""
	if set.command == "" && set.jump == "" {
		var err error
		if key, address, err = b.scanKey(ctx, set); err != nil {
			return nil, key, err
		}
	}
	s := &cliSession{ended: make(chan struct{})}
	var err error
	// Sockets have short paths: the usual temporary folder of macOS is too long.
	if s.dir, err = os.MkdirTemp("/tmp", "mlxctl-ssh-"); err != nil {
		return nil, key, err
	}
	s.args, s.env = b.sshArgs(set, address, s.dir), append(os.Environ(), "SSH_AUTH_SOCK="+set.agent)
	if err := s.master(ctx, b.o.Contact); err != nil {
		s.Close()
		return nil, key, sshSaid(set, err, s.said.text())
	}
	return s, key, nil
}

// errSeen ends a handshake whose key has been seen.
var errSeen = errors.New("key seen")

// scanKey connects only to see the key, and says at which address.
func (b *Bootstrap) scanKey(ctx context.Context, set *settings) (HostKey, string, error) {
	s := &libSession{set: set, onlyLook: true}
	key, err := s.connect(ctx, b, (&net.Dialer{Timeout: b.o.Contact}).DialContext)
	return key, s.address, err
}

func (b *Bootstrap) sshArgs(set *settings, address, dir string) []string {
	files := []string{b.known.own}
	for _, path := range set.knownFiles {
		if !strings.Contains(path, `"`) {
			files = append(files, path)
		}
	}
	args := []string{
		"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", `UserKnownHostsFile="` + strings.Join(files, `" "`) + `"`,
		"-o", "ControlPath=" + filepath.Join(dir, "s"), "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=2",
		"-o", "ConnectTimeout=" + strconv.Itoa(max(1, int(b.o.Contact/time.Second))), "-o", "LogLevel=ERROR",
	}
	if u, err := user.Current(); err == nil && u.HomeDir != b.home {
		if path := filepath.Join(b.home, ".ssh", "config"); exists(path) { // ssh looks only into the home of the account
			args = append(args, "-F", path)
		}
	}
	if set.isHeard {
		args = append(args, "-o", "ProxyCommand=none")
	}
	if host, _, err := net.SplitHostPort(address); err == nil && (host != set.host || set.isHeard) {
		args = append(args, "-o", "HostName="+host, "-o", "HostKeyAlias="+knownhosts.Normalize(set.keyAddress())) // ssh adds no port to it
	}
	if set.explicit {
		args = append(args, "-p", strconv.Itoa(set.port), "-l", set.user)
	}
	return append(args, "-T", "--", set.alias)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// cliSession is a connection that an ssh process holds.
type cliSession struct {
	args  []string
	env   []string
	dir   string // of the control socket
	cmd   *exec.Cmd
	said  said
	ended chan struct{} // closed when the master has ended
	dead  atomic.Bool
	close sync.Once
	run   sync.WaitGroup
}

// said is what a process said, while it runs.
type said struct {
	mu  sync.Mutex
	out limited // guarded by mu
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.most = mostErrors
	return s.out.Write(p)
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.out.Bytes())
}

// master starts the process that holds the connection, and waits until others can use it. It runs what ends with its
// standard input, so that it does not outlive us.
func (s *cliSession) master(ctx context.Context, most time.Duration) error {
	args := append([]string{"-M", "-o", "ControlPersist=no"}, s.args...)
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), "ssh", append(args, shell("exec cat >/dev/null"))...)
	if _, err := s.cmd.StdinPipe(); err != nil {
		s.cmd = nil
		close(s.ended)
		return fmt.Errorf("start ssh: %w", err)
	}
	s.cmd.Env, s.cmd.Stderr, s.cmd.WaitDelay = s.env, &s.said, pipeWait
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt of the terminal is for us to handle
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		close(s.ended)
		return fmt.Errorf("start ssh: %w", err)
	}
	s.run.Go(func() { _ = s.cmd.Wait(); s.dead.Store(true); close(s.ended) })
	late := time.NewTimer(most + time.Second)
	defer late.Stop()
	tick := time.NewTicker(masterPoll)
	defer tick.Stop()
	for !exists(filepath.Join(s.dir, "s")) {
		select {
		case <-tick.C:
		case <-s.ended:
			return errors.New("ssh ended")
		case <-late.C:
			return os.ErrDeadlineExceeded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// offending matches where ssh says that a known key is.
var offending = regexp.MustCompile(`(?m)^Offending .* key in (.+):([0-9]+)\s*$`)

// sshSaid makes of what ssh said the errors that the library transport has.
func sshSaid(set *settings, err error, text string) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case strings.Contains(text, "HOST IDENTIFICATION HAS CHANGED"):
		e := &changedKeyError{name: set.keyName, had: "another key", has: "a new one", where: "known_hosts"}
		if m := offending.FindStringSubmatch(text); m != nil {
			e.where = untrusted.Line(m[1], mostDetail)
			e.line, _ = strconv.Atoi(m[2])
		}
		return e
	case strings.Contains(text, "Host key verification failed"):
		return &hopError{hop: set.alias, err: &newKeyError{name: set.keyName, fingerprint: "of a kind that only ssh can see"}}
	case strings.Contains(text, "Permission denied"), strings.Contains(text, "Too many authentication failures"):
		return &sshAuthError{user: set.user, offered: "what ssh has", err: err}
	}
	if line := lastLine([]byte(text)); line != "" {
		return &scriptError{text: line, err: err}
	}
	return err
}

func (s *cliSession) Alive() bool { return !s.dead.Load() }

// Close ends the connection: the process that holds it is ours.
func (s *cliSession) Close() {
	s.close.Do(func() {
		s.dead.Store(true)
		if s.cmd != nil {
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
			kill := time.AfterFunc(pipeWait, func() { _ = s.cmd.Process.Kill() })
			s.run.Wait()
			kill.Stop()
		}
		_ = os.RemoveAll(s.dir)
	})
}

func (s *cliSession) command(ctx context.Context, script string) *exec.Cmd {
	args := append([]string{"-o", "ControlMaster=no"}, s.args...)
	cmd := exec.CommandContext(ctx, "ssh", append(args, shell(script))...)
	cmd.Env, cmd.WaitDelay = s.env, pipeWait
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Run runs a script to its end.
func (s *cliSession) Run(ctx context.Context, script string, stdin io.Reader) (stdout, stderr []byte, err error) {
	out, errs := &limited{most: mostOutput}, &limited{most: mostErrors}
	cmd := s.command(ctx, script)
	if stdin == nil {
		stdin = bytes.NewReader(nil)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, errs
	err = cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.Bytes(), errs.Bytes(), err
}

// Start begins a script that is spoken with.
func (s *cliSession) Start(ctx context.Context, script string) (*duplex, error) {
	cmd := s.command(ctx, script)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errs := &limited{most: mostErrors}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	return &duplex{In: in, Out: out, Errors: errs, Wait: cmd.Wait, Kill: func() { _ = cmd.Process.Kill() }}, nil
}
