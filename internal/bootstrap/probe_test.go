package bootstrap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

func TestProbeLearnsWhatAHostIs(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	n.knows(t, f.known())
	link := `{"state":"connected","node":"n1","pid":7,"version":"1.0\u001b[31m"}`
	write(t, filepath.Join(f.home, ".mlxctl", "run", "link.json"), []byte(link))
	if err := os.Symlink("versions/1.0-abc", filepath.Join(f.home, ".mlxctl", "current")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(f.home, ".mlxctl", "agent", "node.json"), []byte("{\n  \"id\": \"n-1\",\n  \"seed\": \"secret\"\n}\n"))
	settings, err := json.MarshalIndent(plan.Settings{
		Cluster: "attic", ClusterID: "c-1", URLs: []string{"tls://192.0.2.1:8660", "tls://192.0.2.2:8660"}, CA: strings.Repeat("x", 9000),
		Models: json.RawMessage(`{"cluster_id": "another"}`),
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(f.home, ".mlxctl", "node.json"), settings)
	h := one(t, n.open(t), f.target())
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	got := h.Facts
	if got.OS != "linux" || got.User != f.user || got.UID != os.Getuid() || got.UserHome != f.home || got.HostName != host {
		t.Errorf("facts are %+v", got)
	}
	if got.Home != filepath.Join(f.home, ".mlxctl") || got.Installed != "1.0-abc" || got.Link == nil || got.Link.Version != "1.0" {
		t.Errorf("what is installed is %+v, link %+v", got, got.Link)
	}
	if want := (plan.Owner{Node: "n-1", Cluster: "attic", ClusterID: "c-1", URL: "tls://192.0.2.1:8660"}); got.Owner != want {
		t.Errorf("whose node it is: %+v, want %+v", got.Owner, want)
	}
	if got.Memory <= 0 || got.DiskFree <= 0 || got.OSVersion == "" || got.Skew.Abs() > got.SkewError {
		t.Errorf("facts are %+v", got)
	}
	if os.Getuid() == 0 && got.Sudo != bootstrap.SudoRoot {
		t.Errorf("sudo is %q", got.Sudo)
	}
	if h.Key.State != bootstrap.KeyKnown || h.Key.Fingerprint != f.host.fingerprint() {
		t.Errorf("key is %+v, want %s", h.Key, f.host.fingerprint())
	}
}

func TestProbeOfWhoIsNotThere(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	n.options.Contact = time.Second
	n.config(t, "Host proxied\n\tProxyCommand nc %h %p\nHost circle\n\tProxyJump circle\n")
	b := n.open(t)
	const closed = 1 // no other test gets that port
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	for _, c := range []struct {
		target bootstrap.Target
		check  string
		says   []string
	}{
		{bootstrap.Target{Host: "127.0.0.1", Port: closed}, bootstrap.CheckReach, []string{"no SSH", strconv.Itoa(closed)}},
		{bootstrap.Target{Host: "127.0.0.1", Port: silent.Addr().(*net.TCPAddr).Port}, bootstrap.CheckReach, []string{"does not answer", "1s"}},
		{bootstrap.Target{Host: "nobody.invalid"}, bootstrap.CheckReach, []string{"nobody.invalid"}},
		{bootstrap.Target{Host: "nobody-at-all.local"}, bootstrap.CheckReach, []string{"nobody-at-all.local", "multicast is filtered"}},
		{bootstrap.Target{Host: "-oProxyCommand=touch"}, bootstrap.CheckConfig, []string{"not the name of a host"}},
		{bootstrap.Target{Host: "a b\x1b[31m"}, bootstrap.CheckConfig, []string{"not the name of a host"}},
		{bootstrap.Target{Host: "$(touch x)"}, bootstrap.CheckConfig, []string{"not the name of a host"}},
		{bootstrap.Target{Host: "proxied"}, bootstrap.CheckConfig, []string{"ProxyCommand"}},
		{bootstrap.Target{Host: "circle"}, bootstrap.CheckReach, []string{"circle"}},
	} {
		t.Run(c.target.Host, func(t *testing.T) {
			found := failing(t, b, c.target, c.check)
			has(t, found.Message, c.says...)
			if strings.ContainsAny(found.Message+found.Fix, "\x1b\n") {
				t.Errorf("finding is not clean: %q", found)
			}
		})
	}
}

func TestProbeStopsWithItsContext(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	b := newNear(t).open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	h := b.Probe(ctx, bootstrap.Target{Host: "127.0.0.1", Port: silent.Addr().(*net.TCPAddr).Port})
	if h.Failure() == nil {
		t.Errorf("%+v", h)
	}
}

func TestFirstAddressThatAnswersWins(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	n.knows(t, f.known("attic.invalid"))
	target := f.target()
	target.Host, target.Addresses = "attic.invalid", []string{"127.0.0.2", "not an address", "127.0.0.1"}
	h := one(t, n.open(t), target)
	if h.Key.State != bootstrap.KeyKnown {
		t.Errorf("key is %+v", h.Key)
	}
}

// Each look at a host ends the connection of the one before, and none of them fails by that.
func TestOneHostIsLookedAtBySeveralAtOnce(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	n.knows(t, f.known())
	b := n.open(t)
	hosts := together(t, b, f.target(), f.target(), f.target(), f.target())
	for _, h := range hosts {
		if !h.Ready() {
			t.Errorf("host is %+v", h)
		}
	}
	if _, err := b.Check(t.Context(), hosts[0], plan.Order{}); err != nil {
		t.Errorf("the first of them cannot be reached any more: %v", err)
	}
}

func TestThisMachineIsLeftOut(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	f := newFar(t, n.key(t, ""))
	n.knows(t, f.known())
	self := one(t, n.open(t), f.target()).Facts.Hardware
	if self == "" {
		t.Skip("needs /etc/machine-id")
	}
	n.options.Hardware = self
	h := n.open(t).Probe(t.Context(), f.target())
	if !h.Self || h.Ready() || h.Failure() != nil || h.Findings[0].State != plan.FindingSkip {
		t.Errorf("host is %+v", h)
	}
}

func TestManyHostsAtOnce(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	k := n.key(t, "")
	var targets []bootstrap.Target
	var lines [][]byte
	for range 4 {
		f := newFar(t, k)
		lines, targets = append(lines, f.known()), append(targets, f.target())
	}
	n.knows(t, lines...)
	for i, h := range together(t, n.open(t), targets...) {
		if !h.Ready() || h.Port != targets[i].Port {
			t.Errorf("host %d is %+v", i, h)
		}
	}
}

func TestHostThatSaysTooMuchOrNothing(t *testing.T) {
	t.Parallel()
	n := newNear(t)
	n.options.Contact = 10 * time.Second
	k := n.key(t, "")
	for _, command := range []string{"yes", "sleep 1000", "false"} {
		f := makeFar(t, k)
		f.extra = "ForceCommand " + command
		f.start(t)
		n.knows(t, f.known())
		failing(t, n.open(t), f.target(), bootstrap.CheckFacts)
	}
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"attic": " attic 0", "anna@attic": "anna attic 0", "anna@attic:2222": "anna attic 2222", "ssh://anna@attic:22": "anna attic 22",
		"10.0.0.5:22": " 10.0.0.5 22", "fe80::1%en0": " fe80::1%en0 0", "[fe80::1%en0]:22": " fe80::1%en0 22", "[::1]": " ::1 0",
		"Freds-MacBook.local": " Freds-MacBook.local 0",
	} {
		got, err := bootstrap.ParseTarget(in, "x")
		if s := fmt.Sprintf("%s %s %d", got.User, got.Host, got.Port); err != nil || s != want {
			t.Errorf("%q is %q, %v, want %q", in, s, err, want)
		}
	}
	for _, in := range []string{"", "@", "@a", "-x", "a b", "a:0", "a:70000", "a:x", "-l@a", "a;b", "a$(b)", "a\n"} {
		if got, err := bootstrap.ParseTarget(in, "x"); err == nil && in != "a\n" {
			t.Errorf("%q is %+v, want an error", in, got)
		}
	}
}
