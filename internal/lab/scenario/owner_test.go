package scenario_test

import (
	"strings"
	"testing"
)

// A host belongs to one cluster, as one node: neither a host that lost its identity nor a second cluster makes two of it, and
// who takes something away takes what is its own.
func TestAHostIsOneNodeOfOneCluster(t *testing.T) {
	s := newSite(t, 2, nil)
	s.up(done)
	s.serve(s.Hosts...)
	for _, then := range []struct {
		what string
		run  func(s *site)
	}{
		{"a host that lost its identity is one node", lostIdentity},
		{"another cluster takes a node only where that is said", secondCluster},
	} {
		if !t.Run(then.what, func(t *testing.T) { then.run(s.as(t)) }) {
			t.FailNow()
		}
	}
}

func lostIdentity(s *site) {
	t := s.t
	t.Helper()
	h := s.Hosts[0]
	before, _ := find(s.nodes(), h)
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.on(h, "sh", "-c", "rm ~/.mlxctl/agent/node.json; pkill -x mlxctl")
	s.until("it is down", func() bool { n, _ := find(s.nodes(), h); return n.State == "down" })
	r := s.up(done)
	after, _ := find(s.nodes(), h) // nodes fails where two have one name
	if after.ID == before.ID || !strings.Contains(r.out+r.err, "as "+before.ID+" it is out of the list") {
		t.Errorf("it is %s, was %s: %s%s", after.ID, before.ID, r.out, r.err)
	}
	s.serve(s.Hosts...)
	s.must(done, "keys", "rotate", "signing")
}

// second runs mlxctl for another cluster of the same operator.
func (s *site) second(args ...string) result {
	s.t.Helper()
	return s.on(s.Operator, append([]string{"env", "MLXCTL_HOME=" + s.Operator.Home() + "/second", "mlxctl"}, args...)...)
}

func secondCluster(s *site) {
	t := s.t
	t.Helper()
	says := func(what string, r result, code int, words ...string) {
		t.Helper()
		for _, w := range words {
			if r.code != code || !strings.Contains(r.out+r.err, w) {
				t.Errorf("%s: %d, want %d and %q\n%s\n%s", what, r.code, code, w, r.out, r.err)
			}
		}
	}
	one, other := s.Hosts[0], s.Hosts[1]
	address := other.IP().String()
	says("up of a second", s.second("up", "--yes"), done, "1 node serves", "is a node of another cluster")
	s.serve(s.Hosts...)
	says("taken over", s.second("up", address, "--yes", "--take-over"), done, "2 nodes serve")
	says("up of the first", s.mlxctl("up", "--yes"), partial, "is a node of another cluster", "nodes rm")
	says("doctor of the first", s.mlxctl("doctor"), failed, "is a node of another cluster")
	says("down of the first", s.mlxctl("down", "--purge", "--yes"), done, "left as it is: it is a node of another cluster", "stopped and purged")
	s.idle(one)
	if len(other.PIDs("current/mlxctl", "agent")) == 0 {
		t.Errorf("%s has no agent any more", other.Name)
	}
	says("it serves the second", s.second("run", "tiny", "--node", other.Name, "-n", prompt), done, answer)
	says("down of the second", s.second("down", "--purge", "--yes"), done, "stopped and purged")
	s.idle(s.Hosts...)
	for _, h := range s.Hosts {
		if r := s.on(h, "sh", "-c", "ls -d ~/.mlxctl 2>/dev/null"); r.out != "" {
			t.Errorf("%s keeps %q", h.Name, r.out)
		}
	}
}
