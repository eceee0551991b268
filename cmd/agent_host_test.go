package cmd

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// copyBinary puts this program where an operator's side would, and returns the name of its version.
func copyBinary(t *testing.T, home string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	id := "v0.0.0-test-" + hex.EncodeToString(sum[:6])
	dir := filepath.Join(home, "versions", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mlxctl"), data, 0o700); err != nil {
		t.Fatal(err)
	}
	return id
}

// order has the host's side on this machine do something, as an operator with this authority.
func (h *home) order(authority *trust.Authority, o plan.Order, linked func(*plan.Link)) plan.FromHost {
	h.t.Helper()
	cmd := h.command(h.t.Context(), "agent", "host")
	cmd.Path = filepath.Join(h.dir, "versions", o.Version, "mlxctl")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	say := json.NewEncoder(in)
	_ = say.Encode(o) // who does not listen says so by its end
	var m plan.FromHost
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		m = plan.FromHost{}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			h.t.Errorf("line %q: %v", lines.Text(), err)
		}
		switch m.Type {
		case plan.TypeKey:
			jwt, err := authority.SignAgent(m.Key, m.Node)
			if err != nil {
				h.t.Error(err)
			}
			_ = say.Encode(plan.ToHost{Type: plan.TypeCredentials, JWT: jwt})
		case plan.TypeLinked:
			linked(m.Link)
			_ = say.Encode(plan.ToHost{Type: plan.TypeCommit})
		}
	}
	if err := cmd.Wait(); err != nil || m.Type != plan.TypeDone {
		h.t.Fatalf("agent host: %v, last %+v", err, m)
	}
	return m
}

// A real agent is installed, serves a real controller, is left alone by the second run, and goes without a trace.
func TestAgentHost(t *testing.T) {
	t.Parallel()
	h := running(t)
	authority, err := trust.Open(trustDir(h.dir))
	if err != nil {
		t.Fatal(err)
	}
	n := newHome(t, "MLXCTL_CACHE=") // a session over SSH knows nothing of it
	n.dir = filepath.Join(n.dir, "node")
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	n.env = append(n.env, "MLXCTL_HOME="+n.dir)
	o := plan.Order{Action: plan.Install, Operator: "anna", Home: n.dir, Version: copyBinary(t, n.dir), Unit: plan.UnitKeeper}
	o.Settings = plan.Settings{
		Cluster: authority.Name(), ClusterID: authority.ClusterID(), ServerName: authority.ServerName(), URLs: []string{h.nats()},
		CA: string(authority.CAPEM()), Name: "attic",
	}
	if err := os.Symlink(enginetest.CacheDir(t), filepath.Join(n.dir, "cache")); err != nil {
		t.Fatal(err)
	}
	var link *plan.Link
	seen := func(l *plan.Link) {
		link = l
		h.await("the node is ready", func() bool {
			node := h.node(l.Node)
			return node != nil && node.State == cluster.NodeReady && node.Name == "attic"
		})
	}
	first := n.order(authority, o, seen)
	if first.Error != nil || !first.Changed || first.Unit != plan.UnitKeeper {
		t.Fatalf("first: %+v, %+v\n%s", first, first.Error, n.logs())
	}
	pid := link.PID
	second := n.order(authority, o, seen)
	if second.Error != nil || second.Changed || link.PID != pid {
		t.Errorf("second: %+v, pid %d, was %d", second, link.PID, pid)
	}
	o.Action, o.Purge = plan.Uninstall, true
	if last := n.order(authority, o, nil); last.Error != nil {
		t.Errorf("purge: %+v", last.Error)
	}
	if _, err := os.Stat(n.dir); err == nil {
		t.Error("the home is left")
	}
	if left := n.processes(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
