package bootstrap_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
)

// inside is set for this executable in a network of its own.
const inside = "MLXCTL_TEST_OWN_NETWORK"

func TestInANetworkOfItsOwn(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", self, "-test.run=^TestInside", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=yes")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func ip(tb testing.TB, args ...string) {
	tb.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		tb.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

func TestInside(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("runs in a network namespace, from TestInANetworkOfItsOwn")
	}
	ip(t, "link", "set", "lo", "up")
	ip(t, "addr", "add", "10.99.0.1/32", "dev", "lo")
	ip(t, "route", "add", "unreachable", "10.98.0.0/24")
	ip(t, "route", "add", "blackhole", "10.97.0.0/24")
	n := newNear(t)
	n.options.Contact = 5 * time.Second
	f := makeFar(t, n.key(t, ""))
	f.listen, f.port = "10.99.0.1", 22
	f.start(t)
	b := n.open(t)
	h := b.Probe(t.Context(), bootstrap.Target{Host: "10.99.0.1"})
	if !h.Self || h.Failure() != nil || h.Ready() || h.Key.Fingerprint != "" {
		t.Errorf("this machine is %+v", h)
	}
	has(t, failing(t, b, bootstrap.Target{Host: "10.98.0.7"}, bootstrap.CheckReach).Message, "no route to 10.98.0.7")
	has(t, failing(t, b, bootstrap.Target{Host: "10.96.0.7"}, bootstrap.CheckReach).Message, "no route to 10.96.0.7")
	has(t, failing(t, b, bootstrap.Target{Host: "10.97.0.7"}, bootstrap.CheckReach).Message, "10.97.0.7:22")
}
