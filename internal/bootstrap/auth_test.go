package bootstrap_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// answers is an operator who gives these answers, in order.
type answers struct {
	mu    sync.Mutex
	give  []string
	asked []string
	slow  time.Duration
}

func (a *answers) Secret(ctx context.Context, prompt string) (string, error) {
	select {
	case <-time.After(a.slow):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, prompt)
	if len(a.give) == 0 {
		return "", errors.New("no more answers")
	}
	answer := a.give[0]
	a.give = a.give[1:]
	return answer, nil
}

func TestKeyWithAPassphraseIsAskedForOnce(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	k := n.key(t, "open sesame")
	f, g := newFar(t, k), newFar(t, k)
	n.knows(t, f.known(), g.known())
	ask := &answers{give: []string{"wrong", "open sesame"}}
	n.options.Ask = ask
	for _, h := range together(t, n.open(t), f.target(), g.target()) {
		if !h.Ready() {
			t.Errorf("host is %+v", h)
		}
	}
	if len(ask.asked) != 2 {
		t.Fatalf("asked %q, want a wrong answer and a right one", ask.asked)
	}
	has(t, ask.asked[0], k.path)
}

func TestNobodyIsAskedForAKeyThatIsNotWanted(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	k := n.key(t, "open sesame")
	f := newFar(t)
	n.knows(t, f.known())
	found := failing(t, n.open(t), f.target(), bootstrap.CheckAuth)
	has(t, found.Message, k.path, f.user)
	has(t, found.Fix, "ssh-copy-id -p", f.user+"@127.0.0.1", k.path+".pub")
}

func TestAgent(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	dir := t.TempDir()
	held, configured := newKey(t, filepath.Join(dir, "held"), ""), newKey(t, filepath.Join(dir, "configured"), "")
	n.env["SSH_AUTH_SOCK"] = serveAgent(t, filepath.Join(dir, "s"), held, configured)
	if err := os.Remove(configured.path); err != nil { // only the agent has it
		t.Fatal(err)
	}
	f, g := newFar(t, held), newFar(t, configured)
	n.config(t, fmt.Sprintf("Host only\n HostName 127.0.0.1\n Port %d\n User %s\n IdentityFile %s\n IdentitiesOnly yes\n"+
		"Host wrong\n HostName 127.0.0.1\n Port %d\n IdentityFile %s\n IdentitiesOnly yes\n", g.port, g.user, configured.path, f.port, configured.path))
	n.knows(t, f.known(), g.known())
	b := n.open(t)
	one(t, b, f.target())
	one(t, b, bootstrap.Target{Host: "only"})
	found := failing(t, b, bootstrap.Target{Host: "wrong"}, bootstrap.CheckAuth)
	if n := strings.Count(found.Message, "agent's"); n != 1 {
		t.Errorf("%d keys of the agent were offered, want the configured one: %q", n, found.Message)
	}
}

func serveAgent(tb testing.TB, path string, keys ...key) string {
	tb.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: k.raw, Comment: filepath.Base(k.path)}); err != nil {
			tb.Fatal(err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	var run sync.WaitGroup
	run.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			run.Go(func() { _ = agent.ServeAgent(ring, conn); _ = conn.Close() })
		}
	})
	tb.Cleanup(func() { _ = l.Close(); run.Wait() })
	return path
}

func TestWhatOnlySSHUnderstandsIsLeftOut(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	known, included := filepath.Join(n.home, "our hosts"), filepath.Join(n.home, "more")
	write(t, known, f.known())
	write(t, included, fmt.Appendf(nil, "Host attic\n Port %d\n", f.port))
	n.config(t, fmt.Sprintf(`Include %s
Match exec "false"
  HostName 203.0.113.1
Match host attic
  User %s
Match final all
  Port 1
Host attic
  HostName 127.0.0.1
  UserKnownHostsFile /nonexistent "%s"
`, included, f.user, known))
	h := one(t, n.open(t), bootstrap.Target{Host: "attic"})
	if len(h.Findings) != 1 || h.Findings[0].Check != bootstrap.CheckConfig || h.Findings[0].State != plan.FindingWarn {
		t.Errorf("findings are %+v, want a warning", h.Findings)
	}
}

func TestJumpHosts(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	k := n.key(t, "")
	inner, hop, outer := newFar(t, k), newFar(t, k), newFar(t, k)
	// The first of several jump hosts may have one of its own.
	n.config(t, fmt.Sprintf("Host inner\n HostName 127.0.0.1\n Port %d\n ProxyJump outer,hop\nHost hop\n HostName 127.0.0.1\n Port %d\n"+
		"Host outer\n HostName 127.0.0.1\n Port %d\n", inner.port, hop.port, outer.port))
	n.knows(t, inner.known(), hop.known(), outer.known())
	one(t, n.open(t), bootstrap.Target{Host: "inner", User: inner.user})
	for _, h := range []*far{hop, outer} {
		if log := h.log.String(); !strings.Contains(log, "Accepted publickey") {
			t.Errorf("a jump host was not used: %s", log)
		}
	}
	n.knows(t, inner.known(), outer.known())
	found := failing(t, n.open(t), bootstrap.Target{Host: "inner"}, bootstrap.CheckHostKey)
	has(t, found.Message, "through hop", hop.host.fingerprint())
}

func TestPasswordOfAMac(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	host := newKey(t, filepath.Join(t.TempDir(), "host"), "")
	config := &ssh.ServerConfig{KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		got, err := ask("", "", []string{"Password:\x1b[2J"}, []bool{false})
		if err != nil || len(got) != 1 || got[0] != "apple" {
			return nil, errors.New("wrong")
		}
		return nil, nil
	}}
	config.AddHostKey(host.signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var run sync.WaitGroup
	run.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			run.Go(func() {
				defer func() { _ = conn.Close() }()
				c, channels, requests, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				for ch := range channels {
					_ = ch.Reject(ssh.Prohibited, "no")
				}
				_ = c.Wait()
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); run.Wait() })
	f := &far{host: host, port: l.Addr().(*net.TCPAddr).Port, user: "fred"}
	n.knows(t, f.known())
	// Who types slower than a host may answer is not cut off.
	n.options.Contact = time.Second
	ask := &answers{give: []string{"pear", "apple"}, slow: 2 * n.options.Contact}
	n.options.Ask = ask
	b := n.open(t)
	failing(t, b, f.target(), bootstrap.CheckFacts) // let in, and told nothing
	if len(ask.asked) != 2 || strings.Contains(ask.asked[0], "\x1b") {
		t.Fatalf("asked %q, want twice and clean", ask.asked)
	}
	has(t, ask.asked[0], "fred", "Password:")
	b.Close()
}
